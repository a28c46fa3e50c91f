"""A ``milvus`` backend in a folder, and a way to open more, all closed afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mrl_retrieval.registry import open_backend
from tests.backends.milvus.helpers import MANIFEST, Opener

if TYPE_CHECKING:
    from mrl_adapters.milvus import MilvusBackend


@pytest.fixture
def open_at(tmp_path: Path) -> Iterator[Opener]:
    opened: list[Any] = []

    def open_one(address: str | None = None, **options: Any) -> Any:
        one = open_backend(address or f"milvus:{tmp_path}/kb", **options)
        opened.append(one)
        return one

    yield open_one
    for one in opened:
        one.close()


@pytest.fixture
def backend(open_at: Opener) -> MilvusBackend:
    one = open_at()
    one.write_manifest(MANIFEST, None)
    return one
