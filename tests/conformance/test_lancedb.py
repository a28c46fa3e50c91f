"""The shipped suite on the ``lancedb`` backend: in memory, in a folder, and with each kind of index."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from mrl_retrieval.testing import BackendConformance

pytest.importorskip("lancedb", reason="lancedb is not installed: pip install 'mrl-retrieval[lancedb]'")


class TestLanceDBInMemory(BackendConformance):
    options: ClassVar[dict[str, Any]] = {"index": "flat"}

    @pytest.fixture
    def address(self) -> str:
        return "lancedb:"


class TestLanceDBFolder(BackendConformance):
    options: ClassVar[dict[str, Any]] = {"index": "flat"}

    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        return f"lancedb:{tmp_path}/kb"


class TestLanceDBFloat16(TestLanceDBFolder):
    options: ClassVar[dict[str, Any]] = {"index": "flat", "fine_dtype": "float16"}


@pytest.mark.slow
class TestLanceDBDefaults(TestLanceDBFolder):
    options: ClassVar[dict[str, Any]] = {}


class TestLanceDBInverted(TestLanceDBFolder):
    options: ClassVar[dict[str, Any]] = {"index": "ivf", "index_threshold": 256, "num_partitions": 8, "nprobes": 3}


@pytest.mark.slow
class TestLanceDBProduct(TestLanceDBFolder):
    options: ClassVar[dict[str, Any]] = {"index": "ivf", "coarse_quantization": "product", "index_threshold": 256}


@pytest.mark.slow
class TestLanceDBGraph(TestLanceDBFolder):
    options: ClassVar[dict[str, Any]] = {"index": "hnsw", "coarse_quantization": "scalar", "index_threshold": 256}
