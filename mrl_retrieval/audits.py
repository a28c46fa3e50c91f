"""Auditing a collection: what its searches find of the true best, held to its own exact search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .filters import Filter
from .reading import CollectionReader
from .searching import SearchOptions
from .settings import NOT_GIVEN, NotGiven, StageSpec

if TYPE_CHECKING:
    from .monitoring.report import RecallReport

__all__ = ["AuditedReader"]


class AuditedReader(CollectionReader):
    """A reader whose recall can be measured."""

    def measure_recall(
        self,
        queries: Any = None,
        n: int = 200,
        filter: Mapping[str, Any] | Filter | None = None,
        *,
        top_k: int | NotGiven = NOT_GIVEN,
        coarse_top_k: int | NotGiven = NOT_GIVEN,
        stages: StageSpec | None = None,
        recall: float | None = None,
        confidence: float = 0.95,
        progress: bool | Callable[[int, int | None], None] = False,
    ) -> RecallReport:
        """Hold searches to the collection's own exact search: the share of the true best they find, by score with ties.

        Args:
            queries: texts, or full embeddings (Q, D); ten at least, better 200. None: stored vectors stand for
                queries, each without its own row; they are nearer to each other than queries are, which is easier.
            n: how many stored vectors are drawn, evenly, where they stand for queries.
            filter, top_k, coarse_top_k, stages, recall: as for :meth:`search`.
            confidence: of the bounds of the mean.
            progress: as :meth:`~mrl_retrieval.MatryoshkaRetriever.index` takes it.

        Raises:
            CollectionNotFound: nothing was indexed yet.
            InvalidInput: there are too few queries or vectors, or an argument cannot be used.
        """
        from .monitoring.measuring import audit  # here: most processes audit nothing

        manifest = self.manifest or self._backend.manifest  # the latter says what is missing
        options: SearchOptions = {"coarse_top_k": coarse_top_k, "stages": stages, "recall": recall, "filter": filter}
        search = self._prepare(top_k, options)
        assert search is not None
        vectors = None
        if queries is not None:
            queries = list(queries) if isinstance(queries, Iterator) else queries
            vectors = self._query_vectors(queries, manifest)
        return audit(search, self._backend, queries, vectors, n, confidence, progress)
