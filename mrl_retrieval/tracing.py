"""What a search with ``explain=True`` tells: of each query, what every stage did; of each hit, its rank in every stage.

Whoever runs the stages hands an :class:`Explanation` what each of them kept and dropped. Ranks, the score of the last
survivor and the margin to the first one dropped are worked out here, so that they mean the same on every backend.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .scoring import rank

if TYPE_CHECKING:
    from .backend import Backend
    from .filters import Filter
    from .two_stage import Ranking

__all__ = ["Explanation", "Laps", "Seen", "StageTrace", "Trace", "with_counts"]


@dataclass(frozen=True, slots=True)
class StageTrace:
    """What one stage did for one query."""

    name: str
    """``"coarse"``, ``"rerank"``, ``"exact"`` or ``"reranker"``."""
    dims: int | None
    """Components that were scored; None for a reranker, which reads texts."""
    candidates_in: int | None
    """Rows that it chose from: for the first stage all with a vector that the filter lets through; None: not known."""
    candidates_out: int
    """Rows that it kept."""
    seconds: float
    """Of the whole batch of queries, which go through a stage together."""
    bytes_read: int | None = None
    """Bytes of vectors read, as they are stored or as a database sent them: by the first stage for the whole batch, by
    the others for this query; 0 where an earlier stage had brought them. None: the index does not tell."""
    last_score: float | None = None
    """Score of the last one kept; None: nothing was."""
    margin: float | None = None
    """``last_score`` less the score of the first one dropped. None: none was dropped, or it is not known. Below 0 where
    an approximate index dropped something better."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What each stage of a search did for one query."""

    stages: tuple[StageTrace, ...]
    queries: int = 1
    """How many queries the batch had."""

    @property
    def seconds(self) -> float:
        """Of all stages, and of the whole batch."""
        return sum(stage.seconds for stage in self.stages)


@dataclass(frozen=True, slots=True)
class Seen:
    """One query in one stage."""

    ids: list[str]
    """Those kept, best first."""
    last_score: float | None
    dropped: float | None
    """Score of the best one dropped; None: none was, or it is not known."""
    candidates_in: int | None
    bytes_read: int | None

    @classmethod
    def scored(
        cls, scores: npt.NDArray[np.floating], ids: Sequence[str], limit: int, bytes_read: int | None = None
    ) -> Seen:
        """Of a stage that scored all its candidates, and keeps ``limit``."""
        order = rank(scores, ids)
        kept = order[:limit]
        dropped = float(scores[order[limit]]) if len(order) > limit else None
        last = float(scores[kept[-1]]) if len(kept) else None
        return cls([ids[i] for i in kept], last, dropped, len(ids), bytes_read)

    @classmethod
    def found(
        cls,
        scores: npt.NDArray[np.floating],
        ids: Sequence[str],
        dropped: float | None,
        candidates_in: int | None = None,
        bytes_read: int | None = None,
    ) -> Seen:
        """Of a stage in which an index found these; ``dropped`` is the score of the next one, where that is known."""
        order = rank(scores, ids)
        last = float(scores[order[-1]]) if len(order) else None
        return cls([ids[i] for i in order], last, dropped, candidates_in, bytes_read)


class Explanation:
    """Collects what the stages of one search did."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._stages: list[tuple[str, int, float, Sequence[Seen]]] = []

    def lap(self) -> float:
        """Seconds since the last stage was told of, or since the beginning."""
        return time.perf_counter() - self._since

    def tell(self, name: str, dims: int, seconds: float, seen: Sequence[Seen]) -> None:
        """What a stage did, for each query."""
        self._stages.append((name, dims, seconds, seen))
        self._since = time.perf_counter()

    def sign(self, rankings: Sequence[Ranking]) -> list[Ranking]:
        """The rankings with their traces and the ranks of their rows."""
        return [self._signed(ranking, q, len(rankings)) for q, ranking in enumerate(rankings)]

    def _signed(self, ranking: Ranking, q: int, queries: int) -> Ranking:
        stages, places = [], []
        for name, dims, seconds, each in self._stages:
            seen = each[q]
            margin = None if seen.dropped is None or seen.last_score is None else seen.last_score - seen.dropped
            stages.append(
                StageTrace(
                    name, dims, seen.candidates_in, len(seen.ids), seconds, seen.bytes_read, seen.last_score, margin
                )
            )
            places.append({id: i for i, id in enumerate(seen.ids, start=1)})
        ranks = [tuple(place[row.id] for place in places) for row in ranking.rows]
        return replace(ranking, trace=Trace(tuple(stages), queries), ranks=ranks)


class Laps:
    """Only the times and counts of the stages of a search that explains nothing: what they cost nothing to know."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._stages: list[tuple[str, int, float, Sequence[int] | None, Sequence[int]]] = []

    def lap(self, name: str, dims: int, came: Sequence[int] | None, kept: Sequence[int]) -> None:
        """A stage is done; ``came`` and ``kept`` count the candidates of each query."""
        now = time.perf_counter()
        self._stages.append((name, dims, now - self._since, came, kept))
        self._since = now

    def sign(self, rankings: Sequence[Ranking]) -> list[Ranking]:
        """The rankings with their traces."""
        return [replace(ranking, trace=self._trace(q, len(rankings))) for q, ranking in enumerate(rankings)]

    def _trace(self, q: int, queries: int) -> Trace:
        stages = (
            StageTrace(name, dims, None if came is None else came[q], kept[q], seconds)
            for name, dims, seconds, came, kept in self._stages
        )
        return Trace(tuple(stages), queries)


def with_counts(rankings: list[Ranking], backend: Backend, filter: Filter | None) -> list[Ranking]:
    """The rankings, their first stages with how many rows stood for choice, where the search did not tell."""
    if all(r.trace is None or not r.trace.stages or r.trace.stages[0].candidates_in is not None for r in rankings):
        return rankings
    stats = backend.stats()
    count: int | None = stats.vectors
    if filter is not None:  # rows without a vector may match, too, and nobody counts these apart
        count = backend.count(filter) if stats.vectors == stats.rows else None
    return [_with_count(ranking, count) for ranking in rankings]


def _with_count(ranking: Ranking, count: int | None) -> Ranking:
    if ranking.trace is None or not ranking.trace.stages:
        return ranking
    first, *rest = ranking.trace.stages
    return replace(ranking, trace=replace(ranking.trace, stages=(replace(first, candidates_in=count), *rest)))
