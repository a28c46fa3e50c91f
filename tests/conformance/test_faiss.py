"""The shipped suite on the embedded store, in each type that vectors are stored in."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from mrl_retrieval.testing import BackendConformance


class TestFaiss(BackendConformance):
    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        return f"faiss:{tmp_path}/kb"


class TestFaissFloat32(TestFaiss):
    options: ClassVar[dict[str, str]] = {"fine_dtype": "float32"}


class TestFaissInt8(TestFaiss):
    options: ClassVar[dict[str, str]] = {"fine_dtype": "int8"}
