"""Rows come back as given, in every kind of place, and nothing of an old one is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("chromadb", reason="chromadb is not installed: pip install 'mrl-retrieval[chroma]'")

from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import (
    FilterError,
)
from mrl_retrieval.filters import IdIn, parse_filter
from mrl_retrieval.matryoshka import prefix
from tests.backends.chroma.helpers import by_id, made, rows, same, vectors
from tests.backends.common import COARSE, batch_of


def test_metadata_documents_and_vectors_come_back_as_given(opener: Callable[[], str]) -> None:
    v = vectors(1)[0]
    odd = {
        "": 1, "dotted.key": [1, 1.0, True, None, {"a": []}], "ünï\n\"'\\": {"deep": {"er": {}}}, "none": None,
        "big": 2**63 - 1, "small": -(2**63), "float": 1.0, "zero": -0.0, "tiny": 5e-324, "true": True, "empty": [],
        "_terms": "mine", "_json": "{", "_slot": 7, "n:i": "no number", "chroma:document": "x", "#id": 1, "$eq": 2,
        "nul": "a\x00b", "long": "x" * 10_000, "😀": "民主主義",
    }  # fmt: skip
    stored = [
        Row("plain", "text", {}, v),
        Row("ünï 😀\n", "", odd, v),
        Row("0:plain", None, {"a": {"b": 1}}, v),
        Row("no vector", "text", odd, None),
        Row("nothing", None, {}, None),
        Row("x" * 3000, "nul \x00 in it", {"i": 1}, v),
    ]
    with made(opener()) as backend:
        backend.upsert(batch_of(stored))
        ids = [row.id for row in stored]
        got = backend.get([*ids, "unknown", ids[0]], vectors=True)
        assert got[len(ids)] is None
        assert same(got[-1], stored[0])
        assert all(same(a, b) for a, b in zip(got, stored, strict=False))
        assert all(same(by_id(backend, vectors=True)[row.id], row) for row in stored)


def test_reindexing_leaves_nothing_of_the_old_row(opener: Callable[[], str]) -> None:
    v = vectors(3)
    with made(opener()) as backend:
        backend.upsert(batch_of([Row("a", "old", {"n": 5, "s": "x", "l": [1], "d": {"n": 7}}, v[0])]))
        backend.upsert(batch_of([Row("a", None, {"n": "five"}, v[1])]))
        assert same(backend.get(["a"], vectors=True)[0], Row("a", None, {"n": "five"}, v[1]))
        for old in [{"s": "x"}, {"l": {"$contains": 1}}, {"d.n": {"$gt": 0}}, {"s": {"$exists": True}}]:
            assert backend.count(parse_filter(old)) == 0
        with pytest.raises(FilterError, match="'five'"):
            backend.count(parse_filter({"n": {"$gt": 0}}))
        backend.upsert(batch_of([Row("a", "new", {"m": 1}, None)]))
        assert same(backend.get(["a"], vectors=True)[0], Row("a", "new", {"m": 1}, None))
        assert backend.coarse_search(v[:1, :COARSE], 5, None)[0].ids == []
        backend.upsert(batch_of([Row("a", "newest", {"n": 5.5}, v[2])]))
        assert same(backend.get(["a"], vectors=True)[0], Row("a", "newest", {"n": 5.5}, v[2]))
        assert backend.count() == 1
        assert backend.count(parse_filter({"n": {"$gt": 5}})) == 1
        assert backend.delete(["a", "unknown", "a"]) == 1
        assert backend.get(["a"]) == [None]
        assert backend.count() == 0


def test_rows_without_a_vector_are_counted_and_filtered_but_never_found(opener: Callable[[], str]) -> None:
    stored = [replace(row, vector=None) if row.metadata["third"] == 0 else row for row in rows(60)]
    with made(opener()) as backend:
        backend.upsert(batch_of(stored))
        assert (backend.count(), backend.stats().rows, backend.stats().vectors) == (60, 60, 40)
        assert backend.count(parse_filter({"third": 0})) == 20
        assert backend.count(parse_filter({"third": {"$ne": 1}})) == 40
        query = prefix(vectors(1, seed=2), COARSE)
        for filter in (None, parse_filter({"i": {"$gte": 0}}), IdIn(frozenset(r.id for r in stored))):
            found = backend.coarse_search(query, 100, filter)[0].ids
            assert sorted(found) == sorted(row.id for row in stored if row.vector is not None)
        assert backend.coarse_search(query, 100, parse_filter({"third": 0}))[0].ids == []


def test_more_rows_than_one_call_to_chroma_takes(opener: Callable[[], str]) -> None:
    n = 6000
    full = vectors(n)
    big = RowBatch([f"id{i}" for i in range(n)], [None] * n, [{"i": i} for i in range(n)], full, np.ones(n, bool))
    with made(opener()) as backend:
        backend.upsert(big)
        ids = [f"id{i}" for i in range(n)]
        assert backend.count() == n
        got, found = backend.fetch_vectors([*reversed(ids), "unknown"])
        assert found[:-1].all() and not found[-1]
        assert (got[:-1][::-1] == full).all()
        allowed = frozenset(ids[::2]) | {f"unknown{i}" for i in range(40_000)}
        query = prefix(vectors(1, seed=9), COARSE)
        assert sorted(backend.coarse_search(query, n, IdIn(allowed))[0].ids) == sorted(ids[::2])
        assert backend.count(IdIn(allowed)) == n // 2
        assert sorted(backend.coarse_search(query, n, None)[0].ids) == sorted(ids)
        assert backend.delete(ids) == n
