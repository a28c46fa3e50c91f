"""The stages after the coarse one: positions of candidates in, rankings with their rows out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mrl_retrieval.documents import Row
from mrl_retrieval.errors import CorruptionError
from mrl_retrieval.filters import Filter, matches
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.parallel import spread
from mrl_retrieval.scoring import rank
from mrl_retrieval.two_stage import Candidates, Ranking, SearchRequest, StageTrace

from .database import RESTORE
from .scan import best_of
from .segments import PositionArray
from .snapshot import Snapshot, all_decoded
from .stored_cosines import best_stored, stored_cosines

__all__ = ["Near", "Reranker", "candidates", "ranking"]

_Scored = tuple[PositionArray, FloatArray, FloatArray | None]
"""Positions, scores, and coarse scores if there are any: (n,) each."""

_NO_SCORES: FloatArray = np.empty(0, dtype=np.float32)
_NOTHING: _Scored = (np.empty(0, dtype=np.int64), _NO_SCORES, None)


# Threads take about as long to start as one of them needs for so many queries.
_WORTH_THREADS = 16


class Near(NamedTuple):
    """The candidates of several queries."""

    numbers: PositionArray
    """(Q, n) numbers of vectors."""
    counts: PositionArray
    """(Q,) how many of each query's count, the first ones."""

    def of(self, q: int) -> PositionArray:
        """The candidates of one query."""
        return self.numbers[q, : self.counts[q]]

    @classmethod
    def full(cls, numbers: PositionArray) -> Near:
        """Candidates that all count."""
        return cls(numbers, np.full(len(numbers), numbers.shape[1], dtype=np.int64))

    @classmethod
    def stacked(cls, parts: Sequence[tuple[PositionArray, PositionArray]]) -> Near:
        """Those of some queries after those of others."""
        counts = np.concatenate([counts for _, counts in parts])
        numbers = np.zeros((len(counts), max(part.shape[1] for part, _ in parts)), dtype=np.int64)
        start = 0
        for part, _ in parts:
            numbers[start : start + len(part), : part.shape[1]] = part
            start += len(part)
        return cls(numbers, counts)

    @classmethod
    def joined(cls, each: Sequence[PositionArray]) -> Near:
        """The candidates of each query, as many as there are."""
        counts = np.array([len(numbers) for numbers in each], dtype=np.int64)
        joined = np.zeros((len(each), int(counts.max(initial=0))), dtype=np.int64)
        for row, numbers in zip(joined, each, strict=True):
            row[: len(numbers)] = numbers
        return cls(joined, counts)


