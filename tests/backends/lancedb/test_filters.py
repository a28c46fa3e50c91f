"""Filters through indexes, updates, and all sizes of numbers and of lists of ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("lancedb", reason="lancedb is not installed: pip install 'mrl-retrieval[lancedb]'")


from mrl_adapters._lancedb import upkeep
from mrl_adapters.lancedb import LanceDBBackend
from mrl_retrieval.documents import Row
from mrl_retrieval.filters import IdIn, matches, parse_filter
from mrl_retrieval.matryoshka import prefix
from mrl_retrieval.scoring import exact_search
from tests.backends.lancedb.helpers import COARSE, batch, newest_table, rows, vectors


class TestFilters:
    def test_indexed_filters_are_exact_through_updates(
        self, memory: LanceDBBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Some rows in the index, some not yet, some replaced or removed since."""
        monkeypatch.setattr(upkeep, "_SCALARS_FROM", 1)
        rng = np.random.default_rng(4)
        truth: dict[str, dict[str, Any]] = {}
        asked = [
            {"t": "a"}, {"t": {"$ne": "a"}}, {"t": {"$in": ["a", "b"]}}, {"t": {"$exists": False}}, {"n": {"$gt": 50}},
            {"$not": {"n": {"$gt": 50}}}, {"l": {"$contains": 1}}, {"l": {"$all": []}}, {"l": {"$is_empty": True}},
            {"$or": [{"t": "c"}, {"n": {"$lte": 3}}]}, {"$and": [{"t": {"$nin": ["c"]}}, {"l": {"$any": [2, 3]}}]},
        ]  # fmt: skip
        for step in range(12):
            ids = [f"r{i}" for i in rng.choice(150, size=40, replace=False)]
            new = {id: {"n": int(rng.integers(100)), "l": [int(x) for x in rng.integers(4, size=2)]} for id in ids}
            for id in ids[:30]:
                new[id]["t"] = str(rng.choice(["a", "b", "c"]))
            for id in ids[:4]:
                new[id]["l"] = []
            memory.upsert(batch([Row(id, None, m, v) for (id, m), v in zip(new.items(), vectors(40), strict=True)]))
            truth |= new
            gone = [f"r{i}" for i in rng.choice(150, size=8)]
            assert memory.delete(gone) == len(truth.keys() & set(gone))
            truth = {id: m for id, m in truth.items() if id not in gone}
            if step % 4 == 1:
                memory.flush()
            for given_filter in asked:
                tree = parse_filter(given_filter)
                expected = {id for id, m in truth.items() if matches(tree, id, m)}
                assert {id for part in memory.scan(tree) for id in part.ids} == expected
                found = memory.coarse_search(vectors(1, dim=COARSE), 1000, tree)[0].ids
                assert sorted(found) == sorted(expected)
        assert {found.name for found in newest_table(memory).list_indices()} == {"terms_idx", "key_idx"}
        assert memory.count() == len(truth)

    def test_integers_are_ordered_exactly(self, memory: LanceDBBackend) -> None:
        numbers = [
            2**53 - 1,
            2**53,
            2**53 + 1,
            2**63 - 1,
            -(2**63),
            -(2**63) + 1,
            float(2**53),
            0,
            -0.0,
            1e300,
            -1e-300,
        ]
        memory.upsert(batch([Row(f"r{i}", None, {"n": n}, None) for i, n in enumerate(numbers)]))
        for operand in [*numbers, 2**53 + 0.5, 2**63]:
            for op, expected in {
                "$gt": sum(n > operand for n in numbers),
                "$gte": sum(n >= operand for n in numbers),
                "$lt": sum(n < operand for n in numbers),
                "$lte": sum(n <= operand for n in numbers),
            }.items():
                tree = parse_filter({"n": {op: operand}})
                assert tree is not None and memory.can_filter(tree)
                assert memory.count(tree) == expected

    def test_long_lists_of_ids(self, memory: LanceDBBackend) -> None:
        memory.upsert(batch([*rows(3000), Row("bare", None, {}, None)]))
        full = np.array([row.vector for row in rows(3000)])
        for step in (3, 7):
            allowed = [f"id{i}" for i in range(0, 3000, step)]
            tree = IdIn(frozenset([*allowed, "bare", "unknown"]))
            query = prefix(vectors(2, seed=9), COARSE)
            got = memory.coarse_search(query, 50, tree)
            kept = [int(id[2:]) for id in allowed]
            for found, (ids, scores) in zip(
                got, exact_search(query, prefix(full[kept], COARSE), allowed, 50), strict=True
            ):
                assert found.ids == ids
                np.testing.assert_allclose(found.scores, scores, atol=1e-6)
            assert memory.count(tree) == len(allowed) + 1
            assert sum(len(part) for part in memory.scan(tree, batch_size=100)) == len(allowed) + 1
            assert len(memory.coarse_search(query, 5000, tree)[0].ids) == len(allowed)
