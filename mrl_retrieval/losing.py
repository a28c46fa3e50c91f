"""How it is found out why a search did not find a document; what is told of it is in ``why_not.py``.

Ranks are counted by exact scores over the stored vectors, ties in the order of ids, as :mod:`mrl_retrieval.scoring`
has it. For the first stage that is a pass over all rows that the filter lets through, a batch at a time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .backend import Backend
from .documents import SearchResult
from .filters import Filter, matches
from .matryoshka import FloatArray, normalize, prefix
from .reranking.stage import Reranking
from .scoring import rank
from .searching import PreparedSearch
from .two_stage import SearchRequest
from .why_not import WhyNot

__all__ = ["after_reranking", "find_why_not"]


def find_why_not(backend: Backend, search: PreparedSearch, query: FloatArray, id: str) -> WhyNot:
    """What becomes of a row in a search.

    Args:
        backend: holds the rows.
        search: as it was asked for.
        query: ``(1, dim)`` full vectors, turned as the stored ones are.
        id: of the row.

    Raises:
        FilterError: as the search does.
    """
    request = search.request(backend, query)
    filter = backend.resolve_filter(request.filter)
    (ranking,) = backend.search(request)
    for place, (row, score) in enumerate(zip(ranking.rows, ranking.scores.tolist(), strict=True), start=1):
        if row.id == id:
            return WhyNot(id, "found", rank=place, score=score, limit=request.k, final_top_k=request.k)
    (found,) = backend.get([id], vectors=True)
    if found is None:
        return WhyNot(id, "unknown")
    if found.vector is None:
        return WhyNot(id, "no vector")
    if request.filter is not None and not matches(request.filter, id, found.metadata):
        return WhyNot(id, "filtered out")
    if request.exact:
        last = float(ranking.scores[-1]) if len(ranking.scores) else None
        return _at_the_end(request, id, "exact", _standing(backend, request, id, found.vector).by_last, last)
    return _in_stages(backend, request, filter, id, found.vector)


def after_reranking(why: WhyNot, reranking: Reranking, found: list[SearchResult], query: str) -> WhyNot:
    """What becomes of it in the stage after the others, whose hits are given; ``why`` is what became of it there."""
    k, cap = reranking.k, reranking.cap
    if why.verdict == "lost" and why.top_k is not None:  # beyond the hits that this stage was given
        return _unread(why, why.rank or 0, cap, k)
    if why.verdict != "found":
        return replace(why, final_top_k=None if why.final_top_k is None else k, rank_then=None)
    (result,) = reranking.applied(found, [query], len(found[0]))
    at = next((i for i, hit in enumerate(result, start=1) if hit.id == why.id), None)
    if at is None:  # deleted since
        return WhyNot(why.id, "unknown")
    if at <= k:
        return replace(why, rank=at, limit=k, final_top_k=k)
    if why.rank is not None and why.rank > cap:
        return _unread(why, why.rank, cap, k)
    own, last = result[at - 1].rerank_score, result[k - 1].rerank_score
    return WhyNot(why.id, "lost", "reranker", None, at, k, own, last, top_k=at, final_top_k=k)


def _unread(why: WhyNot, at: int, cap: int, k: int) -> WhyNot:
    return WhyNot(why.id, "lost", "reranker", None, at, cap, rerank_top_k=at, final_top_k=k)


class _Place(NamedTuple):
    """Rank and score in one stage."""

    rank: int
    score: float


class _Standing(NamedTuple):
    """Places among all rows."""

    by_first: _Place
    by_last: _Place
    then: int
    """Rank by full vectors among the rows that are not below it in the first stage."""


def _in_stages(backend: Backend, request: SearchRequest, filter: Filter | None, id: str, vector: FloatArray) -> WhyNot:
    first, *rest = request.stages
    query = request.vectors[0]
    (coarse,) = backend.coarse_search(prefix(request.vectors, first.dims), first.limit, filter)
    vectors, there = backend.fetch_vectors(coarse.ids) if coarse.ids else (vector[None][:0], np.empty(0, np.bool_))
    ids, vectors = [each for each, is_there in zip(coarse.ids, there, strict=True) if is_there], vectors[there]
    if id not in ids:
        last = float(_cosines(query, vectors, first.dims).min()) if ids else None
        return _lost_at_first(backend, request, id, vector, last)
    for stage in rest:
        scores = _cosines(query, vectors, stage.dims)
        order = rank(scores, ids)
        place = next(i for i, at in enumerate(order.tolist(), start=1) if ids[at] == id)
        own, last = float(scores[order[place - 1]]), float(scores[order[min(stage.limit, len(ids)) - 1]])
        if stage is rest[-1]:
            return _at_the_end(request, id, "rerank", _Place(place, own), last)
        if place > stage.limit:
            return WhyNot(
                id, "lost", "rerank", stage.dims, place, stage.limit, own, last,
                stage_limit=place, final_top_k=request.k, approximate=backend.capabilities.approximate_coarse,
            )  # fmt: skip
        ids, vectors = [ids[at] for at in order[: stage.limit]], vectors[order[: stage.limit]]
    raise AssertionError("a search has a stage after the first")


def _lost_at_first(backend: Backend, request: SearchRequest, id: str, vector: FloatArray, last: float | None) -> WhyNot:
    first, approximate = request.stages[0], backend.capabilities.approximate_coarse
    place, _, then = _standing(backend, request, id, vector)
    told = WhyNot(
        id, "lost", "coarse", first.dims, place.rank, first.limit, place.score, last,
        final_top_k=request.k, approximate=approximate,
    )  # fmt: skip
    if place.rank <= first.limit:
        if approximate:
            return replace(told, verdict="missed")
        # Of rows that tie, or do so but for rounding, the index kept others: one more, at least.
        return replace(told, rank=first.limit + 1, coarse_top_k=first.limit + 1)
    return replace(told, coarse_top_k=place.rank, rank_then=then if len(request.stages) == 2 else None)


def _at_the_end(request: SearchRequest, id: str, stage: str, place: _Place, last: float | None) -> WhyNot:
    at = max(place.rank, request.k + 1)  # a database rounds otherwise, and ties are ordered by what it rounds to
    dims = request.stages[-1].dims
    return WhyNot(id, "lost", stage, dims, at, request.k, place.score, last, top_k=at, final_top_k=request.k)


def _standing(backend: Backend, request: SearchRequest, id: str, vector: FloatArray) -> _Standing:
    """Count the rows that are before this one: by the first stage, by the last, and by both."""
    query, lengths = request.vectors[0], (request.stages[0].dims, request.stages[-1].dims)
    own = [float(_cosines(query, vector[None], dims)[0]) for dims in lengths]
    before = [0, 0]
    both = 0
    for batch in backend.scan(request.filter, vectors=True, documents=False):
        if batch.vectors is None or not batch.has_vector.any():
            continue
        others = np.array([other != id for other in batch.ids]) & batch.has_vector
        smaller = np.array([other < id for other in batch.ids])
        better = []
        for i, dims in enumerate(lengths):
            scores = _cosines(query, batch.vectors, dims)
            better.append(others & ((scores > own[i]) | ((scores == own[i]) & smaller)))
            before[i] += int(better[i].sum())
        both += int((better[0] & better[1]).sum())
    return _Standing(_Place(before[0] + 1, own[0]), _Place(before[1] + 1, own[1]), both + 1)


def _cosines(query: FloatArray, vectors: FloatArray, dims: int) -> FloatArray:
    """Cosines over the first ``dims`` components, in double precision and rounded once: equal vectors score equally."""
    sides = (normalize(query[None, :dims]), normalize(vectors[:, :dims]))
    (asked,), others = (side.astype(np.float64) for side in sides)
    scores: FloatArray = (others @ asked).astype(np.float32)
    return scores
