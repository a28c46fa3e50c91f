"""Rows and backends for the tests of this folder."""

from __future__ import annotations

from typing import Any

import numpy as np

from mrl_adapters.lancedb import LanceDBBackend
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.registry import open_backend
from tests.backends.common import batch_of, queries

DIM, COARSE = 24, 8
MANIFEST = Manifest(dim=DIM, coarse_dims=COARSE, fine_dims=DIM)


def vectors(n: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    return queries(n, seed=seed, dim=dim)


def batch(rows: list[Row]) -> RowBatch:
    return batch_of(rows, DIM)


def rows(n: int, seed: int = 0, before: str = "id") -> list[Row]:
    return [Row(f"{before}{i}", f"text {i}", {"i": i, "third": i % 3}, v) for i, v in enumerate(vectors(n, seed))]


def made(address: str, manifest: Manifest = MANIFEST, **options: Any) -> LanceDBBackend:
    backend = open_backend(address, **options)
    assert isinstance(backend, LanceDBBackend)
    backend.write_manifest(manifest, None)
    return backend


def newest_table(backend: LanceDBBackend) -> Any:
    return backend._look_up()[1]
