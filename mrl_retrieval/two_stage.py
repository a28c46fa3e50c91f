"""The two-stage search, written once, without I/O.

:func:`two_stage` and :func:`exact` are generators: they *yield* what they need from a backend (a
:class:`CoarseSearch`, a :class:`FetchVectors`, …) and are sent the answer. :func:`drive` runs one against
anything that can perform the requests; an asynchronous driver is the same loop with ``await`` in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .documents import Row
from .filters import Filter
from .matryoshka import FloatArray, prefix
from .scoring import cosine_scores, rank

__all__ = [
    "Candidates",
    "CoarseSearch",
    "ExactSearch",
    "FetchRows",
    "FetchVectors",
    "Ranking",
    "Request",
    "ResolveFilter",
    "SearchRequest",
    "Stage",
    "StageTrace",
    "Trace",
    "drive",
    "exact",
    "two_stage",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stage:
    """Score over the first ``dims`` components, keep the best ``limit``."""

    dims: int
    limit: int


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What a backend is asked for. The core has checked it."""

    vectors: FloatArray
    """``(Q, fine_dims)`` unit rows (or zero rows)."""
    stages: tuple[Stage, ...]
    """At least two: the coarse stage at the collection's ``coarse_dims``, then longer prefixes over fewer
    candidates, the last at ``fine_dims`` keeping k. One alone, at ``fine_dims``, asks for the exact answer."""
    filter: Filter | None = None
    explain: bool = False
    """Fill the trace and the coarse scores, even where that costs a round trip more."""
    recall: float | None = None
    """Search as deep as was learned to be enough for this share of the true best k, instead of the first stage's limit.
    Only for backends that declare ``depth_by_query``."""
    timed: bool = False
    """Fill the trace as far as that is free: with no further round trip, and no other answer."""

    @property
    def exact(self) -> bool:
        """Whether every stored vector is to be scored."""
        return len(self.stages) == 1

    @property
    def k(self) -> int:
        """How many hits a query asks for."""
        return self.stages[-1].limit


