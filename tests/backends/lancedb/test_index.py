"""The index over the prefixes, and searches with and without it."""

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
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.backends.lancedb.helpers import COARSE, DIM, batch, made, newest_table, rows, vectors

INDEXES = [
    {"index": "auto"},
    {"index": "ivf", "coarse_quantization": "scalar", "nprobes": 2},
    {"index": "ivf", "coarse_quantization": "product"},
    {"index": "ivf", "coarse_quantization": "binary"},
    {"index": "hnsw"},
    {"index": "hnsw", "coarse_quantization": "scalar", "num_partitions": 2},
    {"index": "hnsw", "coarse_quantization": "product"},
]


class TestIndex:
    @pytest.mark.parametrize("options", INDEXES, ids=lambda o: "-".join(map(str, o.values())))
    def test_rows_are_found_before_and_after_they_are_indexed(self, options: dict[str, Any]) -> None:
        stored = rows(600)
        with made("lancedb:", index_threshold=400, **options) as backend:
            backend.upsert(batch(stored[:300]))
            assert backend.stats().details["index"] == "flat"
            backend.upsert(batch(stored[300:500]))
            kind = backend.stats().details["index"]
            assert kind.startswith("ivf") and ("hnsw" in kind) == (options["index"] == "hnsw")
            backend.upsert(batch([*stored[500:], Row("bare", "b", {"third": 0}, None)]))
            self.check(backend, stored)
            backend.delete([row.id for row in stored[:100]])
            self.check(backend, stored[100:])
            backend.flush()
            self.check(backend, stored[100:])

    def check(self, backend: LanceDBBackend, stored: list[Row]) -> None:
        full = np.array([row.vector for row in stored])
        ids = [row.id for row in stored]
        queries = vectors(20, seed=8)
        short = prefix(full, COARSE)
        truth = exact_search(prefix(queries, COARSE), short, ids, 30)
        share = []
        for found, (expected, _) in zip(backend.coarse_search(prefix(queries, COARSE), 30, None), truth, strict=True):
            assert len(found.ids) == 30
            share.append(len(set(found.ids) & set(expected)) / 30)
        assert np.mean(share) >= 0.9
        # Scores are those of the stored prefixes, whatever the index holds.
        at = {id: i for i, id in enumerate(ids)}
        np.testing.assert_allclose(
            found.scores, [prefix(queries[-1:], COARSE)[0] @ short[at[id]] for id in found.ids], atol=1e-6
        )
        for tree in (parse_filter({"third": 1}), parse_filter({"i": {"$gte": 590}})):
            expected = {row.id for row in stored if matches(tree, row.id, row.metadata)}
            for limit in (3, 1000):
                got = backend.coarse_search(prefix(queries[:2], COARSE), limit, tree)
                assert [len(found.ids) for found in got] == [min(limit, len(expected))] * 2
                assert all(set(found.ids) <= expected for found in got)
        assert len(backend.coarse_search(prefix(queries[:1], COARSE), 10**9, None)[0].ids) == len(stored)

    def test_an_index_is_made_anew_when_the_collection_has_outgrown_it(self, memory: LanceDBBackend) -> None:
        with made("lancedb:", index="ivf", index_threshold=256) as backend:
            backend.upsert(batch(rows(300)))
            assert upkeep.vector_index(newest_table(backend)) == ("coarse_300", 300)
            backend.upsert(batch(rows(1000, before="more")))
            backend.flush()
            assert upkeep.vector_index(newest_table(backend)) == ("coarse_1300", 1300)

    def test_vectors_are_fetched_in_the_asked_order(self, memory: LanceDBBackend) -> None:
        memory.upsert(batch([*rows(6000), Row("bare", None, {}, None)]))
        asked = ["id7", "nobody", "id7", "bare", *(f"id{i}" for i in reversed(range(6000)))]
        got, found = memory.fetch_vectors(asked)
        full = vectors(6000)
        assert found.tolist() == [True, False, True, False] + [True] * 6000
        assert (got[[0, 2]] == full[7]).all() and not got[[1, 3]].any() and (got[4:] == full[::-1]).all()

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    @pytest.mark.parametrize("queries", [1, 9])
    def test_many_queries_at_once_are_answered_as_each_alone(self, dtype: str, queries: int) -> None:
        """From a few queries on, all vectors are read once instead."""
        with made("lancedb:", index="flat", fine_dtype=dtype) as backend:
            backend.upsert(batch([*rows(9000), Row("bare", None, {}, None)]))
            stored = [row for part in backend.scan(vectors=True) for row in part.rows() if row.vector is not None]
            full, ids = np.array([row.vector for row in stored]), [row.id for row in stored]
            asked = vectors(queries, seed=2)
            asked[0] = 0
            for dims, search in ((COARSE, backend.coarse_search), (DIM, backend.exact_search)):
                for tree in (None, parse_filter({"i": {"$lt": 8500}}), IdIn(frozenset(ids[:5000]))):
                    kept = [i for i, row in enumerate(stored) if matches(tree, row.id, row.metadata)]
                    truth = exact_search(asked, full[kept], [ids[i] for i in kept], 20, dim=dims)
                    for found, (expected, scores) in zip(search(prefix(asked, dims), 20, tree), truth, strict=True):
                        np.testing.assert_allclose(found.scores, scores, atol=2e-6)
                        assert found.ids == expected or not scores.any()

    def test_a_whole_search_equals_the_oracle_where_there_is_no_index(self, memory: LanceDBBackend) -> None:
        stored = rows(300)
        queries = vectors(7, seed=1)
        memory.upsert(batch(stored))
        expected = exact_search(queries, np.array([row.vector for row in stored]), [row.id for row in stored], 10)
        for stages in [(Stage(COARSE, 300), Stage(DIM, 10)), (Stage(DIM, 10),)]:
            for ranking, (ids, scores) in zip(memory.search(SearchRequest(queries, stages)), expected, strict=True):
                assert [row.id for row in ranking.rows] == ids
                np.testing.assert_allclose(ranking.scores, scores, atol=1e-6)
