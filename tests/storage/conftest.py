"""A store, and rows to put into it, for the tests of this folder."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrl_retrieval.documents import RowBatch
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import normalize
from mrl_retrieval.storage import CollectionFiles, Store
from tests.storage.repairing import IDS

DIM = 16


def vector_of(name: str, dim: int = DIM) -> np.ndarray:
    """A unit vector that follows from a name, in any process."""
    seed = int.from_bytes(name.encode()[-8:].rjust(8, b"\0"), "little")
    return normalize(np.random.default_rng(seed).normal(size=(1, dim)).astype(np.float32))[0]


def batch_of(
    *names: str, dim: int = DIM, bare: tuple[str, ...] = (), metadatas: list[dict[str, Any]] | None = None
) -> RowBatch:
    vectors = np.stack([vector_of(name, dim) for name in names]) if names else np.empty((0, dim), np.float32)
    has_vector = np.array([name not in bare for name in names], dtype=np.bool_)
    vectors[~has_vector] = 0
    return RowBatch(
        list(names), [f"text of {n}" for n in names], metadatas or [{"name": n} for n in names], vectors, has_vector
    )


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(dim=DIM, coarse_dims=8, fine_dims=DIM)


@pytest.fixture
def batch() -> Callable[..., RowBatch]:
    return batch_of


@pytest.fixture
def vector() -> Callable[..., np.ndarray]:
    return vector_of


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Callable[..., Store]]:
    opened: list[Store] = []

    def open_one(**options: Any) -> Store:
        opened.append(Store(options.pop("path", tmp_path / "kb"), options.pop("collection", "default"), **options))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[..., Store], manifest: Manifest) -> Store:
    made = open_store()
    made.write_manifest(manifest, None)
    return made


@pytest.fixture
def filled(open_store: Callable[..., Store], manifest: Manifest, batch: Callable[..., RowBatch]) -> CollectionFiles:
    """The files of a closed collection with segments of ten rows, one of them without a vector."""
    store = open_store(segment_bytes=10 * 32)
    store.write_manifest(manifest, None)
    store.upsert(batch(*IDS, bare=("n4",), metadatas=[{"name": id, "n": i} for i, id in enumerate(IDS)]))
    store.close()
    return store.files
