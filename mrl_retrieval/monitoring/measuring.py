"""An audit: the recall of a live collection, as it is searched, against its own exact search."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..backend import Backend
from ..confidence import Shares, check_confidence
from ..errors import InvalidInput
from ..filters import Filter
from ..matryoshka import FloatArray
from ..progress import progress_report
from ..searching import PreparedSearch
from ..settings import check_positive
from ..two_stage import Stage
from .comparing import Outcome, compared, exact_form
from .report import RecallReport, WorstQuery
from .shapes import filter_shape

__all__ = ["audit", "measured"]

_LEAST = 10
"""Queries below which bounds say nothing."""

_TOGETHER = 64
"""Queries that are searched for at a time."""

_WORST = 10


def audit(
    search: PreparedSearch,
    backend: Backend,
    queries: Sequence[Any] | None,
    vectors: FloatArray | None,
    n: int,
    confidence: float,
    progress: bool | Callable[[int, int | None], None],
) -> RecallReport:
    """See :meth:`mrl_retrieval.MatryoshkaRetriever.measure_recall`; ``vectors`` are those of the queries."""
    check_confidence(confidence)
    check_positive(n, "n")
    count = n if vectors is None else len(vectors)
    if count < _LEAST:
        raise InvalidInput(f"{count} queries say nothing of recall, expected {_LEAST} at least, better 200: give more")
    names = without = None
    if vectors is None:
        names, vectors = _drawn(backend, n, search.filter)
        without = names
    elif queries is not None and isinstance(next(iter(queries)), str):
        names = list(queries)
    with progress_report(progress, range(len(vectors))) as report:
        return measured(search, backend, vectors, names=names, without=without, confidence=confidence, progress=report)


def _drawn(backend: Backend, n: int, filter: Filter | None) -> tuple[list[str], FloatArray]:
    """Ids and vectors ``(n, fine_dims)``, as they are stored, of so many rows: drawn evenly from those that match.

    Raises:
        InvalidInput: there are too few.
    """
    rows = backend.stats().vectors if filter is None else backend.count(filter)
    every, seen = max(rows // n, 1), 0
    ids, vectors = list[str](), list[FloatArray]()
    for batch in backend.scan(filter, vectors=True, documents=False) if rows else ():
        if batch.vectors is None:
            continue
        for place in np.flatnonzero(batch.has_vector).tolist():
            if seen % every == 0 and len(ids) < n:
                ids.append(batch.ids[place])
                vectors.append(batch.vectors[place])
            seen += 1
        if len(ids) == n:
            break
    if len(ids) < _LEAST:
        which = "" if filter is None else " that match the filter"
        raise InvalidInput(
            f"{backend.address} holds {len(ids)} rows with a vector{which}, expected {_LEAST} at least to stand for "
            "queries: pass queries=, or index more first"
        )
    return ids, np.stack(vectors)


def measured(
    search: PreparedSearch,
    backend: Backend,
    vectors: FloatArray,
    *,
    names: Sequence[str] | None,
    without: Sequence[str] | None,
    confidence: float,
    progress: Callable[[int], None] = lambda done: None,
) -> RecallReport:
    """Search for vectors ``(Q, dim)``, rotated as the collection is, in both ways, and compare.

    Args:
        names: how the report calls the queries; None: by their places.
        without: ids of the rows that the queries were taken from, if they were; each plays no part for its own.
        progress: called with the queries done.
    """
    asked = search if without is None else _one_more(search)
    outcomes, seconds, exact_seconds = list[Outcome](), 0.0, 0.0
    for start in range(0, len(vectors), _TOGETHER):
        block = vectors[start : start + _TOGETHER]
        begun = time.perf_counter()
        answers = asked.run(backend, block)
        searched = time.perf_counter()
        truths = exact_form(asked).run(backend, block)
        seconds, exact_seconds = seconds + searched - begun, exact_seconds + time.perf_counter() - searched
        for i, (answer, truth) in enumerate(zip(answers, truths, strict=True)):
            own = None if without is None else without[start + i]
            outcomes.append(compared(asked, backend, block[i : i + 1], answer, truth=truth, without=own))
        progress(len(outcomes))
    recalls = {i: outcome.recall for i, outcome in enumerate(outcomes) if outcome.recall is not None}
    changed = sum(outcome.changed for outcome in outcomes)
    empty = len(outcomes) - len(recalls) - changed
    if not recalls:
        why = "it was changed all the time" if changed else "no row with a vector is there, or matches the filter"
        raise InvalidInput(f"nothing can be said of recall at {backend.address}: {why}; index something first")
    shares = Shares(recalls.values())
    worst = sorted((recall, i) for i, recall in recalls.items() if recall < 1)[:_WORST]
    return RecallReport(
        mean=shares.mean,
        lower=shares.lower(confidence),
        upper=shares.upper(confidence),
        confidence=confidence,
        n=len(recalls),
        changed=changed,
        empty=empty,
        k=search.stages[-1].limit,
        stages=search.stages,
        asked=search.recall,
        filter=None if search.filter is None else filter_shape(search.filter),
        pseudo_queries=without is not None,
        worst=tuple(WorstQuery(i if names is None else names[i], recall, outcomes[i].lost) for recall, i in worst),
        seconds=seconds,
        exact_seconds=exact_seconds,
    )


def _one_more(search: PreparedSearch) -> PreparedSearch:
    """With a hit more, in place of the row that stands for the query."""
    wanted = search.stages[-1].limit + 1
    return replace(search, stages=tuple(Stage(stage.dims, max(stage.limit, wanted)) for stage in search.stages))
