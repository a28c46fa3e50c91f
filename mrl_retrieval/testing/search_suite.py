"""Conformance: what a search returns, held to the exact oracle."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ..backend import Capabilities
from ..metrics import coverage
from ..retriever import MatryoshkaRetriever
from ..two_stage import Stage
from .base import SuiteBase, clustered
from .oracle import Stored, assert_matches_truth, assert_same_hits, reference_funnel

N, DIM, COARSE = 400, 32, 8
Opener = Callable[..., MatryoshkaRetriever]


def _ids(n: int) -> list[str]:
    return [f"doc-{i:04d}" for i in range(n)]


class SearchSuite(SuiteBase):
    """Searches."""

    @pytest.fixture
    def filled(self, open_retriever: Opener) -> MatryoshkaRetriever:
        """400 clustered vectors of 32 dims, searched at 8, among them exact copies."""
        retriever = open_retriever(coarse_dims=COARSE)
        vectors = clustered(N, DIM)
        vectors[50:56] = vectors[50]
        vectors[60:64] = vectors[60] * 7.0
        retriever.index([f"text {i}" for i in range(N)], _ids(N), [{"i": i} for i in range(N)], vectors)
        return retriever

    @pytest.fixture
    def queries(self) -> Any:
        """Unscaled queries, near the data; one is a stored vector that has copies."""
        made = clustered(12, DIM, seed=1) + 0.0
        made[:6] = clustered(N, DIM)[[3, 50, 60, 99, 200, 399]]
        return made

    def test_exact_search_is_the_oracle(self, filled: MatryoshkaRetriever, queries: Any) -> None:
        stored = Stored(filled.backend)
        for query in queries:
            result = filled.search_by_vector(query, 15, exact=True)
            assert_matches_truth(result, stored.scores(query, DIM), 15)
            assert result.certificate == "exact" and result.certificate.dims == DIM

    def test_all_candidates_make_two_stages_exact(self, filled: MatryoshkaRetriever, queries: Any) -> None:
        stored = Stored(filled.backend)
        for query in queries:
            result = filled.search_by_vector(query, 15, coarse_top_k=N)
            assert_matches_truth(result, stored.scores(query, DIM), 15)
            assert result.certificate == "candidates"

    def test_few_candidates_give_the_two_stage_answer(
        self, filled: MatryoshkaRetriever, queries: Any, capabilities: Capabilities
    ) -> None:
        stored = Stored(filled.backend)
        shares = []
        for query in queries:
            result = filled.search_by_vector(query, 10, coarse_top_k=40)
            expected = reference_funnel(stored, query, [Stage(COARSE, 40), Stage(DIM, 10)])
            if not capabilities.approximate_coarse:
                assert_same_hits(result, expected)
            truth = stored.scores(query, DIM)
            assert all(abs(hit.score - truth[hit.id]) < 2e-5 for hit in result)
            shares.append(coverage(result.ids, [id for id, _ in expected], 10))
        assert np.mean(shares) >= 0.95

    def test_a_funnel_gives_the_funnels_answer(
        self, filled: MatryoshkaRetriever, queries: Any, capabilities: Capabilities
    ) -> None:
        stored = Stored(filled.backend)
        for funnel in ([(COARSE, 120), (16, 30)], [(COARSE, N), (12, 200), (24, 50)]):
            stages = [*(Stage(*pair) for pair in funnel), Stage(DIM, 10)]
            shares = []
            for query in queries:
                result = filled.search_by_vector(query, 10, stages=funnel)
                expected = reference_funnel(stored, query, stages)
                shares.append(coverage(result.ids, [id for id, _ in expected], 10))
                if not capabilities.approximate_coarse:
                    assert_same_hits(result, expected)
            assert np.mean(shares) >= 0.95

    def test_a_funnel_given_at_creation(self, open_retriever: Opener, queries: Any) -> None:
        retriever = open_retriever(stages=[(COARSE, N), (16, 100)])
        retriever.index([None] * N, _ids(N), vectors=clustered(N, DIM))
        stored = Stored(retriever.backend)
        for query in queries:
            expected = reference_funnel(stored, query, [Stage(COARSE, N), Stage(16, 100), Stage(DIM, 10)])
            assert_same_hits(retriever.search_by_vector(query), expected)

    def test_a_funnel_of_all_rows_is_exact(self, filled: MatryoshkaRetriever, queries: Any) -> None:
        stored = Stored(filled.backend)
        for query in queries:
            result = filled.search_by_vector(query, 10, stages=[(COARSE, N), (16, N)])
            assert_matches_truth(result, stored.scores(query, DIM), 10)

    def test_fine_dims_cut_what_is_stored(self, open_retriever: Opener, queries: Any) -> None:
        retriever = open_retriever(coarse_dims=COARSE, fine_dims=20)
        vectors = clustered(100, DIM)
        retriever.index([None] * 100, _ids(100), vectors=vectors)
        stored = Stored(retriever.backend)
        assert stored.vectors.shape == (100, 20)
        for query in queries:
            for exact in (False, True):
                result = retriever.search_by_vector(query, 10, coarse_top_k=100, exact=exact)
                assert_matches_truth(result, stored.scores(query[:20], 20), 10)

    def test_ties_are_ordered_by_id(self, open_retriever: Opener) -> None:
        retriever = open_retriever(coarse_dims=2)
        names = ["b", "a", "d", "c", "ä", "Z", "10", "9"]
        vectors = np.tile(np.array([[1.0, 2.0, 3.0]], np.float32), (8, 1))
        retriever.index([None] * 9, [*names, "far"], vectors=np.vstack([vectors, [[-1, -2, -3]]]))
        for exact in (False, True):
            result = retriever.search_by_vector([2.0, 4.0, 6.0], 8, exact=exact)
            assert result.ids == sorted(names)
            assert np.allclose([hit.score for hit in result], 1.0, atol=2e-3)
            assert len(set(retriever.search_by_vector([1.0, 2.0, 3.0], 3, exact=exact).ids) & set(names)) == 3

    @pytest.mark.parametrize("k", [N - 1, N, N + 1, 5_000])
    def test_more_hits_than_rows(self, filled: MatryoshkaRetriever, queries: Any, k: int) -> None:
        truth = Stored(filled.backend).scores(queries[0], DIM)
        for exact in (False, True):
            assert_matches_truth(filled.search_by_vector(queries[0], k, exact=exact), truth, k)

    def test_absurdly_many_hits_cost_nothing(self, filled: MatryoshkaRetriever, queries: Any) -> None:
        for many in (10**8, 10**20):
            for options in ({}, {"filter": {"i": {"$gte": 0}}}, {"filter": {"i": {"$ne": "x"}}}, {"exact": True}):
                assert len(filled.search_by_vector(queries[0], many, **options)) == N
            assert len(filled.search_by_vector(queries[0], 10, coarse_top_k=many)) == 10
            assert len(filled.search_by_vector(queries[0], 10, stages=[(COARSE, many), (16, many)])) == 10

    def test_one_row(self, open_retriever: Opener) -> None:
        retriever = open_retriever()
        retriever.index(["only"], ["x"], vectors=[[0.0, -3.0]])
        assert [tuple(hit) for hit in retriever.search_by_vector([0.0, -1.0])] == [("x", pytest.approx(1.0), "only")]

    def test_six_dims_with_default_coarse_dims(self, open_retriever: Opener) -> None:
        retriever = open_retriever()
        vectors = clustered(50, 6)
        retriever.index([str(i) for i in range(50)], range(50), vectors=vectors)
        manifest = retriever.manifest
        assert manifest is not None and (manifest.dim, manifest.coarse_dims, manifest.fine_dims) == (6, 6, 6)
        stored = Stored(retriever.backend)
        for query in clustered(5, 6, seed=4):
            assert_matches_truth(retriever.search_by_vector(query), stored.scores(query, 6), 10)

    def test_zero_vectors_score_zero(self, open_retriever: Opener) -> None:
        retriever = open_retriever(coarse_dims=2)
        vectors = np.array([[0, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [-1, 0, 0, 0]], np.float32)
        retriever.index(["zero", "late", "plus", "minus"], ["z", "l", "p", "m"], vectors=vectors)
        for exact in (False, True):
            result = retriever.search_by_vector([1.0, 0, 0, 0], exact=exact)
            assert [hit.id for hit in result] == ["p", "l", "z", "m"]
            assert [hit.score for hit in result] == pytest.approx([1, 0, 0, -1], abs=1e-6)
            nothing = retriever.search_by_vector([0.0, 0, 0, 0], exact=exact)
            assert [hit.id for hit in nothing] == ["l", "m", "p", "z"]
            assert [hit.score for hit in nothing] == [0, 0, 0, 0]

    def test_scale_does_not_matter(self, open_retriever: Opener) -> None:
        retriever = open_retriever(coarse_dims=4)
        base = clustered(40, 12)
        base /= np.linalg.norm(base, axis=1, keepdims=True)
        scales = np.float32(10.0) ** np.linspace(-25, 25, 40, dtype=np.float32)[:, None]
        retriever.index([None] * 40, _ids(40), vectors=base * scales)
        stored = Stored(retriever.backend)
        for scale in (1e-30, 1.0, 1e30):
            result = retriever.search_by_vector(base[7] * np.float32(scale), 5)
            assert_matches_truth(result, stored.scores(base[7], 12), 5)
            assert result[0].id == "doc-0007"

    def test_a_batch_is_its_single_searches(self, filled: MatryoshkaRetriever, queries: Any) -> None:
        singles = [filled.search_by_vector(query, 7) for query in queries]
        batch = filled.search_batch_by_vector(queries, 7)
        assert [r.ids for r in batch] == [r.ids for r in singles]
        for one, other in zip(batch, singles, strict=True):
            assert [h.score for h in one] == pytest.approx([h.score for h in other], abs=1e-6)
            assert [(h.document, h.metadata) for h in one] == [(h.document, h.metadata) for h in other]
        assert filled.search_batch_by_vector(np.empty((0, DIM))) == []

    def test_hits_belong_to_the_caller(self, filled: MatryoshkaRetriever, queries: Any) -> None:
        hit = filled.search_by_vector(queries[0], 1)[0]
        assert hit.document == f"text {int(hit.id[4:])}" and hit.metadata == {"i": int(hit.id[4:])}
        hit.metadata["i"] = "changed"
        again = filled.search_by_vector(queries[0], 1)[0]
        assert again.metadata == {"i": int(hit.id[4:])}

    def test_input_is_not_changed(self, open_retriever: Opener) -> None:
        retriever = open_retriever(coarse_dims=2)
        vectors = clustered(5, 4)
        before, metadatas, ids = vectors.copy(), [{"a": [1, {"b": 2}]} for _ in range(5)], _ids(5)
        retriever.index([None] * 5, ids, metadatas, vectors)
        query = vectors[0] * 3
        kept = query.copy()
        condition = {"a": {"$contains": 1}}
        assert len(retriever.search_by_vector(query, filter=condition)) == 5
        assert np.array_equal(vectors, before) and np.array_equal(query, kept)
        assert metadatas == [{"a": [1, {"b": 2}]}] * 5 and ids == _ids(5) and condition == {"a": {"$contains": 1}}

    def test_searches_while_rows_come_and_go(self, filled: MatryoshkaRetriever, queries: Any) -> None:
        """Nothing raises, and what was never touched is always found."""
        stop = threading.Event()
        failures: list[BaseException] = []
        fixed = {f"doc-{i:04d}" for i in range(50, 56)}  # copies of the query's own vector

        def look() -> None:
            try:
                while not stop.is_set():
                    assert fixed <= set(filled.search_by_vector(queries[1], 30, coarse_top_k=2 * N).ids)
            except BaseException as error:  # noqa: BLE001  (reported by the main thread)
                failures.append(error)

        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for round in range(6):
                names = [f"new-{round}-{i}" for i in range(20)]
                filled.index(["new"] * 20, names, vectors=clustered(20, DIM, seed=round + 9))
                filled.index(["again"], ["doc-0100"], vectors=clustered(1, DIM, seed=round))
                assert filled.delete(names) == 20
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]
        assert filled.count() == N
