"""``MatryoshkaRetriever``: index documents, search short prefixes, rerank with full vectors.

This file is the public face: it puts together an encoder, a backend and the settings. What the stages do is in
``two_stage.py``, how input is checked in ``indexing.py`` and written in ``writing.py``, how a collection recognises its
encoder in ``identity.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast

import numpy as np

from .auto_rotation import AutoRotation
from .backend import Backend, BackendStats
from .collection import Collection
from .documents import Row, SearchResult, check_id, check_query
from .encoder import Encoder
from .errors import CollectionNotFound, DimensionError, InvalidInput
from .filters import Filter, parse_filter
from .generations import base_of, open_current
from .indexing import input_batches
from .long_texts import OnLong, TextEncoding
from .manifest import Manifest
from .matryoshka import FloatArray, as_vectors, number_of_axes, prefix
from .moving.copying import CopyReport, copy_collection
from .progress import progress_report
from .registry import open_backend
from .rotation import Rotation
from .searching import PreparedSearch, PreparedSearches, SearchOptions
from .settings import NOT_GIVEN, NotGiven, SearchSettings, StageSpec, check_positive
from .writing import Writer

if TYPE_CHECKING:
    from .coarse.depth import LearnedDepth

__all__ = ["CollectionInfo", "MatryoshkaRetriever"]


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """What a collection is and holds."""

    address: str
    manifest: Manifest
    stats: BackendStats


class MatryoshkaRetriever:
    """Two-stage retrieval over one collection. Thread-safe.

    Args:
        encoder: a name (``"wordllama"``, ``"sentence-transformers:NAME_OR_FOLDER"``), a ``SentenceTransformer``, an
            :class:`~mrl_retrieval.encoder.Encoder`, or a function ``texts -> (N, D)``. None: vectors are given by
            the caller. Not given: the collection's own.
        backend: an address such as ``"memory:"``, ``"faiss:./kb"``, ``"chroma:./kb"``,
            ``"chroma+http://host:8000"``, ``"qdrant:./kb"``, ``"qdrant+http://host:6333"``, each with
            ``?collection=NAME`` if wanted; or a :class:`~mrl_retrieval.backend.Backend`.
        coarse_dims: length of the prefixes that the coarse stage searches (64); clamped to the vectors' length.
        fine_dims: length of the vectors that are stored and reranked with; None: all of the encoder's.
        coarse_top_k: candidates of the coarse stage (200, or four for each hit where more hits are asked for).
        final_top_k: hits of a search (10).
        stages: a funnel instead of ``coarse_dims`` and ``coarse_top_k``: ``[(64, 400), (128, 100)]``.
        dim: full length of the vectors where ``encoder=None``; not given, the first vector fixes it.
        on_long: what becomes of a text beyond the encoder's context: ``"truncate"`` leaves it to the encoder (and
            warns once), ``"error"`` refuses it, ``"chunk"`` takes the mean of the vectors of its pieces.
        strict: make no collection at dims that the encoder's model was not trained for, or of which that is not known
            (``mrl models``): a :class:`~mrl_retrieval.errors.TruncationError` instead of a warning.
        rotation: what :func:`~mrl_retrieval.fit_rotation` gives: vectors are stored rotated, so that prefixes of models
            that were not trained for them say more. Part of the collection from then on, and not to be given again;
            vectors that are given or asked for are never rotated ones. ``"auto"``: for such models the collection is
            searched exactly until it has ten vectors for each dim, then rotated as by :func:`~mrl_retrieval.rotate`,
            if its prefixes find more so.
        backend_options: what the backend's page lists, such as ``{"lock_timeout": 5}``.

    Nothing is created before the first write. What is not given comes from the collection; what is given and
    differs from it is an error.

    >>> retriever = MatryoshkaRetriever(encoder="hashing", backend="memory:")
    >>> ids = retriever.index(["git revert undoes a commit", "a cake needs flour"], ids=["git", "cake"])
    >>> for id, score, document in retriever.search("How do I undo a commit?", top_k=1):
    ...     print(id, document)
    git git revert undoes a commit
    """

    def __init__(
        self,
        encoder: Any = NOT_GIVEN,
        backend: str | Backend = "memory:",
        *,
        coarse_dims: int | NotGiven = NOT_GIVEN,
        fine_dims: int | None = None,
        coarse_top_k: int | NotGiven = NOT_GIVEN,
        final_top_k: int | NotGiven = NOT_GIVEN,
        stages: StageSpec | None = None,
        dim: int | None = None,
        on_long: OnLong = "truncate",
        strict: bool = False,
        rotation: Rotation | Literal["auto"] | None = None,
        backend_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._made = SearchSettings.checked(
            coarse_top_k,
            final_top_k,
            NOT_GIVEN if stages is None else stages,
            top_k_name="final_top_k",
            coarse_dims=coarse_dims,
        )
        self._searches = PreparedSearches(self._made)
        self._encode = TextEncoding(on_long)
        if isinstance(backend, Backend):
            if backend_options:
                raise TypeError("backend_options= belong to an address; this backend is already open")
            self._backend = backend
        elif isinstance(backend, str):
            self._backend = open_current(backend, **(backend_options or {}))
            self._options = dict(backend_options or {})
        else:
            raise InvalidInput(
                f"backend is {type(backend).__name__}; pass an address such as 'faiss:./kb', or an open Backend"
            )
        self._auto: AutoRotation | None = None
        if isinstance(rotation, str) and rotation == "auto":
            self._auto = _auto_rotation(backend, backend_options or {})

        def collection(of: Backend) -> Collection:
            return Collection(
                of,
                encoder,
                coarse_dims=coarse_dims,
                fine_dims=fine_dims,
                stages=self._made.stages,
                dim=dim,
                strict=strict,
                rotation=rotation,
            )

        self._collection_of = collection
        try:
            self._collection = collection(self._backend)
        except BaseException:
            if self._backend is not backend:
                self._backend.close()
            raise
        self._writer = Writer(self._collection, self._encode)
        self._left: list[Backend] = []

    @classmethod
    def open(cls, address: str | Backend, encoder: Any = None, **settings: Any) -> MatryoshkaRetriever:
        """Open a collection that exists, by its address alone; its encoder is the one named in the manifest.

        Args:
            address: as ``backend`` of the constructor.
            encoder: has to be given again where the manifest has no name for it, to search by text.
            settings: other arguments of the constructor.

        Raises:
            CollectionNotFound: there is none.
        """
        retriever = cls(NOT_GIVEN if encoder is None else encoder, address, **settings)
        if retriever.manifest is None:
            where = retriever._backend.address
            known = ", ".join(retriever._backend.collections()) or "none"
            if retriever._backend is not address:
                retriever.close()
            raise CollectionNotFound(
                f"there is no collection at {where} (collections there: {known}); index into it first"
            )
        return retriever

    # -- writing -------------------------------------------------------------------------------------------

    def index(
        self,
        documents: Iterable[str | None],
        ids: Iterable[str | int | None] | None = None,
        metadatas: Iterable[Mapping[str, Any] | None] | None = None,
        vectors: Any | None = None,
        batch_size: int = 256,
        progress: bool | Callable[[int, int | None], None] = False,
    ) -> list[str]:
        """Write documents; an id that exists is overwritten. ``upsert`` is the same.

        Args:
            documents: texts; any iterable, it need not fit in memory. None for a row without text, if it has a vector.
            ids: one for each; an id that is None (or all of them) is made from document and metadata.
            metadatas: JSON-like dicts, one for each, or None.
            vectors: full embeddings, ``(N, D)``, if they are already known. One that is None: the row is
                stored, but never found by a search.
            batch_size: rows encoded and written at a time.
            progress: True draws a bar on stderr; a function is called with rows done and their total (or None).

        Returns:
            One id per input, in order.

        Raises:
            InvalidInput: something cannot be stored. Lists are checked whole before anything is written.
            EncoderRequired: there is neither an encoder nor ``vectors``.
            ModelMismatchError: the collection was made with another encoder.
            BackendError: the database failed. ``error.indexed_ids`` names the rows that are in.
        """
        batches = input_batches(
            documents,
            ids,
            metadatas,
            vectors,
            batch_size=check_positive(batch_size, "batch_size"),
            dim=None if vectors is None else self._collection.vector_dim,
        )
        if self._auto is not None and self._auto.finish(self._collection):
            self._follow()
        with progress_report(progress, documents) as report:
            written = self._writer.index(batches, report, encoding=vectors is None)
        if self._auto is not None and self._auto.rotate_if_due(self._collection):
            self._follow()
        return written

    upsert = index

    def delete(self, ids: Iterable[str | int] | None = None, *, filter: Mapping[str, Any] | None = None) -> int:
        """Remove rows by id or by filter; unknown ids are no error. Returns how many were there."""
        if (ids is None) == (filter is None):
            raise TypeError("delete takes either ids= or filter=")
        return self._writer.delete_matching(parse_filter(filter)) if ids is None else self._writer.delete(_id_list(ids))

    # -- reading -------------------------------------------------------------------------------------------

    def search(
        self,
        query: str,
        top_k: int | NotGiven = NOT_GIVEN,
        *,
        coarse_top_k: int | NotGiven = NOT_GIVEN,
        filter: Mapping[str, Any] | Filter | None = None,
        exact: bool = False,
        stages: StageSpec | None = None,
        recall: float | None = None,
        explain: bool = False,
        encode_kwargs: Mapping[str, Any] | None = None,
    ) -> SearchResult:
        """The documents nearest to a text, best first.

        Args:
            query: the text.
            top_k: hits wanted.
            coarse_top_k: candidates of the coarse stage.
            filter: only rows whose metadata match; see :mod:`mrl_retrieval.filters`.
            exact: score every stored vector: the answer that everything else can be checked against. There are no
                candidates then, and ``coarse_top_k`` and ``stages`` play no part.
            stages: a funnel for this search: ``[(64, 400), (128, 100)]``.
            recall: instead of ``coarse_top_k``, the share of the true best that is to be found, such as 0.99: each
                query is searched as deep as it needs by what :meth:`learn_depth` learned.
            explain: fill ``result.trace`` and every hit's ``coarse_score``.
            encode_kwargs: passed on to the encoder.

        Raises:
            InvalidInput: a number, the filter or the query cannot be used.
            EncoderRequired: there is no encoder.
            ModelMismatchError: the collection was made with another encoder.
            NothingLearned: ``recall`` was given before a depth for it was learned.
        """
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
        )[0]

    def search_batch(
        self,
        queries: Sequence[str],
        top_k: int | NotGiven = NOT_GIVEN,
        *,
        encode_kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SearchOptions],
    ) -> list[SearchResult]:
        """:meth:`search` for several texts at once: one result for each, in order."""
        if isinstance(queries, (str, bytes)) or not isinstance(queries, Iterable):
            raise InvalidInput(f"queries is {type(queries).__name__}; pass a list of texts, or use search for one")
        texts = [check_query(text, i) for i, text in enumerate(queries)]
        search = self._prepare(top_k, options)
        if search is None or not texts:
            return [SearchResult() for _ in texts]
        encoder = self._collection.verified_encoder()
        return self._run(search, self._encode(encoder, texts, queries=True, kwargs=encode_kwargs))

    def search_by_vector(
        self, vector: Any, top_k: int | NotGiven = NOT_GIVEN, **options: Unpack[SearchOptions]
    ) -> SearchResult:
        """:meth:`search` for a full embedding of shape ``(D,)``; it need not have unit length."""
        if number_of_axes(vector, "vector") != 1:
            raise DimensionError(
                f"vector has shape {np.shape(vector)}, expected (D,); for several use search_batch_by_vector"
            )
        search = self._prepare(top_k, options)
        query = as_vectors(vector, dim=None if search is None else search.manifest.dim, what="query vectors")
        return SearchResult() if search is None else self._run(search, query)[0]

    def search_batch_by_vector(
        self, vectors: Any, top_k: int | NotGiven = NOT_GIVEN, **options: Unpack[SearchOptions]
    ) -> list[SearchResult]:
        """:meth:`search` for several full embeddings, ``(Q, D)``: one result for each, in order."""
        search = self._prepare(top_k, options)
        if isinstance(vectors, Iterator):
            vectors = list(vectors)
        if isinstance(vectors, Sized) and number_of_axes(vectors, "query vectors") and len(vectors) == 0:
            return []
        queries = as_vectors(vectors, dim=None if search is None else search.manifest.dim, what="query vectors")
        return [SearchResult() for _ in queries] if search is None else self._run(search, queries)

    def get(self, ids: Iterable[str | int], *, vectors: bool = False) -> list[Row | None]:
        """Rows by id, in the asked order, None where unknown; with ``vectors`` their stored vectors too."""
        wanted = _id_list(ids)
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

    # -- the rest ------------------------------------------------------------------------------------------

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
        return cast(
            "LearnedDepth", self._backend.learn_depth(prefix(self._collection.turned(vectors), manifest.fine_dims), k)
        )

    def copy_to(
        self,
        target: str | Backend,
        *,
        allow_lossy: bool = False,
        batch_size: int = 1000,
        progress: bool | Callable[[int, int | None], None] = False,
        backend_options: Mapping[str, Any] | None = None,
    ) -> CopyReport:
        """Copy the collection to another address, on any backend, vectors and all: no encoder is called.

        An interrupted copy is taken up by calling it again; at the end every row has been read back and compared.

        Args:
            target: an address where there is no collection yet, or an earlier copy of this one; or an open backend.
            allow_lossy: copy even where one of the two stores vectors with less precision than the other.
            batch_size: rows read and written at a time.
            progress: True draws a bar on stderr; a function is called with rows done and their total.
            backend_options: of the target, where ``target`` is an address.

        Raises:
            CollectionNotFound: nothing was indexed yet.
            ConflictError: another collection is there, or this one was written to all the time.
            InvalidInput: precision would be lost, and ``allow_lossy`` is False.
        """
        size = check_positive(batch_size, "batch_size")
        if isinstance(target, Backend):
            return copy_collection(self._backend, target, allow_lossy=allow_lossy, batch_size=size, progress=progress)
        with open_backend(target, **(backend_options or {})) as backend:
            return copy_collection(self._backend, backend, allow_lossy=allow_lossy, batch_size=size, progress=progress)

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

    def flush(self) -> None:
        """Write caches that make the next opening faster. Rows are durable without it."""
        if self.manifest:
            self._backend.flush()

    def close(self) -> None:
        """Release files and connections; a second call is no error."""
        for backend in (*self._left, self._backend):
            backend.close()

    def __enter__(self) -> MatryoshkaRetriever:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"MatryoshkaRetriever({str(self._backend.address)!r})"

    def _follow(self) -> None:
        """Go on with the generation that holds the rows now. Whoever is searching the one before may finish."""
        backend = open_current(self._backend.address.with_collection(self._base_name()), **self._options)
        collection = self._collection_of(backend)
        self._left.append(self._backend)
        self._backend, self._collection, self._writer = backend, collection, Writer(collection, self._encode)

    def _base_name(self) -> str:
        manifest, name = self._collection.manifest, self._backend.address.collection
        return name if manifest is None else base_of(manifest, name)

    def _run(self, search: PreparedSearch, vectors: FloatArray) -> list[SearchResult]:
        return search.run(self._backend, self._collection.turned(vectors))

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


def _auto_rotation(backend: Any, options: Mapping[str, Any]) -> AutoRotation:
    if not isinstance(backend, str) or backend.partition("?")[0] == "memory:":
        raise InvalidInput(
            'rotation="auto" needs an address that can be opened twice, such as faiss:./kb or memory:NAME, got '
            f"{backend!r}: pass one, or a rotation of fit_rotation(encoder, texts)"
        )
    return AutoRotation(backend, options)


def _id_list(ids: Iterable[str | int]) -> list[str]:
    if isinstance(ids, (str, int)):
        ids = [ids]
    return [check_id(id, i) for i, id in enumerate(ids)]
