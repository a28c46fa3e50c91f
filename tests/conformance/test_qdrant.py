"""The shipped suite on the ``qdrant`` backend: in local mode, and on the server under ``MRL_QDRANT_URL``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mrl_retrieval.testing import BackendConformance
from tests.places import drop_all

QDRANT_URL = os.environ.get("MRL_QDRANT_URL")


class TestQdrantInMemory(BackendConformance):
    @pytest.fixture
    def address(self) -> str:
        return "qdrant:"


class TestQdrantFolder(BackendConformance):
    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        return f"qdrant:{tmp_path}/kb"


@pytest.fixture(scope="session")
def empty_qdrant() -> str:
    """The server under ``MRL_QDRANT_URL``. The suite drops what it finds, so it must find nothing of anybody else's."""
    from qdrant_client import QdrantClient

    assert QDRANT_URL is not None
    client = QdrantClient(url=QDRANT_URL, api_key=os.environ.get("MRL_QDRANT_API_KEY"))
    found = [c.name for c in client.get_collections().collections]
    client.close()
    if found:
        pytest.fail(f"MRL_QDRANT_URL must name an empty server to test on; this one holds {found[:5]}")
    return QDRANT_URL


@pytest.mark.skipif(not QDRANT_URL, reason="MRL_QDRANT_URL names no Qdrant server")
class TestQdrantServer(BackendConformance):
    @pytest.fixture
    def address(self, empty_qdrant: str) -> Iterator[str]:
        place = f"qdrant+{empty_qdrant}"
        yield place
        drop_all(place)
