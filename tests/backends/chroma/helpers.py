"""Rows, collections, and a Chroma that fails when it is told to."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("chromadb", reason="chromadb is not installed: pip install 'mrl-retrieval[chroma]'")

from mrl_adapters.chroma import ChromaBackend
from mrl_retrieval.documents import Row
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.registry import open_backend
from tests.backends.common import DIM, manifest, queries

__all__ = ["MANIFEST", "Failing", "by_id", "made", "rows", "same", "vectors"]

MANIFEST = manifest()


def vectors(n: int, seed: int = 0, dim: int = DIM) -> FloatArray:
    return queries(n, seed=seed, dim=dim)


def rows(n: int, seed: int = 0) -> list[Row]:
    return [Row(f"id{i}", f"text {i}", {"i": i, "third": i % 3}, v) for i, v in enumerate(vectors(n, seed))]


def by_id(backend: ChromaBackend, **options: Any) -> dict[str, Row]:
    return {row.id: row for part in backend.scan(**options) for row in part.rows()}


def same(a: Row | None, b: Row | None) -> bool:
    if a is None or b is None:
        return a is b
    vectors_equal = (a.vector is None) == (b.vector is None) and (a.vector is None or (a.vector == b.vector).all())
    texts = [json.dumps(row.metadata, sort_keys=True) for row in (a, b)]  # tells 1 from 1.0 and from True
    return a.id == b.id and a.document == b.document and texts[0] == texts[1] and bool(vectors_equal)


def made(address: str, manifest: Manifest = MANIFEST, **options: Any) -> ChromaBackend:
    backend = open_backend(address, **options)
    assert isinstance(backend, ChromaBackend)
    backend.write_manifest(manifest, None)
    return backend


class Failing:
    """A Chroma collection whose ``verb`` raises once, after some calls of it that do not."""

    def __init__(self, collection: Any, verb: str, error: BaseException | None = None, after: int = 0) -> None:
        self._collection, self._verb, self._after = collection, verb, after
        self._error = error or RuntimeError("the disk is full")

    def __getattr__(self, name: str) -> Any:
        if name == self._verb:
            self._after -= 1
        if name == self._verb and self._after < 0:
            self._verb = ""

            def fail(**_: Any) -> None:
                raise self._error

            return fail
        return getattr(self._collection, name)
