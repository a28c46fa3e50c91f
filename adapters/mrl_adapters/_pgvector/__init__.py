"""The parts of the pgvector backend."""
