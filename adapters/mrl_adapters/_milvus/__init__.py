"""The parts of the Milvus backend."""