@dataclass(frozen=True, slots=True)
class StageTrace:
    """What one stage did for all queries of a request together."""

    name: str
    dims: int
    scored: int | None
    """Vectors scored; None where the index does not tell."""
    kept: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Trace:
    """What each stage of a search did."""

    stages: tuple[StageTrace, ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The answer to one query: rows best first, with parallel scores."""

    rows: list[Row]
    scores: FloatArray
    coarse_scores: FloatArray | None = None
    trace: Trace | None = None


@dataclass(frozen=True, slots=True)
class Candidates:
    """Ids and parallel scores, best first."""

    ids: list[str]
    scores: FloatArray


@dataclass(frozen=True, slots=True)
class ResolveFilter:
    """Answer: a filter that the backend can push down (an allow-list of ids where it can not), or None."""

    filter: Filter | None


@dataclass(frozen=True, slots=True)
class CoarseSearch:
    """Answer: one :class:`Candidates` per query. ``vectors`` are renormalised prefixes, ``(Q, dims)``."""

    vectors: FloatArray
    limit: int
    filter: Filter | None


@dataclass(frozen=True, slots=True)
class ExactSearch:
    """Answer: one :class:`Candidates` per query, over every stored vector. ``vectors``: ``(Q, fine_dims)``."""

    vectors: FloatArray
    limit: int
    filter: Filter | None


@dataclass(frozen=True, slots=True)
class FetchVectors:
    """Answer: ``(vectors (n, fine_dims), found (n,) bool)``, parallel to ``ids``."""

    ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class FetchRows:
    """Answer: one :class:`~mrl_retrieval.documents.Row` per id, None where it is gone."""

    ids: Sequence[str]


Request = ResolveFilter | CoarseSearch | ExactSearch | FetchVectors | FetchRows
Steps = Generator[Request, Any, T]

_SEARCHES = 4
"""Times a search is done at the most where rows are deleted beneath it."""


def drive(steps: Generator[Any, Any, T], perform: Callable[[Any], Any]) -> T:
    """Run a generator of requests: perform each, send the answer back, return what it returns."""
    try:
        request = next(steps)
        while True:
            try:
                answer = perform(request)
            except BaseException as error:  # noqa: BLE001  (handed to the generator, which raises it again)
                request = steps.throw(error)
            else:
                request = steps.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result


def two_stage(request: SearchRequest) -> Steps[list[Ranking]]:
    """Coarse search over prefixes, then one rerank per further stage, then the rows of the hits."""
    filter = yield ResolveFilter(request.filter)
    return (yield from _until_whole(request, lambda: _two_stage_once(request, filter)))


def exact(request: SearchRequest) -> Steps[list[Ranking]]:
    """Every stored vector scored at ``fine_dims``."""
    filter = yield ResolveFilter(request.filter)
    return (yield from _until_whole(request, lambda: _exact_once(request, filter)))


def _until_whole(
    request: SearchRequest, search: Callable[[], Steps[tuple[list[Ranking], list[int]]]]
) -> Steps[list[Ranking]]:
    """Search again where rows that were deleted between the steps of a search leave fewer hits than there are."""
    rankings: list[Ranking] = []
    for _ in range(_SEARCHES):
        rankings, found = yield from search()
        if all(len(r.rows) >= min(request.k, n) for r, n in zip(rankings, found, strict=True)):
            break
    return rankings


def _two_stage_once(request: SearchRequest, filter: Filter | None) -> Steps[tuple[list[Ranking], list[int]]]:
    """The rankings, and how many candidates each query had."""
    clock = _Clock()
    first, *rest = request.stages
    coarse: list[Candidates] = yield CoarseSearch(prefix(request.vectors, first.dims), first.limit, filter)
    clock.lap("coarse", first.dims, None, sum(len(c.ids) for c in coarse))

    wanted = list(dict.fromkeys(id for c in coarse for id in c.ids))
    vectors: FloatArray
    found: npt.NDArray[np.bool_]
    vectors, found = yield FetchVectors(wanted)
    at = {id: i for i, id in enumerate(wanted) if found[i]}

    # Per query: ids still in the race, where their vectors are, and how the coarse stage scored them.
    ids = [[id for id in c.ids if id in at] for c in coarse]
    positions = [np.fromiter((at[id] for id in kept), dtype=np.intp, count=len(kept)) for kept in ids]
    coarse_score = [dict(zip(c.ids, c.scores, strict=True)) for c in coarse]
    scores: list[FloatArray] = [np.empty(0, dtype=np.float32)] * len(ids)
    for stage in rest:
        scored = sum(map(len, ids))
        for q, query in enumerate(request.vectors):
            full = cosine_scores(query, vectors[positions[q]], stage.dims)
            best = rank(full, ids[q], stage.limit)
            ids[q], positions[q], scores[q] = [ids[q][i] for i in best], positions[q][best], full[best]
        clock.lap("rerank", stage.dims, scored, sum(map(len, ids)))

    answer = yield from _with_rows(ids, scores, coarse_score)
    return clock.sign(answer) if request.explain or request.timed else answer, [len(c.ids) for c in coarse]


def _exact_once(request: SearchRequest, filter: Filter | None) -> Steps[tuple[list[Ranking], list[int]]]:
    """The rankings, and how many rows each query found."""
    clock = _Clock()
    found: list[Candidates] = yield ExactSearch(request.vectors, request.k, filter)
    clock.lap("exact", request.stages[0].dims, None, sum(len(c.ids) for c in found))
    answer = yield from _with_rows([c.ids for c in found], [c.scores for c in found], None)
    return clock.sign(answer) if request.explain or request.timed else answer, [len(c.ids) for c in found]


def _with_rows(
    ids: list[list[str]], scores: list[FloatArray], coarse: list[dict[str, Any]] | None
) -> Steps[list[Ranking]]:
    wanted = list(dict.fromkeys(id for kept in ids for id in kept))
    rows: list[Row | None] = yield FetchRows(wanted)
    by_id = {row.id: row for row in rows if row is not None}
    rankings = []
    for q, kept in enumerate(ids):
        alive = [i for i, id in enumerate(kept) if id in by_id]  # a row may have been deleted since it was scored
        first = None if coarse is None else np.array([coarse[q][kept[i]] for i in alive], dtype=np.float32)
        rankings.append(Ranking([by_id[kept[i]] for i in alive], scores[q][alive], first))
    return rankings


class _Clock:
    """Collects what each stage did."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._stages: list[StageTrace] = []

    def lap(self, name: str, dims: int, scored: int | None, kept: int) -> None:
        now = time.perf_counter()
        self._stages.append(StageTrace(name, dims, scored, kept, now - self._last))
        self._last = now

    def sign(self, rankings: list[Ranking]) -> list[Ranking]:
        trace = Trace(tuple(self._stages))
        return [Ranking(r.rows, r.scores, r.coarse_scores, trace) for r in rankings]
