"""The exact best k of many documents, most of which are only looked at in a few bits.

1. Every block of codes is read: high halves give each document a score and a margin. Those whose upper bound reaches
   the k-th largest lower bound go on.
2. Their rows are read: the low halves make the margins about ten times as narrow. The same test again.
3. What is left, a few dozen as a rule, is scored from the stored vectors, as any search scores them. These scores are
   the answer; the bounds (:mod:`.bounds`) prove that nobody else belongs to it.

Where the first pass decides too little (an eighth of all documents goes on), it is done again with what the rows of the
likely ones tell; and where it still does, all stored vectors are scored. So they are without numba: NumPy alone reads
codes slower than vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.storage.scan import best_of, cosines

from .bounds import QueryCodes
from .codes import Coder
from .layout import Chunk
from .passes import Mask, PositionArray, Survivors, first_pass, has_kernels, largest, reread

__all__ = ["Answer", "StoredVectors", "score_all", "search"]

_GROUP = 8
"""Queries that share a pass; their codes and the block fit the first cache."""
_LIKELY = 64
_READ = 8192


class StoredVectors(Protocol):
    """The truth; a :class:`~mrl_retrieval.storage.segments.FineView` is one."""

    def gather(self, numbers: PositionArray, /) -> FloatArray:
        """The vectors with these numbers (n,), decoded: ``(n, D)`` float32."""

    def read(self, start: int, stop: int, /) -> FloatArray:
        """The vectors with the numbers ``start`` to ``stop``."""


@dataclass(slots=True)
class Answer:
    """What a search found, and what it took."""

    found: list[tuple[PositionArray, FloatArray]]
    """For each query the numbers and scores of the best k with all that tie with the last, in no order."""
    bytes_read: int = 0
    """Of codes and stored vectors (these as float32), for all queries together."""
    reread: int = 0
    """Documents looked at a second time."""
    rescored: int = 0
    """Documents scored from the stored vectors."""
    undecided: list[int] = field(default_factory=list)
    """Queries for which bounds decided too little, or were not asked, so that every stored vector was scored."""


@dataclass(frozen=True, slots=True)
class _Search:
    """One search: what all its steps need."""

    chunks: list[Chunk]
    codes: QueryCodes
    k: int
    allowed: Mask
    threads: int
    compiled: bool
    answer: Answer

    def candidates(self, group: npt.NDArray[np.intp]) -> list[PositionArray | None]:
        """For each of some queries the places that have to be scored, ascending; None: the bounds decide too little."""
        survivors = self._first(group, None)
        hard = [i for i, left in enumerate(survivors) if not left.whole]
        if hard:
            floors = [largest(np.subtract(*self._likely(int(group[i]), survivors[i])[1:]), self.k) for i in hard]
            for i, left in zip(hard, self._first(group[hard], np.array(floors, dtype=np.float32)), strict=True):
                survivors[i] = left
        return [self._second(int(q), left) if left.whole else None for q, left in zip(group, survivors, strict=True)]

    def _first(self, group: npt.NDArray[np.intp], floors: FloatArray | None) -> list[Survivors]:
        some = self.codes.chosen(group)
        survivors, read = first_pass(
            self.chunks, some, self.k, self.allowed, floors, threads=self.threads, compiled=self.compiled
        )
        self.answer.bytes_read += read
        return survivors

    def _likely(self, q: int, left: Survivors) -> tuple[npt.NDArray[np.intp], FloatArray, FloatArray]:
        """Which of the survivors are likely the best, and their better scores and margins."""
        count, order = max(4 * self.k, _LIKELY), np.arange(len(left.places))
        if len(order) > count:
            order = np.sort(np.argpartition(-left.scores, count)[:count])
        return order, *self._reread(q, left, order)

    def _second(self, q: int, left: Survivors) -> PositionArray:
        """The places that may still be among the best once their rows were read."""
        some, scores, margins = self._likely(q, left)
        # The likely ones tell what the others have to reach.
        others = left.scores + left.margins >= largest(scores - margins, self.k)
        others[some] = False
        rest = np.flatnonzero(others)
        more, more_margins = self._reread(q, left, rest)
        places = left.places[np.concatenate([some, rest])]
        scores, margins = np.concatenate([scores, more]), np.concatenate([margins, more_margins])
        return np.sort(places[scores + margins >= largest(scores - margins, self.k)])

    def _reread(self, q: int, left: Survivors, which: npt.NDArray[np.intp]) -> tuple[FloatArray, FloatArray]:
        self.answer.reread += len(which)
        self.answer.bytes_read += len(which) * self.chunks[0].layout.row_bytes
        return reread(self.chunks, self.codes, q, left.places[which], left.scores[which], compiled=self.compiled)


def search(
    chunks: Sequence[Chunk],
    coder: Coder,
    reach: npt.NDArray[np.float64],
    stored: StoredVectors,
    first: int,
    queries: FloatArray,
    k: int,
    allowed: Mask,
    *,
    threads: int = 1,
    compiled: bool | None = None,
) -> Answer:
    """For each of ``queries`` (Q, D) the exact best ``k`` of the documents that are allowed, with ties.

    Args:
        chunks: the codes; place i is the vector with the number ``first + i``.
        coder: theirs.
        reach: (2,), see :class:`~.codes.Codes`.
        stored: the vectors themselves.
        first: number of the vector at place 0.
        queries: unit rows, or zero rows.
        k: at least 1.
        allowed: (places,) which take part.
        threads: that share the documents.
        compiled: whether codes are read by numba or by NumPy; None: by numba or not at all.
    """
    answer = Answer([(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)) for _ in queries])
    count = int(np.count_nonzero(allowed))
    if not count or not len(queries):
        return answer
    codes = QueryCodes.of(queries, coder, reach)
    asks = codes.usable & (k < count and (compiled is not None or has_kernels()))
    asked, answer.undecided = np.flatnonzero(asks), np.flatnonzero(~asks).tolist()
    running = _Search(list(chunks), codes, k, allowed, threads, compiled is not False, answer)
    for start in range(0, len(asked), _GROUP):
        group = asked[start : start + _GROUP]
        for q, places in zip(group.tolist(), running.candidates(group), strict=True):
            if places is None:
                answer.undecided.append(q)
            else:
                answer.found[q] = _scored(stored, places + first, queries[[q]], k, answer)[0]
    if answer.undecided:
        everybody = np.flatnonzero(allowed) + first
        whole = _scored(stored, everybody, queries[answer.undecided], k, answer)
        for q, found in zip(answer.undecided, whole, strict=True):
            answer.found[q] = found
    return answer


def _scored(
    stored: StoredVectors, numbers: PositionArray, queries: FloatArray, k: int, answer: Answer
) -> list[tuple[PositionArray, FloatArray]]:
    answer.rescored += len(numbers) * len(queries)
    answer.bytes_read += 4 * queries.shape[1] * len(numbers)
    return score_all(stored, numbers, queries, k)


def score_all(
    stored: StoredVectors, numbers: PositionArray, queries: FloatArray, k: int
) -> list[tuple[PositionArray, FloatArray]]:
    """The best ``k`` of stored vectors by their numbers, with ties: every one of them is scored, this is the truth."""
    nobody = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    best = [nobody] * len(queries)
    for start in range(0, len(numbers), _READ):
        block = numbers[start : start + _READ]
        begin, end = int(block[0]), int(block[-1]) + 1
        vectors = stored.read(begin, end) if end - begin == len(block) else stored.gather(block)
        for q, (kept, kept_scores) in enumerate(best):
            scores = np.concatenate([kept_scores, cosines(queries[q], vectors, queries.shape[1])])
            chosen = best_of(scores, k)
            best[q] = np.concatenate([kept, block])[chosen], scores[chosen]
    return best
