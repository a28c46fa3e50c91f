"""Searches in Qdrant, by whichever library: all stages as one nested query, and what cannot be said so in parts.

What the ``qdrant`` and ``qdrant-edge`` backends share, on top of ``rows.py``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from mrl_retrieval.errors import BackendError
from mrl_retrieval.filters import Filter, IdIn
from mrl_retrieval.matryoshka import FloatArray, prefix
from mrl_retrieval.scoring import cosine_scores, rank, top_k
from mrl_retrieval.two_stage import Candidates, Ranking, SearchRequest, Stage

from . import filters, points
from .filters import JSON
from .layout import oversampling_of
from .options import Options
from .points import COARSE, FULL, Point, ScoredPoint, parts
from .rows import QdrantRows

__all__ = ["QdrantSearch"]

log = logging.getLogger(__name__)

_QUERIES_PER_REQUEST = 100
_NARROWEST_SEARCH = 400
_ALL_FROM = 1000
"""Candidates from which it is worth asking whether they are all there are; fewer are found without a graph."""


class QdrantSearch(QdrantRows):
    """The verbs of searching."""

    _settings: Options
    _quantization = "none"
    """How the collection's coarse vectors are quantised."""
    _exhaustive = False
    """Whether every search looks at every point; a list of ids is then better read, and scored here."""
    _no_exact = False
    """Whether this collection refuses what is said to be exact."""
    _longest_list = 100_000
    """Of ids in one request."""

    def search(self, request: SearchRequest) -> list[Ranking]:
        """See the base class. One request for all stages and the rows, unless a stage's dims have no vector of their
        own, or ``explain`` asks for what happens between the stages."""
        names = self._names_of(request.stages)
        if request.explain or names is None:
            return super().search(request)
        request = replace(request, filter=self.resolve_filter(request.filter))
        if self._apart(request.filter):
            return super().search(request)
        condition = filters.compile_filter(request.filter)
        queries = [
            request.vectors if stage is request.stages[-1] else prefix(request.vectors, stage.dims)
            for stage in request.stages
        ]

        def one(i: int, exact: bool) -> JSON:
            """One query's whole funnel; its innermost prefetch is the coarse stage, and there the filter applies."""
            query: JSON = {}
            for name, vectors, stage in zip(names, queries, request.stages, strict=True):
                inner = {"prefetch": query} if query else self._nearest_first(name, stage.limit, condition, exact)
                query = {"query": vectors[i].tolist(), "using": name, "limit": stage.limit, **inner}
            return query | {"with_payload": points.ROW}

        widest = request.stages[0].limit
        answers, short = self._query(len(request.vectors), one, request.k, condition, widest)
        rankings = [_ranking(found) for found in answers]
        if short:
            instead = super().search(replace(request, vectors=request.vectors[short]))
            for i, ranking in zip(short, instead, strict=True):
                rankings[i] = ranking
        return rankings

    def _names_of(self, stages: Sequence[Stage]) -> list[str] | None:
        """The named vector of each stage; None where one has none."""
        by_dims = {dims: name for name, dims in reversed(points.vector_dims(self.manifest).items())}
        names = [by_dims.get(stage.dims, "") for stage in stages[:-1]]
        return [*names, FULL] if all(names) else None

    def _apart(self, filter: Filter | None) -> bool:
        """Whether the ids of a filter are too many for one request, or better not asked for by a filter at all."""
        return isinstance(filter, IdIn) and (self._exhaustive or len(filter.ids) > self._longest_list)

    def coarse_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        """See the base class."""
        return self._nearest(COARSE, vectors, limit, filter)

    def exact_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        """See the base class. Scored inside Qdrant."""
        return self._nearest(FULL, vectors, limit, filter)

    def _nearest(self, name: str, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        if isinstance(filter, IdIn) and self._apart(filter):
            return self._nearest_among(name, vectors, limit, filter)
        condition = filters.compile_filter(filter)

        def one(i: int, exact: bool) -> JSON:
            found = self._nearest_first(name, limit, condition, exact)
            return {"query": vectors[i].tolist(), "using": name, "limit": limit, "with_payload": [filters.ID], **found}

        found, short = self._query(len(vectors), one, limit, condition, limit)
        answers = [Candidates(*top_k(_scores(each), _ids(each), limit)) for each in found]
        if short and condition is not None:
            for i, instead in zip(short, self._compared(name, vectors[short], limit, condition), strict=True):
                answers[i] = instead
        return answers

    def _nearest_among(self, name: str, vectors: FloatArray, limit: int, allowed: IdIn) -> list[Candidates]:
        """The same among ids that are asked for apart."""
        best = [_nothing() for _ in vectors]
        for ids in parts(sorted(allowed.ids), self._longest_list):
            if self._exhaustive:
                matrix, has = self._vectors(name, ids)
                kept = [ids[i] for i in np.flatnonzero(has)]
                more = [Candidates(kept, cosine_scores(query, matrix[has])) for query in vectors]
            else:
                more = self._nearest(name, vectors, limit, IdIn(frozenset(ids)))
            best = [_best_of(old, new, limit) for old, new in zip(best, more, strict=True)]
        return best

    def _compared(self, name: str, vectors: FloatArray, limit: int, condition: JSON) -> list[Candidates]:
        """The same by reading the vectors of all points that match, and scoring them here."""
        best = [_nothing() for _ in vectors]
        among: JSON = {"must": [condition, points.WITH_VECTOR]}
        # No more at a time than a query was allowed to ask for: strict mode may limit pages too.
        size = min(limit, self._rows_per_read(vectors=True))
        for page in self._scroll(among, size, [filters.ID], [name]):
            if page:
                matrix = np.array([points.vector_named(point.vector, name) for point in page], dtype=np.float32)
                more = [Candidates(_ids(page), cosine_scores(query, matrix)) for query in vectors]
                best = [_best_of(old, new, limit) for old, new in zip(best, more, strict=True)]
        return best

    def _nearest_first(self, name: str, limit: int, condition: JSON | None, exact: bool) -> JSON:
        """What only the first stage has: the filter, and how to search."""
        params = self._params(name, limit, exact)
        return {key: value for key, value in (("filter", condition), ("params", params)) if value is not None}

    def _params(self, name: str, limit: int, exact: bool) -> JSON | None:
        if self._exhaustive:  # it searches exactly anyway, and would warn that it does
            return None
        if exact or name == FULL:
            return {"exact": True}
        # By itself Qdrant searches the graph no wider than 100 or the candidates, and misses more of them.
        params: JSON = {"hnsw_ef": self._settings.hnsw_ef or max(_NARROWEST_SEARCH, 2 * limit)}
        oversampling = self._settings.oversampling or oversampling_of(self._quantization)
        if self._quantization != "none":
            params["quantization"] = {"rescore": True, "oversampling": oversampling}
        return params

    def _query(
        self, queries: int, one: Callable[[int, bool], JSON], limit: int, condition: JSON | None, widest: int
    ) -> tuple[list[Sequence[ScoredPoint]], list[int]]:
        """Ask ``one(i, exact)`` for each query; with a filter there are ``limit`` points wherever as many match.

        Where the first stage is to keep all points there are (``widest``), a graph could only lose some.

        Returns:
            The answers, and which of them have too few points all the same, because the collection refuses to be
            searched without its graph.
        """
        everything = not self._no_exact and self._are_all(widest)
        answers = self._send_freely(one, range(queries), condition, everything)
        short = [i for i, found in enumerate(answers) if len(found) < limit]
        if self._exhaustive or condition is None or not short:
            return answers, []
        # A graph cut up by a filter may fall apart: ask without the graph where it gave too little.
        there = self._count({"must": [condition, points.WITH_VECTOR]})
        short = [i for i in short if len(answers[i]) < min(limit, there)]
        if not short or self._no_exact:
            return answers, short
        try:
            instead = self._send([one(i, True) for i in short], condition)
        except BackendError as error:
            if not self._refuses_exact(error):
                raise
            self._forgo_exact()
            return answers, short
        for i, found in zip(short, instead, strict=True):
            answers[i] = found
        return answers, []

    def _are_all(self, limit: int) -> bool:
        """Whether so many candidates are all points there are, and a graph would be gone over to find them."""
        if limit < _ALL_FROM or self._exhaustive:
            return False
        roughly = self._count({"must": [points.WITH_VECTOR]}, exact=False)  # where counting all would take longer
        return roughly <= 2 * limit and self._count({"must": [points.WITH_VECTOR]}) <= limit

    def _send_freely(
        self, one: Callable[[int, bool], JSON], wanted: Iterable[int], condition: JSON | None, exact: bool
    ) -> list[Sequence[ScoredPoint]]:
        """Ask; without what is said to be exact of our own accord, where the collection refuses that."""
        requests = [one(i, exact) for i in wanted]
        try:
            return self._send(requests, condition)
        except BackendError as error:
            if self._no_exact or not self._refuses_exact(error):
                raise
            self._forgo_exact()
            instead = [one(i, False) for i in wanted]
            if instead == requests:  # it is what was asked for
                raise
            return self._send(instead, condition)

    def _forgo_exact(self) -> None:
        self._no_exact = True
        log.info("%s refuses exact searches: its graph is gone over, or what matches is scored here", self.address)

    def _refuses_exact(self, error: BackendError) -> bool:
        """Whether an error says that the collection allows nothing that is said to be exact."""
        return False

    def _send(self, requests: list[JSON], condition: JSON | None) -> list[Sequence[ScoredPoint]]:
        answers: list[Sequence[ScoredPoint]] = []
        floats = sum(points.vector_dims(self.manifest).values())
        size = points.FLOAT_BYTES * floats + len(json.dumps(condition))
        for part in parts(requests, max(1, min(_QUERIES_PER_REQUEST, points.REQUEST_BYTES // size))):
            answers += self._query_batch(part)
        return answers


def _ids(found: Sequence[Point]) -> list[str]:
    return [(point.payload or {})[filters.ID] for point in found]


def _nothing() -> Candidates:
    return Candidates([], np.empty(0, dtype=np.float32))


def _best_of(one: Candidates, other: Candidates, limit: int) -> Candidates:
    return Candidates(*top_k(np.concatenate([one.scores, other.scores]), one.ids + other.ids, limit))


def _scores(found: Sequence[ScoredPoint]) -> FloatArray:
    return np.array([point.score for point in found], dtype=np.float32)


def _ranking(found: Sequence[ScoredPoint]) -> Ranking:
    rows, scores = [points.read_row(point.payload) for point in found], _scores(found)
    best = rank(scores, [row.id for row in rows])
    return Ranking([rows[i] for i in best], scores[best])
