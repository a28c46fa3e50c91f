"""The two-stage search, written once, without I/O.

:func:`two_stage` and :func:`exact` are generators: they *yield* what they need from a backend (a
:class:`CoarseSearch`, a :class:`FetchVectors`, …) and are sent the answer. :func:`drive` runs one against
anything that can perform the requests; an asynchronous driver is the same loop with ``await`` in it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .documents import Row
from .errors import BackendError
from .filters import Filter
from .matryoshka import FloatArray, prefix
from .scoring import cosine_scores, rank
from .tracing import Explanation, Laps, Seen, StageTrace, Trace

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
    """Fill the trace's times and counts where that is free; the answer is the same."""

    @property
    def exact(self) -> bool:
        """Whether every stored vector is to be scored."""
        return len(self.stages) == 1

    @property
    def k(self) -> int:
        """How many hits a query asks for."""
        return self.stages[-1].limit


@dataclass(frozen=True, slots=True)
class Ranking:
    """The answer to one query: rows best first, with parallel scores."""

    rows: list[Row]
    scores: FloatArray
    coarse_scores: FloatArray | None = None
    trace: Trace | None = None
    ranks: list[tuple[int, ...]] | None = None
    """Of each row its rank in every stage, from 1 up; as the trace, only where it was asked for."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Ids and parallel scores, best first."""

    ids: list[str]
    scores: FloatArray
    bytes_read: int | None = None
    """Bytes of vectors read to find them, where the backend knows."""


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
    told = Explanation() if request.explain else None
    laps = Laps() if request.timed and told is None else None
    first, *rest = request.stages
    search = CoarseSearch(prefix(request.vectors, first.dims), first.limit, filter)
    coarse: list[Candidates] = yield search
    if told is not None:
        seconds = told.lap()
        dropped = yield from _first_dropped(search, coarse)
        told.tell("coarse", first.dims, seconds, _seen(coarse, dropped))
    if laps is not None:
        laps.lap("coarse", first.dims, None, [len(c.ids) for c in coarse])

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
    row_bytes = vectors.itemsize * vectors.shape[1]
    for stage in rest:
        before: list[tuple[FloatArray, list[str]]] = []
        came = [len(each) for each in ids] if laps is not None else []
        for q, query in enumerate(request.vectors):
            full = cosine_scores(query, vectors[positions[q]], stage.dims)
            if told is not None:
                before.append((full, ids[q]))
            best = rank(full, ids[q], stage.limit)
            ids[q], positions[q], scores[q] = [ids[q][i] for i in best], positions[q][best], full[best]
        if told is not None:
            read = row_bytes if stage is rest[0] else 0
            seconds = told.lap()
            seen = [Seen.scored(*each, stage.limit, bytes_read=read * len(each[1])) for each in before]
            told.tell("rerank", stage.dims, seconds, seen)
        if laps is not None:
            laps.lap("rerank", stage.dims, came, [len(each) for each in ids])

    answer = yield from _with_rows(ids, scores, coarse_score)
    signed = told or laps
    return answer if signed is None else signed.sign(answer), [len(c.ids) for c in coarse]


def _exact_once(request: SearchRequest, filter: Filter | None) -> Steps[tuple[list[Ranking], list[int]]]:
    """The rankings, and how many rows each query found."""
    search = ExactSearch(request.vectors, request.k, filter)
    if not request.explain:
        laps = Laps() if request.timed else None
        found: list[Candidates] = yield search
        if laps is not None:
            laps.lap("exact", request.stages[0].dims, None, [len(c.ids) for c in found])
        answer = yield from _with_rows([c.ids for c in found], [c.scores for c in found], None)
        return answer if laps is None else laps.sign(answer), [len(c.ids) for c in found]
    told = Explanation()
    try:  # one more, which is the first one dropped
        found = yield replace(search, limit=request.k + 1)
    except BackendError:  # a database may refuse just that one
        found = yield search
    seconds = told.lap()
    beyond = [float(c.scores[request.k]) if len(c.ids) > request.k else None for c in found]
    found = [replace(c, ids=c.ids[: request.k], scores=c.scores[: request.k]) for c in found]
    told.tell("exact", request.stages[0].dims, seconds, _seen(found, beyond))
    answer = yield from _with_rows([c.ids for c in found], [c.scores for c in found], None)
    return told.sign(answer), [len(c.ids) for c in found]


def _first_dropped(search: CoarseSearch, found: Sequence[Candidates]) -> Steps[list[float | None]]:
    """For each query the score of the best one that was not found, by a search for one more.

    That is asked for apart, because an approximate index may find others when it is asked for more.
    """
    nothing: list[float | None] = [None] * len(found)
    if all(len(c.ids) < search.limit for c in found):
        return nothing
    try:
        more: list[Candidates] = yield replace(search, limit=search.limit + 1)
    except BackendError:  # a database may refuse just that one; the search itself has its answer
        return nothing
    dropped = []
    for few, many in zip(found, more, strict=True):
        known = set(few.ids)
        beyond = [score for id, score in zip(many.ids, many.scores.tolist(), strict=True) if id not in known]
        dropped.append(max(beyond) if beyond and len(few.ids) == search.limit else None)
    return dropped


def _seen(found: Sequence[Candidates], dropped: Sequence[float | None]) -> list[Seen]:
    return [Seen.found(c.scores, c.ids, best, bytes_read=c.bytes_read) for c, best in zip(found, dropped, strict=True)]


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
