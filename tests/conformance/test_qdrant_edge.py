"""The shipped suite on the ``qdrant-edge`` backend: Qdrant's own engine in this process."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from mrl_retrieval.testing import BackendConformance


class TestQdrantEdgeTemporary(BackendConformance):
    @pytest.fixture
    def address(self) -> str:
        return "qdrant-edge:"


class TestQdrantEdgeFolder(BackendConformance):
    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        return f"qdrant-edge:{tmp_path}/kb"


@pytest.mark.slow
class TestQdrantEdgeQuantized(TestQdrantEdgeFolder):
    options: ClassVar[dict[str, str]] = {"coarse_quantization": "scalar"}
