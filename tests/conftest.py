"""Fixtures for the whole suite."""

from tests.servers import chroma_server

__all__ = ["chroma_server"]
