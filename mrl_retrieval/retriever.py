"""``MatryoshkaRetriever``: index documents, search short prefixes, rerank with full vectors.

This file is the public face: it puts together an encoder, a backend and the settings. How it reads is in
``reading.py``, what the stages do in ``two_stage.py``, how input is checked in ``indexing.py`` and written in
``writing.py``, how a collection recognises its encoder in ``identity.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from .advising import AdvisingReader
from .audits import AuditedReader
from .auto_rotation import AutoRotation
from .backend import Backend
from .collection import Collection
from .documents import checked_ids
from .errors import CollectionNotFound, InvalidInput
from .filters import parse_filter
from .generations import base_of, open_current
from .indexing import input_batches
from .long_texts import OnLong, TextEncoding
from .moving.copying import CopyReport, copy_collection
from .plans import PlannedReader
from .progress import progress_report
from .registry import open_backend
from .reranking.stage import made_reranking
from .rotation import Rotation
from .searching import PreparedSearches
from .settings import NOT_GIVEN, CandidateCount, NotGiven, SearchSettings, StageSpec, check_positive
from .writing import Writer

if TYPE_CHECKING:
    from .monitoring import RecallMonitor
    from .telemetry import Telemetry

__all__ = ["MatryoshkaRetriever"]


class MatryoshkaRetriever(PlannedReader, AdvisingReader, AuditedReader):
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
        coarse_top_k: candidates of the coarse stage (what the collection's plan says, see :meth:`plan`; else 200, or
            four for each hit where more hits are asked for). ``"auto"``: the plan's, or an error.
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
        reranker: a third stage of searches by text: a sentence-transformers ``CrossEncoder``, its name
            (``"cross-encoder:FOLDER_OR_NAME"``), or a function ``(query, documents) -> scores``.
        rerank_top_k: hits that it reads at most (50).
        backend_options: what the backend's page lists, such as ``{"lock_timeout": 5}``.
        monitor: a :class:`~mrl_retrieval.monitoring.RecallMonitor`, which replays a share of the searches exactly.
        telemetry: True, or a :class:`~mrl_retrieval.telemetry.Telemetry`: spans and metrics by OpenTelemetry (extra
            ``otel``).

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
        coarse_top_k: CandidateCount | NotGiven = NOT_GIVEN,
        final_top_k: int | NotGiven = NOT_GIVEN,
        stages: StageSpec | None = None,
        dim: int | None = None,
        on_long: OnLong = "truncate",
        strict: bool = False,
        rotation: Rotation | Literal["auto"] | None = None,
        reranker: Any = None,
        rerank_top_k: int | None = None,
        backend_options: Mapping[str, Any] | None = None,
        monitor: RecallMonitor | None = None,
        telemetry: bool | Telemetry | None = None,
    ) -> None:
        self._made = SearchSettings.checked(
            coarse_top_k,
            final_top_k,
            NOT_GIVEN if stages is None else stages,
            top_k_name="final_top_k",
            coarse_dims=coarse_dims,
        )
        self._searches = PreparedSearches(self._made)
        self._reranking = made_reranking(reranker, rerank_top_k)
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
            self._auto = AutoRotation(backend, backend_options or {})

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
            self._watch = None
            if monitor is not None or telemetry:
                from .monitoring.watch import watch  # here: most retrievers are not watched

                self._watch = watch(monitor, telemetry, self._backend)
                self._encode = self._watch.encoding(self._encode, lambda: self._backend)
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
        return (
            self._writer.delete_matching(parse_filter(filter)) if ids is None else self._writer.delete(checked_ids(ids))
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

    def flush(self) -> None:
        """Write caches that make the next opening faster. Rows are durable without it."""
        if self.manifest:
            self._backend.flush()

    def close(self) -> None:
        """Release files and connections; a second call is no error."""
        if self._watch is not None:
            self._watch.close()
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
