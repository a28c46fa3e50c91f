"""Adapters for vector databases and frameworks; each is found by its entry point."""
