"""What the tests of the ``milvus`` backend share."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mrl_retrieval.documents import Row
from mrl_retrieval.filters import parse_filter
from mrl_retrieval.matryoshka import FloatArray
from tests.backends.common import manifest, queries

if TYPE_CHECKING:
    from mrl_adapters.milvus import MilvusBackend

Opener = Callable[..., "MilvusBackend"]

COARSE = 8
MANIFEST = manifest(coarse_dims=COARSE)


def vectors(n: int, seed: int = 0) -> FloatArray:
    return queries(n, seed=seed)


def rows(n: int, start: int = 0, seed: int = 0, **metadata: Any) -> list[Row]:
    """Rows ``0``, ``1``, … with their number in the metadata."""
    return [Row(str(i), f"text {i}", {"i": i, **metadata}, vector) for i, vector in enumerate(vectors(n, seed), start)]


def client_of(backend: MilvusBackend) -> Any:
    return backend._connection.client()


def indexed(backend: MilvusBackend, open_at: Opener) -> MilvusBackend:
    """The same, opened again: Milvus Lite builds indexes in the background, and waits for them when it closes."""
    backend.flush()
    backend.close()
    return open_at(search_params=backend._options.search_params)


def ids_of(backend: MilvusBackend, condition: dict[str, Any] | None) -> set[str]:
    return {id for page in backend.scan(parse_filter(condition)) for id in page.ids}


def run(code: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """A process of its own that runs this code, any warning of which is an error."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments], text=True, **options
    )
