"""What a search costs, by a short timing of the real backend: one query at a time, as users ask."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..backend import Backend
from ..matryoshka import FloatArray
from ..two_stage import SearchRequest, Stage

__all__ = ["Costs", "timed"]

_ANCHORS = 6
_REPEATS = 15
_FLAT_REPEATS = 5
_SECONDS = 1.0
"""After which no more repeats are made, of two stages and of exact search each."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of one search, by the number of candidates."""

    candidates: tuple[int, ...]
    """Rising."""
    seconds: tuple[float, ...]
    """Never falling."""
    flat: float
    """Of an exact search."""

    def at(self, candidates: int) -> float:
        """Between what was timed: on the straight line."""
        return float(np.interp(candidates, self.candidates, self.seconds))

    def most_below(self, seconds: float, least: int, most: int) -> int | None:
        """The most candidates in ``least..most`` that cost no more; None: even the least do."""
        if self.at(least) > seconds:
            return None
        while least < most:
            middle = (least + most + 1) // 2
            least, most = (middle, most) if self.at(middle) <= seconds else (least, middle - 1)
        return least

    def steps(self, least: int, most: int, ratio: float) -> list[int]:
        """Candidates from ``most`` down to ``least``, each at most ``1 / ratio`` as costly as the one before.

        Each is the most that are. So where more candidates find more, the last that reach a target cost at most
        ``ratio`` times as much as the fewest that do.
        """
        steps, now = [most], most
        while now > least:
            bound = self.at(now) / ratio
            below = self.most_below(bound, least, now - 1)
            now = least if below is None else below
            steps.append(now)
        return steps


def timed(backend: Backend, queries: FloatArray, k: int, least: int, most: int) -> Costs:
    """Search for some of the queries ``(Q, fine_dims)``, with several numbers of candidates in turn, and exactly."""
    manifest = backend.manifest
    last = Stage(manifest.fine_dims, k)
    anchors = sorted({round(c) for c in np.geomspace(least, most, _ANCHORS)})
    funnels = [(Stage(manifest.coarse_dims, c), last) for c in anchors]
    two_stages = _medians(backend, queries, funnels, _REPEATS)
    (flat,) = _medians(backend, queries, [(last,)], _FLAT_REPEATS)
    rising = np.maximum.accumulate(two_stages).tolist()
    return Costs(tuple(anchors), tuple(rising), flat)


def _medians(backend: Backend, queries: FloatArray, settings: Sequence[tuple[Stage, ...]], repeats: int) -> list[float]:
    """Each setting in turn for each query, so that what disturbs the machine disturbs all of them."""
    taken: list[list[float]] = []
    for stages in settings:
        backend.search(SearchRequest(queries[:1], stages))  # caches, connections
    clock: Callable[[], float] = time.perf_counter
    began = clock()
    for repeat in range(repeats):
        query = queries[repeat % len(queries)][None]
        row = []
        for stages in settings:
            start = clock()
            backend.search(SearchRequest(query, stages))
            row.append(clock() - start)
        taken.append(row)
        if clock() - began > _SECONDS and len(taken) > 1:
            break
    return [float(value) for value in np.median(np.array(taken), axis=0)]
