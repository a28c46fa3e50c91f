"""``CollectionReader``: what asks a collection for something: searches by text and by vector, rows, counts.

How the arguments of a search become a backend's request is in ``searching.py``, what the stages do in ``two_stage.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np

from .auto_rotation import AutoRotation
from .backend import Backend, BackendStats
from .collection import Collection
from .documents import Row, SearchResult, check_query, checked_ids
from .encoder import Encoder
from .errors import DimensionError, InvalidInput
from .filters import Filter, parse_filter
from .long_texts import TextEncoding
from .manifest import Manifest
from .matryoshka import FloatArray, as_vectors, number_of_axes, prefix
from .reranking.stage import RERANKING, Reranking
from .searching import CallOptions, PreparedSearch, PreparedSearches, RerankOptions, SearchOptions
from .settings import NOT_GIVEN, CandidateCount, NotGiven, StageSpec, check_positive

if TYPE_CHECKING:
    from .coarse.depth import LearnedDepth
    from .monitoring.watch import Watch

__all__ = ["CollectionInfo", "CollectionReader"]


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """What a collection is and holds."""

    address: str
    manifest: Manifest
    stats: BackendStats


class CollectionReader:
    """The reading half of :class:`~mrl_retrieval.MatryoshkaRetriever`, which says of which collection."""

    _backend: Backend
    _collection: Collection
    _searches: PreparedSearches
    _encode: TextEncoding
    _auto: AutoRotation | None
    _reranking: Reranking | None
    _watch: Watch | None

    def search(
        self,
        query: str,
        top_k: int | NotGiven = NOT_GIVEN,
        *,
        coarse_top_k: CandidateCount | NotGiven = NOT_GIVEN,
        filter: Mapping[str, Any] | Filter | None = None,
        exact: bool = False,
        stages: StageSpec | None = None,
        recall: float | None = None,
        explain: bool = False,
        reranker: Any = NOT_GIVEN,
        rerank_top_k: int | NotGiven = NOT_GIVEN,
        encode_kwargs: Mapping[str, Any] | None = None,
    ) -> SearchResult:
        """The documents nearest to a text, best first.

        Args:
            query: the text.
            top_k: hits wanted.
            coarse_top_k: candidates of the coarse stage; ``"auto"``: as :meth:`plan` found, which is the default too
                once there is a plan.
            filter: only rows whose metadata match; see :mod:`mrl_retrieval.filters`.
            exact: score every stored vector: the answer that everything else can be checked against. There are no
                candidates then, and ``coarse_top_k`` and ``stages`` play no part.
            stages: a funnel for this search: ``[(64, 400), (128, 100)]``.
            recall: instead of ``coarse_top_k``, the share of the true best that is to be found, such as 0.99: each
                query is searched as deep as it needs by what :meth:`learn_depth` learned.
            explain: fill ``result.trace``, and every hit's ``coarse_score`` and ``ranks``.
            reranker: as the constructor takes it, for this search; None: without the constructor's.
            rerank_top_k: hits that it reads at most.
            encode_kwargs: passed on to the encoder.

        Raises:
            InvalidInput: a number, the filter or the query cannot be used.
            EncoderRequired: there is no encoder.
            ModelMismatchError: the collection was made with another encoder.
            NothingLearned: ``recall`` was given before a depth for it was learned, or ``"auto"`` before a plan.
            RerankerError: the reranker failed.
        """
        more: RerankOptions = {}  # only what is given: searches without a reranker know nothing of it
        if reranker is not NOT_GIVEN:
            more["reranker"] = reranker
        if rerank_top_k is not NOT_GIVEN:
            more["rerank_top_k"] = rerank_top_k
        if not isinstance(query, str):
            raise InvalidInput(f"query is {type(query).__name__}, expected str; for several use search_batch")
        return self.search_batch(
            [query],
            top_k,
            coarse_top_k=coarse_top_k,
            filter=filter,
            exact=exact,
            stages=stages,
            recall=recall,
            explain=explain,
            encode_kwargs=encode_kwargs,
            **more,
        )[0]

    def search_batch(
        self,
        queries: Sequence[str],
        top_k: int | NotGiven = NOT_GIVEN,
        *,
        encode_kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> list[SearchResult]:
        """:meth:`search` for several texts at once: one result for each, in order."""
        if isinstance(queries, (str, bytes)) or not isinstance(queries, Iterable):
            raise InvalidInput(f"queries is {type(queries).__name__}; pass a list of texts, or use search for one")
        texts = [check_query(text, i) for i, text in enumerate(queries)]
        reranking = self._reranking_of(options)
        search = self._prepared(reranking, top_k, options)
        if search is None or not texts:
            return [SearchResult() for _ in texts]
        encoder = self._collection.verified_encoder()
        found = self._run(search, self._encode(encoder, texts, queries=True, kwargs=encode_kwargs))
        return found if reranking is None else reranking.applied(found, texts)

    def search_by_vector(
        self, vector: Any, top_k: int | NotGiven = NOT_GIVEN, **options: Unpack[CallOptions]
    ) -> SearchResult:
        """:meth:`search` for a full embedding of shape ``(D,)``; it need not have unit length. A reranker needs
        ``text=``, the query's."""
        if number_of_axes(vector, "vector") != 1:
            raise DimensionError(
                f"vector has shape {np.shape(vector)}, expected (D,); for several use search_batch_by_vector"
            )
        reranking = self._reranking_of(options)
        search = self._prepared(reranking, top_k, options)
        query = as_vectors(vector, dim=None if search is None else search.manifest.dim, what="query vectors")
        texts = None if reranking is None else reranking.texts_of(1)
        if search is None:
            return SearchResult()
        found = self._run(search, query)
        return found[0] if reranking is None or texts is None else reranking.applied(found, texts)[0]

    def search_batch_by_vector(
        self, vectors: Any, top_k: int | NotGiven = NOT_GIVEN, **options: Unpack[CallOptions]
    ) -> list[SearchResult]:
        """:meth:`search` for several full embeddings, ``(Q, D)``: one result for each, in order."""
        reranking = self._reranking_of(options)
        search = self._prepared(reranking, top_k, options)
        if isinstance(vectors, Iterator):
            vectors = list(vectors)
        if isinstance(vectors, Sized) and number_of_axes(vectors, "query vectors") and len(vectors) == 0:
            return []
        queries = as_vectors(vectors, dim=None if search is None else search.manifest.dim, what="query vectors")
        texts = None if reranking is None else reranking.texts_of(len(queries))
        if search is None:
            return [SearchResult() for _ in queries]
        found = self._run(search, queries)
        return found if reranking is None or texts is None else reranking.applied(found, texts)

    def get(self, ids: Iterable[str | int], *, vectors: bool = False) -> list[Row | None]:
        """Rows by id, in the asked order, None where unknown; with ``vectors`` their stored vectors too."""
        wanted = checked_ids(ids)
        if not wanted or not self.manifest:
            return [None] * len(wanted)
        self._collection.check_current(writing=False)
        rows = self._backend.get(wanted, vectors=vectors)
        if vectors and self.manifest.rotation is not None:
            rows = [row and self._turned_back(row) for row in rows]
        return rows

    def count(self, filter: Mapping[str, Any] | Filter | None = None) -> int:
        """How many rows there are, or match."""
        parsed = parse_filter(filter)
        self._collection.check_current(writing=False)
        return self._backend.count(parsed) if self.manifest else 0

    def info(self) -> CollectionInfo:
        """What the collection is and holds.

        Raises:
            CollectionNotFound: nothing was indexed yet.
        """
        manifest = self.manifest or self._backend.manifest  # the latter says what is missing
        return CollectionInfo(str(self._backend.address), manifest, self._backend.stats())

    def learn_depth(self, queries: Any = None, *, top_k: int = 10) -> LearnedDepth:
        """Learn how deep to search for which recall of the best ``top_k``, for ``recall=`` in searches.

        The coarse index is made anew for it, and learned again whenever it is.

        Args:
            queries: a few hundred texts like those that will be asked, or their full embeddings (Q, D); 600 are enough
                for a recall of 0.99. None: stored vectors stand for queries; these are nearer to each other than
                queries are to them, so that somewhat less recall than promised is found.
            top_k: hits that searches will ask for, at most.

        Returns:
            What was learned, with the recall that each depth holds with 95 % confidence.

        Raises:
            CollectionNotFound: nothing was indexed yet.
            InvalidInput: there are too few queries, or documents.
            NothingLearned: this backend does not learn.
        """
        k = check_positive(top_k, "top_k")
        manifest = self.manifest or self._backend.manifest  # the latter says what is missing
        self._collection.check_current(writing=False)
        if queries is None:
            return cast("LearnedDepth", self._backend.learn_depth(None, k))
        return cast("LearnedDepth", self._backend.learn_depth(self._query_vectors(queries, manifest), k))

    @property
    def backend(self) -> Backend:
        """The database behind this retriever."""
        return self._backend

    @property
    def encoder(self) -> Encoder | None:
        """The encoder; loaded from the collection's manifest if none was given and it has a name for it."""
        return self._collection.encoder

    @property
    def manifest(self) -> Manifest | None:
        """What the collection remembers of how it was made; None before the first write."""
        return self._collection.manifest

    @property
    def long_texts(self) -> int:
        """How many texts beyond the encoder's context this retriever has met."""
        return self._encode.long_texts

    def _query_vectors(self, queries: Any, manifest: Manifest) -> FloatArray:
        """Texts, or full embeddings, as the collection stores vectors: (Q, fine_dims)."""
        if isinstance(queries, (str, bytes)) or not isinstance(queries, Iterable):
            raise InvalidInput(f"queries is {type(queries).__name__}; pass a list of texts, or vectors (Q, D)")
        if not isinstance(queries, Sized):
            queries = list(queries)
        if not len(queries):
            raise InvalidInput("queries is empty; pass a few hundred texts, or vectors (Q, D), or None")
        if isinstance(next(iter(queries)), str):
            texts = [check_query(text, i) for i, text in enumerate(queries)]
            queries = self._encode(self._collection.verified_encoder(), texts, queries=True)
        vectors = as_vectors(queries, dim=manifest.dim, what="query vectors")
        return prefix(self._collection.turned(vectors), manifest.fine_dims)

    def _run(self, search: PreparedSearch, vectors: FloatArray) -> list[SearchResult]:
        self._searches.look_at_plan(search.manifest, self._backend)
        if self._watch is None:
            return search.run(self._backend, self._collection.turned(vectors))
        return self._watch.run(search, self._backend, self._collection.turned(vectors))

    def _reranking_of(self, options: CallOptions) -> Reranking | None:
        """What reranks, taken out of the options."""
        if self._reranking is None and (not options or options.keys().isdisjoint(RERANKING)):
            return None
        return Reranking.of(self._reranking, options)

    def _prepared(
        self, reranking: Reranking | None, top_k: int | NotGiven, options: SearchOptions
    ) -> PreparedSearch | None:
        return self._prepare(top_k, options) if reranking is None else reranking.prepared(self._prepare, top_k, options)

    def _turned_back(self, row: Row) -> Row:
        if row.vector is None:
            return row
        return Row(row.id, row.document, row.metadata, self._collection.turned_back(row.vector[None])[0])

    def _prepare(self, top_k: int | NotGiven, options: SearchOptions) -> PreparedSearch | None:
        if (
            self._auto is not None
            and not (options.keys() - {"filter", "explain"})
            and self._auto.is_waiting(self._collection)
        ):
            options = {**options, "exact": True}
        prepared = self._searches.prepare(self._collection.manifest, top_k, options)
        self._collection.check_current(writing=False)
        return prepared
