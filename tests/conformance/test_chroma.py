"""The shipped suite on the ``chroma`` backend: in memory, on a folder, and on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mrl_retrieval.testing import BackendConformance
from tests.places import drop_all


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
        drop_all(place)
