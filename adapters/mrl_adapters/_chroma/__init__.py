"""The parts of the Chroma backend."""
