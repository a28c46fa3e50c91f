"""``AdvisingReader``: what a collection can be asked about its own searches: why a document was not found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .documents import check_query, checked_ids
from .errors import CollectionNotFound, DimensionError
from .filters import Filter
from .losing import find_why_not
from .matryoshka import FloatArray, as_vectors, number_of_axes
from .reading import CollectionReader
from .searching import PreparedSearch, SearchOptions
from .settings import NOT_GIVEN, NotGiven, StageSpec
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
    ) -> WhyNot:
        """Why a search with these arguments does not find a document: where it is lost, by how much, and the smallest
        ``coarse_top_k`` (or ``top_k``) that would have kept it.

        An id that the collection does not hold is a verdict, too. The search is done once more, and where the
        document is lost in the coarse stage, all rows that the filter lets through are read, a batch at a time.

        Args:
            query: a text, or a full embedding ``(D,)``.
            id: of the document.

        The other arguments, and what they raise, are those of :meth:`search`.

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
        search = self._prepare(top_k, given)
        if search is None:
            raise CollectionNotFound(f"there is no collection at {self._backend.address}; index something first")
        vector = self._queries(query, search, encode_kwargs)
        return find_why_not(self._backend, search, self._collection.turned(vector), wanted)

    def _queries(self, query: Any, search: PreparedSearch, kwargs: Mapping[str, Any] | None) -> FloatArray:
        """One text or full embedding as ``(1, D)``."""
        if isinstance(query, str):
            text = check_query(query, 0)
            return self._encode(self._collection.verified_encoder(), [text], queries=True, kwargs=kwargs)
        return as_vectors(query, dim=search.manifest.dim, what="query vectors")
