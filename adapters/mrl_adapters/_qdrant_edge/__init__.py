"""The parts of the Qdrant Edge backend."""
