"""The shipped suite, run on every backend of ours, each against the real component."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from mrl_retrieval.registry import open_backend
from mrl_retrieval.testing import BackendConformance

QDRANT_URL = os.environ.get("MRL_QDRANT_URL")


def _drop_all(place: str) -> None:
    with open_backend(place) as backend:
        names = backend.collections()
    for name in names:
        with open_backend(f"{place}?collection={name}") as one:
            one.drop()


class TestMemory(BackendConformance):
    @pytest.fixture
    def address(self) -> str:
        return f"memory:{uuid.uuid4().hex}"


class TestFaiss(BackendConformance):
    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        return f"faiss:{tmp_path}/kb"


class TestFaissFloat32(TestFaiss):
    options: ClassVar[dict[str, str]] = {"fine_dtype": "float32"}


class TestChromaInMemory(BackendConformance):
    @pytest.fixture
    def address(self) -> str:
        return "chroma:"


class TestChromaFolder(BackendConformance):
    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        return f"chroma:{tmp_path}/kb"


class TestChromaServer(BackendConformance):
    @pytest.fixture
    def address(self, chroma_server: str) -> Iterator[str]:
        place = f"chroma+{chroma_server}"
        yield place
        _drop_all(place)


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
        _drop_all(place)
