"""Conformance: what a search tells of itself, held to the exact oracle: counts, ranks, scores, margins, and what was lost.

Where the coarse index is approximate, what is told of it is held to what it found itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from ..backend import Capabilities
from ..documents import Hit, SearchResult
from ..matryoshka import FloatArray
from ..retriever import MatryoshkaRetriever
from ..two_stage import Stage
from .base import SuiteBase, clustered
from .oracle import TOLERANCE, Stored, reference_funnel

N, DIM, COARSE = 300, 32, 8
COARSE_TOLERANCE = 2e-3
"""Some keep prefixes in half precision."""
STAGES = [Stage(COARSE, 60), Stage(16, 25), Stage(DIM, 6)]
FUNNEL = [(COARSE, 60), (16, 25)]
Opener = Callable[..., MatryoshkaRetriever]


class ExplainSuite(SuiteBase):
    """``explain=True`` and ``why_not``."""

    @pytest.fixture
    def told(self, open_retriever: Opener) -> MatryoshkaRetriever:
        """300 clustered vectors of 32 dims, searched at 8, exact copies among them, a third of them marked."""
        retriever = open_retriever(coarse_dims=COARSE)
        vectors = clustered(N, DIM, seed=5)
        vectors[50:56] = vectors[50]
        ids = [f"doc-{i:04d}" for i in range(N)]
        retriever.index([f"text {i}" for i in range(N)], ids, [{"third": i % 3 == 0} for i in range(N)], vectors)
        return retriever

    @pytest.fixture
    def asked(self) -> FloatArray:
        """Unscaled queries, one of them a vector with copies."""
        return np.vstack([clustered(4, DIM, seed=6), clustered(N, DIM, seed=5)[50:51]])

    def test_explain_says_what_each_stage_did(
        self, told: MatryoshkaRetriever, asked: FloatArray, capabilities: Capabilities
    ) -> None:
        stored = Stored(told.backend)
        for query in asked:
            result = told.search_by_vector(query, 6, stages=FUNNEL, explain=True)
            assert [(s.dims, s.candidates_in, s.candidates_out) for s in result.trace.stages] == [
                (COARSE, N, 60), (16, 60, 25), (DIM, 25, 6),
            ]  # fmt: skip
            assert all(s.seconds >= 0 and (s.bytes_read is None or s.bytes_read >= 0) for s in result.trace.stages)
            short = stored.scores(query, COARSE)
            assert [h.coarse_score for h in result] == pytest.approx(
                [short[h.id] for h in result], abs=COARSE_TOLERANCE
            )
            if not capabilities.approximate_coarse:
                _assert_told(result, stored, query, STAGES)
            _assert_last(result, stored.scores(query, DIM))

    def test_explain_changes_no_hit(self, told: MatryoshkaRetriever, asked: FloatArray) -> None:
        for options in ({}, {"stages": FUNNEL}, {"filter": {"third": True}}, {"exact": True}):
            plain = told.search_batch_by_vector(asked, 6, **options)
            explained = told.search_batch_by_vector(asked, 6, explain=True, **options)
            for one, other in zip(plain, explained, strict=True):
                assert one.trace is None and all(hit.ranks is None for hit in one)
                assert [hit.score for hit in one] == pytest.approx([hit.score for hit in other], abs=TOLERANCE)
                assert other.trace.queries == len(asked)
                assert all(len(_ranks(hit)) == len(other.trace.stages) for hit in other)
                assert [_ranks(hit)[-1] for hit in other] == list(range(1, len(other) + 1))

    def test_explain_of_an_exact_search(self, told: MatryoshkaRetriever, asked: FloatArray) -> None:
        stored = Stored(told.backend)
        for query in asked:
            result = told.search_by_vector(query, 6, exact=True, explain=True)
            assert [(s.name, s.candidates_in, s.candidates_out) for s in result.trace.stages] == [("exact", N, 6)]
            _assert_told(result, stored, query, [Stage(DIM, 6)])

    def test_explain_with_a_filter(
        self, told: MatryoshkaRetriever, asked: FloatArray, capabilities: Capabilities
    ) -> None:
        stored = Stored(told.backend, keep=[f"doc-{i:04d}" for i in range(0, N, 3)])
        for query in asked:
            result = told.search_by_vector(query, 6, stages=FUNNEL, filter={"third": True}, explain=True)
            assert [s.candidates_in for s in result.trace.stages] == [N // 3, 60, 25]
            if not capabilities.approximate_coarse:
                _assert_told(result, stored, query, STAGES)

    def test_explain_where_nothing_is_dropped(self, told: MatryoshkaRetriever, asked: FloatArray) -> None:
        result = told.search_by_vector(asked[0], N, coarse_top_k=N, explain=True)
        assert [(s.candidates_out, s.margin) for s in result.trace.stages] == [(N, None), (N, None)]
        nothing = told.search_by_vector(asked[0], 5, filter={"third": "never"}, explain=True)
        assert [(s.candidates_in, s.last_score, s.margin) for s in nothing.trace.stages] == [(0, None, None)] * 2

    def test_why_not_says_where_each_row_was_lost(
        self, told: MatryoshkaRetriever, asked: FloatArray, capabilities: Capabilities
    ) -> None:
        stored = Stored(told.backend)
        for query in asked[:2]:
            kept = [[id for id, _ in reference_funnel(stored, query, STAGES[: i + 1])] for i in range(len(STAGES))]
            true = [_order(stored.scores(query, stage.dims)) for stage in STAGES]
            for id in stored.ids[::7]:
                told_of = told.why_not(query, id, 6, stages=FUNNEL)
                assert told_of.verdict in ("found", "lost", "missed") and id in str(told_of)
                if told_of.stage == "coarse":
                    assert told_of.score == pytest.approx(stored.scores(query, COARSE)[id], abs=TOLERANCE)
                    assert told_of.rank == true[0].index(id) + 1
                if capabilities.approximate_coarse:
                    continue
                where = next((i for i, ids in enumerate(kept) if id not in ids), None)
                assert (told_of.verdict, told_of.stage, told_of.dims) == (
                    ("found", None, None) if where is None else ("lost", *[("coarse", COARSE), ("rerank", 16), ("rerank", DIM)][where])
                )  # fmt: skip

    def test_what_why_not_asks_for_keeps_the_row(
        self, told: MatryoshkaRetriever, asked: FloatArray, capabilities: Capabilities
    ) -> None:
        stored = Stored(told.backend)
        for id in sorted(stored.ids)[1::23]:  # none of the copies
            why = told.why_not(asked[1], id, 6, coarse_top_k=40)
            if why.coarse_top_k is not None and not capabilities.approximate_coarse:
                for more, found in ((0, True), (-1, False)):
                    count = why.coarse_top_k + more
                    result = told.search_by_vector(asked[1], count, coarse_top_k=count, explain=True)
                    assert (id in result.ids) is found
                    if found:
                        assert result.ids.index(id) + 1 == why.rank_then
            elif why.top_k is not None:
                for more, found in ((0, True), (-1, False)):
                    hits = told.search_by_vector(asked[1], why.top_k + more, coarse_top_k=40)
                    assert (id in hits.ids) is found
            else:
                assert why.verdict in ("found", "missed") or capabilities.approximate_coarse

    def test_why_not_of_rows_that_no_search_finds(self, told: MatryoshkaRetriever, asked: FloatArray) -> None:
        told.index(["text alone"], ["bare"], vectors=[None])
        query = asked[0]
        assert told.why_not(query, "bare").verdict == "no vector"
        assert told.why_not(query, "nobody").verdict == "unknown"
        assert told.why_not(query, "doc-0001", filter={"third": True}).verdict == "filtered out"
        best = told.search_by_vector(query, 3)
        assert [(told.why_not(query, hit.id).verdict, told.why_not(query, hit.id).rank) for hit in best] == [
            ("found", 1), ("found", 2), ("found", 3),
        ]  # fmt: skip

    def test_why_not_in_an_exact_search(self, told: MatryoshkaRetriever, asked: FloatArray) -> None:
        order = _order(Stored(told.backend).scores(asked[2], DIM))
        for place in (7, 40, N):
            why = told.why_not(asked[2], order[place - 1], 6, exact=True)
            assert (why.verdict, why.stage, why.rank, why.top_k) == ("lost", "exact", place, place)

    def test_why_not_where_rows_tie(self, told: MatryoshkaRetriever, asked: FloatArray) -> None:
        # Which of them are hits is for the database to choose, and may be another choice with every search.
        found = 0
        for i in range(50, 56):
            why = told.why_not(asked[4], f"doc-{i:04d}", 3, coarse_top_k=N)
            found += why.verdict == "found"
            if why.verdict != "found":
                assert why.verdict == "lost" and why.top_k is not None and 4 <= why.top_k <= 6
                assert why.lost_by == pytest.approx(0, abs=TOLERANCE)
        assert found < 6


def _ranks(hit: Hit) -> tuple[int, ...]:
    assert hit.ranks is not None
    return hit.ranks


def _order(scores: Mapping[str, float]) -> list[str]:
    return sorted(scores, key=lambda name: (-scores[name], name))


def _assert_told(result: SearchResult, stored: Stored, query: FloatArray, stages: list[Stage]) -> None:
    """Hold last scores, margins and ranks to a funnel whose every stage is exact."""
    before = list(stored.scores(query, stages[0].dims))
    for i, (stage, told) in enumerate(zip(stages, result.trace.stages, strict=True)):
        tolerance = TOLERANCE if stage.dims == DIM else COARSE_TOLERANCE
        true = stored.scores(query, stage.dims)
        order = _order({id: true[id] for id in before})
        last, first_dropped = true[order[stage.limit - 1]], true[order[stage.limit]]
        assert told.last_score == pytest.approx(last, abs=tolerance)
        assert told.margin == pytest.approx(last - first_dropped, abs=2 * tolerance)
        for hit in result:
            rank = _ranks(hit)[i]
            assert true[order[rank - 1]] == pytest.approx(true[hit.id], abs=tolerance), f"{hit.id} has rank {rank}"
        assert len({_ranks(hit)[i] for hit in result}) == len(result)
        before = order[: stage.limit]


def _assert_last(result: SearchResult, truth: Mapping[str, float]) -> None:
    """Hold what is told of the last stage to the hits."""
    last: Any = result.trace.stages[-1]
    assert last.last_score == pytest.approx(result[-1].score, abs=TOLERANCE)
    assert last.margin is not None and last.margin > -TOLERANCE
    assert all(abs(hit.score - truth[hit.id]) < TOLERANCE for hit in result)
