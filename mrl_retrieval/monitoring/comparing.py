"""The recall of an answer: held to an exact search of the same collection, which others may be changing meanwhile.

By score, with ties: a hit is right if it is in the exact answer, or ties with its last (at the k boundary any member of
the tie group is right). What an exact search finds and the answer lacks need not have been lost: it may have been
written since. So wherever the two differ the search is done once more after the exact one. Is its answer the same
as the one before, then nothing that it would show has changed in between, and what the exact search found beside it is
lost indeed. Is it another, then the collection has changed: the new answer is held to a new exact search, a few times,
and in the end nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..backend import Backend
from ..documents import Hit, SearchResult
from ..matryoshka import FloatArray
from ..searching import PreparedSearch

__all__ = ["TIE", "Outcome", "compared", "exact_form", "recall_by_score"]

TIE = 1e-6
"""Scores that differ by less are equal: the two searches may add up the same products in another order."""

_TRIES = 3
"""Exact searches for one query at the most, where the collection changes all the time."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What comparing one query's answer gave."""

    recall: float | None
    """Share of the true best k that was found, in 0..1; None: nothing can be said."""
    lost: tuple[Hit, ...] = ()
    """True hits that the search did not find, best first."""
    changed: bool = False
    """Whether nothing can be said since the collection was changed all the time; else since there is no true hit."""


def recall_by_score(found: Sequence[Hit], truth: Sequence[Hit]) -> tuple[float, tuple[Hit, ...]]:
    """Share of the true hits that was found, in 0..1, and the true hits that were not, best first.

    Whoever ties with the last true hit is as right as it is. With no true hit there was nothing to miss: 1.0.

    >>> truth = [Hit("a", 0.9, None), Hit("b", 0.8, None), Hit("c", 0.7, None)]
    >>> recall_by_score([Hit("a", 0.9, None), Hit("d", 0.7, None), Hit("e", 0.6, None)], truth)[0]
    0.6666666666666666
    """
    if not truth:
        return 1.0, ()
    last = truth[-1].score - TIE
    true, seen = {hit.id for hit in truth}, {hit.id for hit in found}
    right = sum(hit.id in true or hit.score >= last for hit in found)
    kept = min(right, len(truth))
    # Of a tie group at the boundary any member may be absent; only so many of the absent, the best, were lost.
    return kept / len(truth), tuple(hit for hit in truth if hit.id not in seen)[: len(truth) - kept]


def exact_form(search: PreparedSearch) -> PreparedSearch:
    """The same search of every stored vector: as many hits, the same filter."""
    return replace(search, stages=search.stages[-1:], recall=None, explain=False)


def compared(
    search: PreparedSearch,
    backend: Backend,
    vector: FloatArray,
    answer: Sequence[Hit],
    *,
    truth: Sequence[Hit] | None = None,
    without: str | None = None,
) -> Outcome:
    """Hold the answer that a search gave for ``vector`` (1, dim) to an exact search now.

    Args:
        search: how it was searched.
        vector: the query, rotated as the collection is.
        answer: what was found.
        truth: what an exact search after it found; None: it is done here.
        without: id of a row that plays no part: the stored vector that stands for the query. Both searches ask for a
            hit more then.
    """
    exact, again = exact_form(search), replace(search, explain=False)
    answer = _others(answer, without, search)
    for _ in range(_TRIES):
        truth = _others(exact.run(backend, vector)[0] if truth is None else truth, without, search)
        recall, lost = recall_by_score(answer, truth)
        if recall == 1:
            return Outcome(recall if truth else None)
        after = _others(again.run(backend, vector)[0], without, search)
        if _same(answer, after):
            return Outcome(recall, lost)
        answer, truth = after, None
    return Outcome(None, changed=True)


def _others(hits: SearchResult | Sequence[Hit], without: str | None, search: PreparedSearch) -> Sequence[Hit]:
    if without is None:
        return hits
    return [hit for hit in hits if hit.id != without][: search.stages[-1].limit - 1]


def _same(one: Sequence[Hit], other: Sequence[Hit]) -> bool:
    return len(one) == len(other) and all(
        a.id == b.id and abs(a.score - b.score) <= TIE for a, b in zip(one, other, strict=True)
    )
