"""The parts of the FAISS backend."""
