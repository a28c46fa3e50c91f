"""The shipped suite on the embedded store, in each type that vectors are stored in."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from mrl_adapters._faiss.row_copies import RowCopies
from mrl_retrieval.storage import Snapshot
from mrl_retrieval.testing import BackendConformance


class TestFaiss(BackendConformance):
    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        return f"faiss:{tmp_path}/kb"


class TestFaissCodes(TestFaiss):
    """With 4-bit codes, which small collections do not get by themselves."""

    @pytest.fixture(autouse=True)
    def codes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mrl_adapters._faiss.choosing._EXACT_ROWS", 0)


class TestFaissLists(TestFaissCodes):
    """With lists, which are made in the background while the tests go on."""

    options: ClassVar[dict[str, str]] = {"index": "ivf"}

    @pytest.fixture(autouse=True)
    def lists(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mrl_adapters._faiss.choosing._LEAST_PER_LIST", 1)
        monkeypatch.setattr("mrl_adapters._faiss.choosing._GROWTH", 1)


class TestFaissHNSW(TestFaiss):
    options: ClassVar[dict[str, str]] = {"index": "hnsw"}


class TestFaissGraph(TestFaissCodes):
    """With a graph as soon as there are enough for one, which is made again whenever something was added."""

    options: ClassVar[dict[str, str]] = {"index": "graph"}

    @pytest.fixture(autouse=True)
    def graph(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("rabitqlib", reason="rabitqlib is not installed: pip install 'mrl-retrieval[graph]'")
        monkeypatch.setattr("mrl_adapters._faiss.graph._HEAD", 0)
        monkeypatch.setattr("mrl_adapters._faiss.graph._WIDEST", 0.3)


class TestFaissRowCopy(TestFaiss):
    """With hits from a copy of the rows, made as soon as it is due, and searches that begin no transaction."""

    options: ClassVar[dict[str, bool]] = {"row_copy": True}

    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def follow(copies: RowCopies, snapshot: Snapshot) -> None:
            if copies._is_due(snapshot, snapshot.state.vectors + 1):
                copies._make()

        monkeypatch.setattr(RowCopies, "follow", follow)


class TestFaissFloat32(TestFaiss):
    options: ClassVar[dict[str, str]] = {"fine_dtype": "float32"}


class TestFaissInt8(TestFaiss):
    options: ClassVar[dict[str, str]] = {"fine_dtype": "int8"}
