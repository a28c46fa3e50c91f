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
from mrl_retrieval.tracing import Explanation, Seen
from mrl_retrieval.two_stage import Candidates, Ranking, SearchRequest

from .database import RESTORE
from .scan import best_of
from .segments import PositionArray
from .snapshot import Snapshot, all_decoded
from .stored_cosines import best_stored, stored_cosines

__all__ = ["Near", "Reranker", "Scored", "candidates", "explained_ids", "rankings"]

Scored = tuple[PositionArray, FloatArray, FloatArray | None]
"""Positions, scores, and coarse scores if there are any: (n,) each."""

_NO_SCORES: FloatArray = np.empty(0, dtype=np.float32)
_NOTHING: Scored = (np.empty(0, dtype=np.int64), _NO_SCORES, None)


# Threads take about as long to start as one of them needs for so many queries.
_WORTH_THREADS = 16

_TOGETHER = 256
"""Queries whose rows are read at once."""


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
        count, width = numbers.shape
        return cls(numbers, np.array([width] * count, dtype=np.int64))  # of one query in half the time of np.full

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
    """Rescores the candidates of the queries of one request; of one that asks for it, keeps what each stage did."""

    def __init__(self, request: SearchRequest, snapshot: Snapshot) -> None:
        self._request = request
        self._snapshot = snapshot
        self._stages = request.stages[1:]
        self._seen: list[list[tuple[Seen, float]]] = [[] for _ in request.vectors] if request.explain else []

    def rankings(self, near: Near, coarse_scores: Sequence[FloatArray] | None) -> list[Ranking]:
        """For each query the ranking of its candidates, whose coarse scores are given too, (n,) each, if there are any.

        Raises:
            CorruptionError: a vector or a row is not as it was written.
        """
        best: list[Scored] = [_NOTHING] * len(near.counts)
        request, fine = self._request, self._snapshot.fine

        def score(start: int, stop: int) -> None:
            for q in range(start, stop):
                best[q] = self._best(q, near.of(q), None if coarse_scores is None else coarse_scores[q])

        def score_together(start: int, stop: int) -> None:
            part = near.numbers[start:stop], near.counts[start:stop], request.vectors[start:stop]
            best[start:stop] = [(*found, None) for found in best_stored(fine, *part, request.k)]

        together = len(self._stages) == 1 and coarse_scores is None and not request.explain
        work = score_together if together else score
        if len(best) == 1 or self._seen:  # what is kept of each stage asks the database, which is one thread's
            work(0, len(best))
        else:
            spread(len(best), work, least=_WORTH_THREADS)
        return rankings(self._snapshot, best, request.k, request.filter)

    def _best(self, q: int, positions: PositionArray, coarse_scores: FloatArray | None) -> Scored:
        scores = _NO_SCORES
        for i, stage in enumerate(self._stages):
            started = time.perf_counter()
            scores = stored_cosines(self._snapshot.fine, positions, self._request.vectors[q], stage.dims)
            last = i == len(self._stages) - 1
            # Ties are kept together in the last stage, where ids decide; before it any of them will do.
            chosen = best_of(scores, stage.limit) if last else _first(scores, stage.limit)
            if self._seen:
                seconds = time.perf_counter() - started
                chosen = self._see(q, positions, scores, stage.limit, seconds)
            if len(chosen) < len(scores):
                positions, scores = positions[chosen], scores[chosen]
                coarse_scores = None if coarse_scores is None else coarse_scores[chosen]
        return positions, scores, coarse_scores

    def _see(self, q: int, positions: PositionArray, scores: FloatArray, limit: int, seconds: float) -> PositionArray:
        """Keep what a stage did. Returns its choice with ties in the order of ids, as ranks are told."""
        ids = explained_ids(self._snapshot, positions)
        read = len(positions) * self._snapshot.fine.layout.row_bytes
        self._seen[q].append((Seen.scored(scores, ids, limit, read), seconds))
        return rank(scores, ids, limit)

    def tell(self, told: Explanation) -> None:
        """What each stage did, of a request that asks for it."""
        for stage, each in zip(self._stages, zip(*self._seen, strict=True), strict=True):
            told.tell("rerank", stage.dims, sum(seconds for _, seconds in each), [seen for seen, _ in each])


def explained_ids(snapshot: Snapshot, positions: PositionArray) -> list[str]:
    """Ids of candidates, without asking the database where they are at hand."""
    return snapshot.texts(positions).ids if snapshot.has_all_texts() else snapshot.ids(positions)


def rankings(snapshot: Snapshot, scored: Sequence[Scored], k: int, filter: Filter | None) -> list[Ranking]:
    """Of the scored positions of each query the best ``k``, with their rows: score descending, then id ascending.

    Raises:
        CorruptionError: a row is not as it was written, does not match ``filter``, or comes twice.
    """
    found: list[Ranking] = []
    for start in range(0, len(scored), _TOGETHER):
        best = [each if len(each[0]) <= k else _best_of_ties(snapshot, each, k) for each in scored[start:][:_TOGETHER]]
        texts = snapshot.texts(best[0][0] if len(best) == 1 else np.concatenate([each[0] for each in best]))
        rows = list(map(Row, *texts[:2], all_decoded(texts.metadatas)))
        if filter is not None and not all(matches(filter, row.id, row.metadata) for row in rows):
            raise CorruptionError(
                f"the filter index names a row that does not match, expected those that do: {RESTORE}"
            )
        end = 0
        for _, scores, coarse_scores in best:
            begin, end = end, end + len(scores)
            found.append(_ranking(rows[begin:end], texts.ids[begin:end], scores, coarse_scores))
    return found


def _best_of_ties(snapshot: Snapshot, scored: Scored, k: int) -> Scored:
    positions, scores, coarse_scores = scored
    best = rank(scores, snapshot.ids(positions), k)
    return positions[best], scores[best], None if coarse_scores is None else coarse_scores[best]


def _ranking(rows: list[Row], ids: list[str], scores: FloatArray, coarse_scores: FloatArray | None) -> Ranking:
    if len(set(ids)) != len(ids):
        raise CorruptionError(f"the database holds an id twice, expected it once: {RESTORE}")
    # In plain Python: for so few rows arrays would take longer.
    ranked = sorted(zip((-scores).tolist(), ids, range(len(ids)), strict=True))
    order = [i for _, _, i in ranked]
    return Ranking([rows[i] for i in order], scores[order], None if coarse_scores is None else coarse_scores[order])


def candidates(snapshot: Snapshot, positions: PositionArray, scores: FloatArray, limit: int) -> Candidates:
    """The best ``limit`` of scored positions as ids, best first."""
    ids = snapshot.ids(positions)
    order = rank(scores, ids, limit)
    return Candidates([ids[i] for i in order], scores[order])


def _first(scores: FloatArray, limit: int) -> PositionArray:
    if limit >= len(scores):
        return np.arange(len(scores))
    return np.argpartition(-scores, limit - 1)[:limit]
