"""The shipped suite on the ``milvus`` backend: Milvus Lite in a folder and as a server, and a live Milvus server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from mrl_retrieval.registry import open_backend
from mrl_retrieval.testing import BackendConformance
from mrl_retrieval.testing.filter_suite import FilterSuite
from tests.places import drop_all

pytest.importorskip("milvus_lite", reason="milvus-lite is not installed: pip install 'mrl-retrieval[milvus]'")

from mrl_adapters._milvus import entities as _milvus_entities
from mrl_adapters._milvus.collections import Collections

MILVUS_URL = os.environ.get("MRL_MILVUS_URL")


class TestMilvusFolder(BackendConformance):
    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        return f"milvus:{tmp_path}/kb"


@pytest.mark.slow
class TestMilvusGraph(TestMilvusFolder):
    """Everything is moved to disk, and into the graph, before it is searched."""

    options: ClassVar[dict[str, str]] = {"index_type": "HNSW"}

    @pytest.fixture(autouse=True)
    def _on_disk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_milvus_entities, "_FLUSH_AT", 1)


@pytest.mark.slow
class TestMilvusListedTerms(FilterSuite):
    """The layout that servers other than Milvus Lite get: terms as an array."""

    @pytest.fixture
    def address(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setattr(Collections, "_listed_terms", lambda self: True)
        return f"milvus:{tmp_path}/kb"


class TestMilvusLiteServer(BackendConformance):
    @pytest.fixture
    def address(self, milvus_server: str) -> Iterator[str]:
        place = f"milvus+{milvus_server}"
        yield place
        drop_all(place)


@pytest.fixture(scope="session")
def empty_milvus() -> str:
    """The server under ``MRL_MILVUS_URL``. The suite drops what it finds, so it must find nothing of anybody else's."""
    assert MILVUS_URL is not None
    with open_backend(f"milvus+{MILVUS_URL}") as backend:
        found = backend.collections()
    if found:
        pytest.fail(f"MRL_MILVUS_URL must name a server without collections of ours; this one holds {found[:5]}")
    return MILVUS_URL


@pytest.mark.skipif(not MILVUS_URL, reason="MRL_MILVUS_URL names no Milvus server")
class TestMilvusServer(BackendConformance):
    @pytest.fixture
    def address(self, empty_milvus: str) -> Iterator[str]:
        place = f"milvus+{empty_milvus}"
        yield place
        drop_all(place)
