"""What each query of a sample should find, by exact search; and how much of it a search has found.

Documents with the same score as the k-th best are all right answers. So a query's recall is the share of its k places
that are filled with documents that score no less than the k-th best does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from ..backend import Backend
from ..confidence import Shares
from ..two_stage import Candidates, ExactSearch
from .samples import QuerySample

__all__ = ["COUNTS", "TruthOfQueries", "shares_of", "true_neighbours"]

COUNTS = npt.NDArray[np.int64]
"""For each query the number of its true neighbours that were found, in 0..k."""

_TIE = 1e-6
"""Scores that differ by less are equal: float32 dot products in another order of summing differ by as much."""
_SLACK = 8
"""Hits beyond the k-th that are asked for at first, to see how far its ties go."""
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class TruthOfQueries:
    """The right answers for each query."""

    k: int
    right: list[frozenset[str]]
    """For each query, ids of all documents that belong to a right answer: k, or more where there are ties."""
    own: list[str] | None

    def found(self, query: int, ids: Sequence[str]) -> int:
        """How many of the k places these ids, best first, fill rightly."""
        own = None if self.own is None else self.own[query]
        places = [id for id in ids if id != own][: self.k]
        return len(self.right[query].intersection(places))

    def places(self, query: int, candidates: Sequence[str]) -> list[int]:
        """Places, from 0, of the first k right answers among candidates in the order of the coarse stage."""
        right = self.right[query]
        return [place for place, id in enumerate(candidates) if id in right][: self.k]


def true_neighbours(backend: Backend, sample: QuerySample, k: int) -> TruthOfQueries:
    """Search exactly for every query."""
    queries = sample.vectors
    right: list[frozenset[str]] = [frozenset()] * len(queries)
    waiting, ask = np.arange(len(queries)), k + _SLACK + (sample.own is not None)
    # Where the database does not score every vector, each call reads them all.
    size = _CHUNK if backend.capabilities.exact_search else max(len(queries), 1)
    while len(waiting):
        unsure = []
        for start in range(0, len(waiting), size):
            part = waiting[start : start + size]
            answers = cast("list[Candidates]", backend.perform(ExactSearch(queries[part], ask, None)))
            for query, answer in zip(part.tolist(), answers, strict=True):
                own = None if sample.own is None else sample.own[query]
                kept = [(id, s) for id, s in zip(answer.ids, answer.scores.tolist(), strict=True) if id != own]
                least = kept[min(k, len(kept)) - 1][1] - _TIE
                right[query] = frozenset(id for id, score in kept if score >= least)
                if len(answer.ids) == ask and kept[-1][1] >= least:
                    unsure.append(query)  # the ties may go on
        waiting, ask = np.array(unsure, dtype=np.intp), 4 * ask
    return TruthOfQueries(k, right, sample.own)


def shares_of(counts: COUNTS, k: int) -> Shares:
    """The recalls of queries that found so many of their k."""
    shares = Shares()
    for found, times in enumerate(np.bincount(counts, minlength=k + 1).tolist()):
        if times:
            shares.add(found / k, times)
    return shares