class Reranker:
    """Rescores the candidates of the queries of one request, and keeps count."""

    def __init__(self, request: SearchRequest, snapshot: Snapshot) -> None:
        self._request = request
        self._snapshot = snapshot
        self._stages = request.stages[1:]
        shape = (len(request.vectors), len(self._stages))
        self._scored = np.zeros(shape, dtype=np.int64)
        self._kept = np.zeros(shape, dtype=np.int64)
        self._seconds = np.zeros(shape)

    def rankings(self, near: Near, coarse_scores: Sequence[FloatArray] | None) -> list[Ranking]:
        """For each query the ranking of its candidates, whose coarse scores are given too, (n,) each, if there are any.

        Raises:
            CorruptionError: a vector or a row is not as it was written.
        """
        best: list[_Scored] = [_NOTHING] * len(near.counts)
        request, fine = self._request, self._snapshot.fine

        def score(start: int, stop: int) -> None:
            for q in range(start, stop):
                best[q] = self._best(q, near.of(q), None if coarse_scores is None else coarse_scores[q])

        def score_together(start: int, stop: int) -> None:
            part = near.numbers[start:stop], near.counts[start:stop], request.vectors[start:stop]
            best[start:stop] = [(*found, None) for found in best_stored(fine, *part, request.k)]

        together = len(self._stages) == 1 and coarse_scores is None and not request.explain
        spread(len(best), score_together if together else score, least=_WORTH_THREADS)
        return [ranking(self._snapshot, *found, request.k, request.filter) for found in best]

    def _best(self, q: int, positions: PositionArray, coarse_scores: FloatArray | None) -> _Scored:
        scores = _NO_SCORES
        for i, stage in enumerate(self._stages):
            started = time.perf_counter()
            scores = stored_cosines(self._snapshot.fine, positions, self._request.vectors[q], stage.dims)
            last = i == len(self._stages) - 1
            # Ties are kept together in the last stage, where ids decide; before it any of them will do.
            chosen = best_of(scores, stage.limit) if last else _first(scores, stage.limit)
            self._scored[q, i] = len(scores)
            self._kept[q, i] = min(len(chosen), stage.limit)
            if len(chosen) < len(scores):
                positions, scores = positions[chosen], scores[chosen]
                coarse_scores = None if coarse_scores is None else coarse_scores[chosen]
            self._seconds[q, i] = time.perf_counter() - started
        return positions, scores, coarse_scores

    def traces(self) -> tuple[StageTrace, ...]:
        """What each stage did for all queries together; seconds of several threads add up."""
        counts = zip(
            self._stages,
            self._scored.sum(axis=0).tolist(),
            self._kept.sum(axis=0).tolist(),
            self._seconds.sum(axis=0).tolist(),
            strict=True,
        )
        return tuple(StageTrace("rerank", stage.dims, scored, kept, seconds) for stage, scored, kept, seconds in counts)


def ranking(
    snapshot: Snapshot,
    positions: PositionArray,
    scores: FloatArray,
    coarse_scores: FloatArray | None,
    k: int,
    filter: Filter | None,
) -> Ranking:
    """The best ``k`` of scored positions, with their rows: score descending, then id ascending.

    Raises:
        CorruptionError: a row is not as it was written, does not match ``filter``, or comes twice.
    """
    if len(positions) > k:
        best = rank(scores, snapshot.ids(positions), k)
        positions, scores = positions[best], scores[best]
        coarse_scores = None if coarse_scores is None else coarse_scores[best]
    numbers = positions.tolist()
    # In plain Python: for so few rows arrays would take longer.
    score_of = dict(zip(numbers, scores.tolist(), strict=True))
    ranked = [(-score_of[row[0]], row[1], row) for row in snapshot.stored(numbers)]
    ranked.sort()
    metadatas = all_decoded([row[3] for _, _, row in ranked])
    rows = [Row(id, row[2], metadata) for (_, id, row), metadata in zip(ranked, metadatas, strict=True)]
    if len({id for _, id, _ in ranked}) != len(ranked):
        raise CorruptionError(f"the database holds an id twice, expected it once: {RESTORE}")
    if filter is not None and not all(matches(filter, row.id, row.metadata) for row in rows):
        raise CorruptionError(f"the filter index names a row that does not match, expected those that do: {RESTORE}")
    best_scores = np.array([-opposite for opposite, _, _ in ranked], dtype=np.float32)
    if coarse_scores is None:
        return Ranking(rows, best_scores)
    coarse_of = dict(zip(numbers, coarse_scores.tolist(), strict=True))
    return Ranking(rows, best_scores, np.array([coarse_of[row[0]] for _, _, row in ranked], dtype=np.float32))


def candidates(snapshot: Snapshot, positions: PositionArray, scores: FloatArray, limit: int) -> Candidates:
    """The best ``limit`` of scored positions as ids, best first."""
    ids = snapshot.ids(positions)
    order = rank(scores, ids, limit)
    return Candidates([ids[i] for i in order], scores[order])


def _first(scores: FloatArray, limit: int) -> PositionArray:
    if limit >= len(scores):
        return np.arange(len(scores))
    return np.argpartition(-scores, limit - 1)[:limit]
