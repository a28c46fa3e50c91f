"""``AdvisingReader``: what a collection can be asked about its searches: why a document was not found, and how deep a
reranker should read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack, cast

import numpy as np

from .documents import SearchResult, check_query, checked_ids
from .errors import CollectionNotFound, DimensionError, InvalidInput
from .filters import Filter
from .losing import after_reranking, find_why_not
from .matryoshka import FloatArray, as_vectors, number_of_axes
from .reading import CollectionReader
from .reranking.depth import RerankDepthReport, check_depths, measured
from .reranking.stage import Reranking
from .searching import CallOptions, PreparedSearch, RerankOptions, SearchOptions
from .settings import NOT_GIVEN, NotGiven, StageSpec, check_positive
from .why_not import WhyNot

__all__ = ["AdvisingReader"]


class AdvisingReader(CollectionReader):
    """The part of :class:`~mrl_retrieval.MatryoshkaRetriever` that looks into searches."""

    def why_not(
        self,
        query: Any,
        id: str | int,
        top_k: int | NotGiven = NOT_GIVEN,
        *,
        coarse_top_k: int | NotGiven = NOT_GIVEN,
        filter: Mapping[str, Any] | Filter | None = None,
        exact: bool = False,
        stages: StageSpec | None = None,
        encode_kwargs: Mapping[str, Any] | None = None,
        **rerank: Unpack[RerankOptions],
    ) -> WhyNot:
        """Why a search with these arguments does not find a document: where it is lost, by how much, and the smallest
        ``coarse_top_k`` (or ``top_k``) that would have kept it.

        An id that the collection does not hold is a verdict, too. The search is done once more, and where the
        document is lost in the coarse stage, all rows that the filter lets through are read, a batch at a time.

        Args:
            query: a text, or a full embedding ``(D,)``.
            id: of the document.

        The other arguments, ``reranker`` and ``rerank_top_k`` too, and what they raise, are those of :meth:`search`.

        Raises:
            CollectionNotFound: nothing was indexed yet.
        """
        (wanted,) = checked_ids([id])
        if not isinstance(query, str) and number_of_axes(query, "query") != 1:
            raise DimensionError(f"query has shape {np.shape(query)}, expected a text, or a full embedding (D,)")
        given: SearchOptions = {
            "filter": filter
        }  # what is not given is left out: the way of searching may depend on it
        if coarse_top_k is not NOT_GIVEN:
            given["coarse_top_k"] = coarse_top_k
        if exact:
            given["exact"] = exact
        if stages is not None:
            given["stages"] = stages
        reranking = self._reranking_of(cast("CallOptions", rerank))
        search = self._prepared(reranking, top_k, given)
        if reranking is not None and not isinstance(query, str):
            raise InvalidInput("the reranker reads texts, and this query is a vector: pass its text, or reranker=None")
        if search is None:
            raise CollectionNotFound(f"there is no collection at {self._backend.address}; index something first")
        vector = self._queries(query, search, encode_kwargs)
        why = find_why_not(self._backend, search, self._collection.turned(vector), wanted)
        return why if reranking is None else after_reranking(why, reranking, self._run(search, vector), query)

    def rerank_depth(
        self,
        queries: Sequence[str],
        judgements: Sequence[Mapping[str, float]] | None = None,
        *,
        depths: Sequence[int] = (10, 20, 50, 100, 200),
        reranker: Any = NOT_GIVEN,
        top_k: int = 10,
        batch_size: int = 32,
        **options: Unpack[SearchOptions],
    ) -> RerankDepthReport:
        """How deep a reranker should read: nDCG@k by depth, and from where on more is not better, or worse.

        Every query is searched once, and each of its hits read once, whatever the number of depths.

        Args:
            queries: texts like those that will be asked; hundreds, for differences of a few points.
            judgements: for each the gains of documents, by id. None: the exact best ``top_k`` by full vectors count 1
                each, which tells how far the reranker departs from them, and not whether that is for the better.
            depths: numbers of hits to read.
            reranker: as the constructor takes it; not given: the constructor's.
            top_k: the k of nDCG@k.
            batch_size: queries searched and reranked at a time.
            options: of :meth:`search`, such as ``filter``.

        Raises:
            InvalidInput: there is no reranker, or not one judgement for each query, or none is above 0.
            CollectionNotFound: nothing was indexed yet.
            RerankerError: the reranker failed.
        """
        deep, k, size = check_depths(depths), check_positive(top_k, "top_k"), check_positive(batch_size, "batch_size")
        made = Reranking.of(self._reranking, {} if reranker is NOT_GIVEN else {"reranker": reranker})
        if made is None or made.reranker is None:
            raise InvalidInput("there is no reranker to measure: pass reranker=")
        if isinstance(queries, (str, bytes)) or (judgements is not None and len(judgements) != len(queries)):
            asked = "a single text is" if isinstance(queries, (str, bytes)) else f"{len(queries)} are"
            raise InvalidInput(
                f"queries: {asked} not what {len(judgements or ())} judgements are for; give one for each"
            )
        if self.manifest is None:
            raise CollectionNotFound(f"there is no collection at {self._backend.address}; index something first")
        found: list[SearchResult] = []
        exact: list[dict[str, float]] = []
        wide = max(deep[-1], k)
        for start in range(0, len(queries), size):
            part = queries[start : start + size]
            given: SearchOptions = {**options, "explain": True}
            found += self.search_batch(part, wide, reranker=made.reranker, rerank_top_k=deep[-1], **given)
            if judgements is None:
                true = self.search_batch(part, k, exact=True, filter=options.get("filter"), reranker=None)
                exact += [dict.fromkeys(result.ids, 1.0) for result in true]
        gains = exact if judgements is None else judgements
        return measured(made.reranker.name, found, gains, deep, k, judged=judgements is not None)

    def _queries(self, query: Any, search: PreparedSearch, kwargs: Mapping[str, Any] | None) -> FloatArray:
        """One text or full embedding as ``(1, D)``."""
        if isinstance(query, str):
            text = check_query(query, 0)
            return self._encode(self._collection.verified_encoder(), [text], queries=True, kwargs=kwargs)
        return as_vectors(query, dim=search.manifest.dim, what="query vectors")
