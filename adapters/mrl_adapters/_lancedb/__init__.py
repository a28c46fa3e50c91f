"""The parts of the LanceDB backend."""
