"""Fixtures for the whole suite, and the check that it skips what it is known to skip."""

import pytest

from tests.milvus_server import milvus_server
from tests.places import new_place
from tests.postgres_server import postgres
from tests.servers import chroma_server
from tests.skips import SkipCheck

__all__ = ["chroma_server", "milvus_server", "new_place", "postgres", "pytest_configure"]


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(SkipCheck(config), "skip-check")
