"""Collections of both Qdrant backends, as their tests begin with them, and what is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mrl_adapters._qdrant.search import QdrantSearch
from mrl_adapters.qdrant import QdrantBackend
from mrl_retrieval.registry import open_backend
from mrl_retrieval.two_stage import Stage
from tests.backends.common import COARSE, DIM, batch_of, manifest, random_rows
from tests.qdrant_server import QdrantServer

__all__ = ["BACKENDS", "FUNNEL", "TWO_STAGES", "connect", "counted", "filled"]

BACKENDS = ["qdrant", "qdrant-edge"]
FUNNEL = (12,)
TWO_STAGES = (Stage(COARSE, 200), Stage(DIM, 5))


@contextmanager
def filled(address: str = "qdrant:", n: int = 0, **options: Any) -> Iterator[Any]:
    """A collection, made if there is none, with ``n`` random rows."""
    with open_backend(address, **options) as backend:
        _make(backend, n)
        yield backend


def connect(server: QdrantServer, n: int = 0, **options: Any) -> QdrantBackend:
    """The same on a server."""
    backend = open_backend(f"qdrant+{server.url}", timeout=10, **options)
    assert isinstance(backend, QdrantBackend)
    _make(backend, n)
    return backend


def _make(backend: Any, n: int) -> None:
    assert isinstance(backend, QdrantSearch)
    if backend.read_manifest() is None:
        backend.write_manifest(manifest(FUNNEL), None)
    if n:
        backend.upsert(batch_of(random_rows(n)))


def counted(backend: Any) -> list[str]:
    """What the backend asks of Qdrant from now on, a name for each request."""
    doing: list[str] = []
    run = backend._run

    def noting(what: str, action: Callable[[Any], Any]) -> Any:
        doing.append(what)
        return run(what, action)

    backend._run = noting
    return doing
