"""From the arguments of a search to a backend's request, and from its rankings to hits."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, TypedDict

from .backend import Backend
from .certificate import Certificate
from .documents import Hit, SearchResult
from .errors import NothingLearned
from .filters import Filter, parse_filter
from .manifest import Manifest
from .matryoshka import FloatArray, prefix
from .settings import NOT_GIVEN, CandidateCount, NotGiven, SearchSettings, StageSpec, check_recall
from .stored_plan import DEFAULT_COARSE_TOP_K, PER_HIT, staleness
from .tracing import with_counts
from .two_stage import Ranking, SearchRequest, Stage

logger = logging.getLogger(__name__)

__all__ = ["CallOptions", "PreparedSearch", "PreparedSearches", "RerankOptions", "SearchOptions"]


_MANY = 100_000
"""Candidates beyond which it is worth asking how many rows there are."""

_KEPT = 64
"""Prepared searches that are kept."""


class SearchOptions(TypedDict, total=False):
    """What every search takes; see :meth:`mrl_retrieval.MatryoshkaRetriever.search`."""

    coarse_top_k: CandidateCount | NotGiven
    filter: Mapping[str, Any] | Filter | None
    exact: bool
    stages: StageSpec | None
    recall: float | None
    explain: bool


class RerankOptions(TypedDict, total=False):
    """What the reranker takes, in searches that have one."""

    reranker: Any
    rerank_top_k: int | NotGiven


class CallOptions(SearchOptions, RerankOptions, total=False):
    """What a call of a search takes."""

    text: str | Sequence[str] | None


@dataclass(frozen=True, slots=True)
class PreparedSearch:
    """A search whose arguments are checked and resolved; it lacks the query vectors."""

    manifest: Manifest
    stages: tuple[Stage, ...]
    filter: Filter | None
    recall: float | None
    explain: bool

    @classmethod
    def prepare(
        cls,
        made: SearchSettings,
        manifest: Manifest | None,
        top_k: int | NotGiven,
        *,
        coarse_top_k: CandidateCount | NotGiven = NOT_GIVEN,
        filter: Mapping[str, Any] | Filter | None = None,
        exact: bool = False,
        stages: StageSpec | None = None,
        recall: float | None = None,
        explain: bool = False,
    ) -> PreparedSearch | None:
        """Check what a call gave; ``made`` is what the constructor was given. None where there is no collection yet.

        Raises:
            InvalidInput: a number, a funnel or the filter cannot be used, collection or not.
            CollectionMismatchError: the funnel does not begin where the collection does.
            NothingLearned: the stored plan was asked for, and there is none.
        """
        funnel = NOT_GIVEN if stages is None else stages
        settings = SearchSettings.checked(coarse_top_k, top_k, funnel, top_k_name="top_k")
        if recall is not None:
            check_recall(recall)
            if exact or stages is not None or coarse_top_k is not NOT_GIVEN:
                raise TypeError("recall= chooses the depth by itself: leave out exact=, stages= and coarse_top_k=")
        parsed = parse_filter(filter)
        if manifest is None:
            return None
        resolved = settings.resolve(made, manifest, exact=exact)
        if recall is not None and len(resolved) == 1:  # the plan is to search flat, but a depth was asked for
            resolved = (Stage(manifest.coarse_dims, max(DEFAULT_COARSE_TOP_K, PER_HIT * resolved[0].limit)), *resolved)
        return cls(manifest, resolved, parsed, recall, explain)

    def run(self, backend: Backend, vectors: FloatArray, *, timed: bool = False) -> list[SearchResult]:
        """Search for full embeddings, ``(Q, dim)``: one result for each; ``timed`` with a trace where that is free."""
        if self.recall is not None and not backend.capabilities.depth_by_query:
            raise NothingLearned(
                f"recall={self.recall:g} was asked for, but the backend at {backend.address} does not learn how deep "
                "to search for it: pass coarse_top_k instead, or use the embedded store ('faiss:FOLDER')"
            )
        request = self.request(backend, vectors, timed=timed)
        kind: Literal["exact", "candidates"] = "exact" if request.exact else "candidates"
        certificate = _certificate(kind, self.manifest.fine_dims, backend.capabilities.vector_dtype)
        rankings = backend.search(request)
        if self.explain:
            return [_explained(ranking, certificate) for ranking in with_counts(rankings, backend, self.filter)]
        return [_result(ranking, certificate) for ranking in rankings]

    def request(self, backend: Backend, vectors: FloatArray, *, timed: bool = False) -> SearchRequest:
        """What the backend is asked for."""
        queries = prefix(vectors, self.manifest.fine_dims)
        return SearchRequest(queries, self._possible(backend), self.filter, self.explain, self.recall, timed)

    def _possible(self, backend: Backend) -> tuple[Stage, ...]:
        """The stages without limits beyond all rows, which some databases cannot even read as a number."""
        # The limits fall from stage to stage.
        if self.stages[0].limit <= _MANY:
            return self.stages
        rows = max(backend.count(), 1)
        return tuple(Stage(stage.dims, min(stage.limit, rows)) for stage in self.stages)


class PreparedSearches:
    """Prepares the searches of one retriever, ``made`` with the settings of its constructor. Thread-safe.

    Those without a filter or a funnel are kept, since most calls ask for what an earlier one asked for.
    """

    def __init__(self, made: SearchSettings) -> None:
        self._made = made
        self._kept: dict[tuple[Any, ...], PreparedSearch] = {}
        self._held_to: Manifest | None = None

    def look_at_plan(self, manifest: Manifest, backend: Backend) -> None:
        """Say once, of each plan, that the collection has outgrown it."""
        if manifest.plan is None or manifest is self._held_to:
            return
        self._held_to = manifest
        if why := staleness(manifest.plan, backend.count()):
            logger.warning("the search plan of %s may not hold any more: %s", backend.address, why)

    def prepare(
        self, manifest: Manifest | None, top_k: int | NotGiven, options: SearchOptions
    ) -> PreparedSearch | None:
        """See :meth:`PreparedSearch.prepare`."""
        if options.get("filter") is not None or options.get("stages") is not None:
            return PreparedSearch.prepare(self._made, manifest, top_k, **options)
        # With the types, because True equals 1, and one of them is refused.
        key = (top_k, type(top_k), *options.items(), *map(type, options.values()))
        try:
            kept = self._kept.get(key)
        except TypeError:  # what cannot be hashed cannot be kept, and is refused if it is no number either
            return PreparedSearch.prepare(self._made, manifest, top_k, **options)
        if kept is not None and kept.manifest is manifest:
            return kept
        prepared = PreparedSearch.prepare(self._made, manifest, top_k, **options)
        if prepared is not None:
            if len(self._kept) >= _KEPT:
                self._kept = {}
            self._kept[key] = prepared
        return prepared


_certificate = lru_cache(maxsize=64)(Certificate)


def _result(ranking: Ranking, certificate: Certificate) -> SearchResult:
    scores = ranking.scores.tolist()
    coarse = [None] * len(scores) if ranking.coarse_scores is None else ranking.coarse_scores.tolist()
    hits = [
        Hit(row.id, score, row.document, row.metadata, first)
        for row, score, first in zip(ranking.rows, scores, coarse, strict=True)
    ]
    return SearchResult(tuple(hits), certificate, ranking.trace)


def _explained(ranking: Ranking, certificate: Certificate) -> SearchResult:
    found = _result(ranking, certificate)
    hits = found.hits
    if ranking.ranks is not None:
        hits = tuple(replace(hit, ranks=ranks) for hit, ranks in zip(hits, ranking.ranks, strict=True))
    return SearchResult(hits, certificate, ranking.trace)
