"""What the tests of several backends begin with: rows, queries and manifests, all from seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mrl_retrieval.backend import Backend
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import FloatArray, normalize

__all__ = ["COARSE", "DIM", "batch_of", "contents", "leaves_nothing_behind", "manifest", "queries", "random_rows"]

DIM, COARSE = 24, 6


def batch_of(rows: list[Row], dim: int = DIM) -> RowBatch:
    """Rows as a backend is given them."""
    matrix = np.zeros((len(rows), dim), dtype=np.float32)
    for i, row in enumerate(rows):
        if row.vector is not None:
            matrix[i] = row.vector
    return RowBatch(
        [r.id for r in rows],
        [r.document for r in rows],
        [r.metadata for r in rows],
        matrix,
        np.array([r.vector is not None for r in rows], dtype=np.bool_),
    )


def contents(backend: Backend, **options: Any) -> dict[str, Row]:
    """By id, every row, or those that ``scan`` finds with these options."""
    return {row.id: row for part in backend.scan(**options) for row in part.rows()}


def random_rows(n: int, *, seed: int = 0, dim: int = DIM) -> list[Row]:
    """Rows ``id-0``, ``id-1``, … with metadata ``n`` and ``third``."""
    vectors = queries(n, seed=seed, dim=dim)
    return [Row(f"id-{i}", f"text {i}", {"n": i, "third": i % 3 == 0}, vectors[i]) for i in range(n)]


def queries(n: int, *, seed: int = 99, dim: int = DIM) -> FloatArray:
    """``(n, dim)`` unit rows."""
    return normalize(np.random.default_rng(seed).standard_normal((n, dim)))


def manifest(funnel: tuple[int, ...] = (), *, dim: int = DIM, coarse_dims: int = COARSE) -> Manifest:
    """A new one; each has another checksum."""
    return Manifest(dim=dim, coarse_dims=coarse_dims, fine_dims=dim, funnel_dims=funnel)


def leaves_nothing_behind(
    backend: Backend, names: Callable[[Any], list[str]], blobs_of: Callable[[Manifest], Any], size: int
) -> None:
    """An attachment that is replaced, an interrupted writing, and a drop, where pieces lie in a collection of their own.

    Args:
        backend: empty.
        names: everything that the database holds.
        blobs_of: where the pieces of a collection are.
        size: bytes that take two pieces; the first attachment is four times as large.
    """
    first = manifest()
    backend.write_manifest(first, None)
    assert len(names(backend)) == 1
    backend.write_attachment("rotation", bytes(4 * size))
    backend.write_attachment("rotation", bytes(size))
    blobs = blobs_of(first)
    assert blobs is not None and len(blobs.keys()) == 3  # a head and two pieces
    blobs.put({"rotation.interrupted.000000": "a"})
    backend.repair()
    assert len(blobs.keys()) == 3 and backend.read_attachment("rotation") == bytes(size)
    assert len(names(backend)) == 2 and backend.collections() == ["default"]
    backend.drop()
    assert names(backend) == []
