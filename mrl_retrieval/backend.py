"""The contract of a vector database, and what it declares of itself.

To write a backend, subclass :class:`Backend`, register the class under the entry-point group
``mrl_retrieval.backends``, and run :class:`mrl_retrieval.testing.BackendConformance` on it. The base class
writes the two-stage search on :meth:`~Backend.coarse_search` and :meth:`~Backend.fetch_vectors`; override
:meth:`~Backend.search` only where the database does both stages better in one round trip.

What the core guarantees to a backend: ids are non-empty strings, unique within a batch; vectors are float32,
finite, of ``fine_dims`` components and unit length (or zero); metadata is plain JSON; filters are parsed;
requests are consistent with the manifest; nothing but ``read_manifest``, ``collections`` and ``close`` is called
before the manifest was written or read.

What a backend guarantees: it is thread-safe; it never changes its input; a batch that was acknowledged is found
by the next call; its client library's errors come out as :class:`~mrl_retrieval.errors.MRLError`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .address import Address
from .documents import Row, RowBatch
from .errors import CollectionNotFound, NothingLearned, NotSupported
from .filters import Filter, IdIn, leaves, matches
from .manifest import Manifest
from .matryoshka import FloatArray
from .scoring import cosine_scores, top_k
from .two_stage import (
    Candidates,
    CoarseSearch,
    ExactSearch,
    FetchRows,
    FetchVectors,
    Ranking,
    Request,
    ResolveFilter,
    SearchRequest,
    drive,
    exact,
    two_stage,
)

__all__ = ["Backend", "BackendStats", "Capabilities"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do; nobody finds out by an exception at query time. The suite holds it to this."""

    persistent: bool = False
    """Rows are there after ``close`` and reopening."""
    transactions: bool = False
    """A failed batch leaves nothing. False: parts may be left, invisible, until the batch is repeated."""
    concurrent_writers: bool = False
    """Several processes may write at the same time."""
    exclusive_open: bool = False
    """A place can be open only once at a time, even for reading."""
    server_side_rerank: bool = False
    """Both stages run in the database, in one round trip."""
    server_side_funnel: bool = False
    """A funnel of any length runs in the database too, in the same round trip."""
    filter_operators: frozenset[str] = frozenset()
    """Operators pushed down into the coarse stage; the core resolves the others to an allow-list of ids."""
    exact_search: bool = False
    """Scores every vector inside the database. False: the core reads all vectors and scores them."""
    approximate_coarse: bool = False
    """The coarse stage may miss some of the true best prefixes (a graph or inverted index)."""
    depth_by_query: bool = False
    """Learns how deep to search for a recall: ``learn_depth``, then ``recall=`` in a search."""
    vector_dtype: str = "float32"
    """How fine vectors are stored."""
    quantization: frozenset[str] = frozenset()
    """Ways to store the coarse vectors smaller, as the option ``coarse_quantization`` takes them."""
    attachments: bool = False
    """Keeps blobs beside the rows: ``write_attachment``, ``read_attachment``."""


@dataclass(frozen=True, slots=True)
class BackendStats:
    """What a collection holds."""

    rows: int
    vectors: int
    """Rows that have a vector."""
    bytes: Mapping[str, int | None] = field(default_factory=dict)
    """Bytes per part: ``"coarse"`` (short vectors and their index), ``"fine"`` (full vectors), ``"rows"`` (documents,
    metadata, ids); None where the database does not tell."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else is worth showing, such as the kind of index."""


class Backend(ABC):
    """One collection in one database."""

    capabilities: Capabilities = Capabilities()
    """Of this backend at this address: a server may do what a folder does not."""
    options: ClassVar[frozenset[str]] = frozenset()
    """Names that ``from_address`` takes as keyword arguments."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._manifest: Manifest | None = None

    @classmethod
    @abstractmethod
    def from_address(cls, address: Address, **options: Any) -> Backend:
        """Connect. Creates nothing, takes no lock; raises where the place is plainly not ours."""

    # -- the collection ------------------------------------------------------------------------------------

    @abstractmethod
    def read_manifest(self) -> Manifest | None:
        """The manifest as it is stored now, or None where there is no collection. Sets ``self._manifest``.

        Raises:
            NotACollection: something else is there.
            ManifestError: it is damaged.
        """

    @abstractmethod
    def write_manifest(self, manifest: Manifest, expected: Manifest | None) -> None:
        """Compare-and-set: replace ``expected`` (None: create the collection) by ``manifest``. Sets ``self._manifest``.

        Raises:
            ConflictError: what is stored is not ``expected`` (their ``checksum`` differ), or it exists already.
        """

    @property
    def manifest(self) -> Manifest:
        """The manifest last read or written.

        Raises:
            CollectionNotFound: there is none.
        """
        if self._manifest is None:
            self._manifest = self.read_manifest()
        if self._manifest is None:
            raise CollectionNotFound(f"there is no collection at {self.address}; index something first")
        return self._manifest

    @abstractmethod
    def collections(self) -> list[str]:
        """Names of the collections at this address, sorted; ``[]`` where the place does not exist yet."""

    @abstractmethod
    def drop(self) -> None:
        """Remove the collection with everything in it; no error if it is not there. Others stay."""

    # -- attachments ---------------------------------------------------------------------------------------

    def write_attachment(self, name: str, content: bytes) -> None:
        """Keep ``content`` with the collection, in place of what had this name: whole or not at all, durable and
        visible to every reader on return. It goes with the collection: ``drop`` removes it, a backup holds it.

        Names and sizes are checked by :func:`~mrl_retrieval.attachments.seal`, which also adds a checksum.

        Args:
            name: ASCII letters, digits and hyphens, 40 at most.
            content: 32 MiB at most.

        Raises:
            InvalidInput: name or content cannot be used.
            CollectionNotFound: there is no collection.
            NotSupported: ``capabilities.attachments`` is False.
        """
        raise self._no_attachments()

    def read_attachment(self, name: str) -> bytes | None:
        """What was last written under this name; None where there is nothing, or no collection.

        Raises:
            CorruptionError: it is not as it was written.
            InvalidInput: no attachment can have this name.
            NotSupported: ``capabilities.attachments`` is False.
        """
        raise self._no_attachments()

    def _no_attachments(self) -> NotSupported:
        return NotSupported(
            f"the backend at {self.address} keeps no attachments (capabilities.attachments is False, True is needed): "
            "use a backend that does, or a newer version of this one"
        )

    # -- rows ----------------------------------------------------------------------------------------------

    @abstractmethod
    def upsert(self, batch: RowBatch) -> None:
        """Write rows; an id that exists is overwritten whole. Durable and visible on return."""

    @abstractmethod
    def delete(self, ids: Sequence[str]) -> int:
        """Remove rows; unknown ids are no error. Returns how many were there."""

    @abstractmethod
    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        """Rows in the asked order (an id may be asked for twice), None where unknown."""

    @abstractmethod
    def count(self, filter: Filter | None = None) -> int:
        """How many rows match, those without a vector included. Takes any filter: see :meth:`resolve_filter`."""

    @abstractmethod
    def scan(
        self, filter: Filter | None = None, *, vectors: bool = False, documents: bool = True, batch_size: int = 1000
    ) -> Iterator[RowBatch]:
        """Every row that matches, each once, in batches, in an order of the backend's choice.

        With ``documents=False`` the documents column may hold None throughout. Takes any filter.
        """

    # -- search --------------------------------------------------------------------------------------------

    @abstractmethod
    def coarse_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        """The best ``limit`` prefixes for each of ``(Q, coarse_dims)`` unit queries, best first.

        ``filter`` has been through :meth:`resolve_filter`. Rows without a vector are never candidates. With a
        filter ``min(limit, matching)`` candidates come back.
        """

    def fetch_vectors(self, ids: Sequence[str]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Stored vectors, decoded to float32, parallel to ``ids``: ``(n, fine_dims)`` and which were there."""
        rows = self.get(ids, vectors=True)
        found = np.array([row is not None and row.vector is not None for row in rows], dtype=np.bool_)
        out = np.zeros((len(ids), self.manifest.fine_dims), dtype=np.float32)
        for i, row in enumerate(rows):
            if row is not None and row.vector is not None:
                out[i] = row.vector
        return out, found

    def exact_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        """The true best ``limit`` over all stored vectors, for ``(Q, fine_dims)``. Here: read them all, score them."""
        best = [Candidates([], np.empty(0, dtype=np.float32)) for _ in vectors]
        read = 0
        for batch in self.scan(filter, vectors=True, documents=False):
            if batch.vectors is None or not batch.has_vector.any():
                continue
            rows = np.flatnonzero(batch.has_vector).tolist()
            ids = [batch.ids[i] for i in rows]
            read += batch.vectors[0].nbytes * len(rows)
            for q, query in enumerate(vectors):
                scores = np.concatenate([best[q].scores, cosine_scores(query, batch.vectors[rows])])
                best[q] = Candidates(*top_k(scores, best[q].ids + ids, limit), read)
        return best

    def search(self, request: SearchRequest) -> list[Ranking]:
        """Both stages and the rows of the hits: one :class:`~mrl_retrieval.two_stage.Ranking` per query."""
        return drive(exact(request) if request.exact else two_stage(request), self.perform)

    def perform(self, request: Request) -> Any:
        """Do one step of a search."""
        match request:
            case CoarseSearch(vectors, limit, filter):
                return self.coarse_search(vectors, limit, filter)
            case FetchVectors(ids):
                return (
                    self.fetch_vectors(ids)
                    if ids
                    else (np.empty((0, self.manifest.fine_dims), np.float32), np.empty(0, np.bool_))
                )
            case FetchRows(ids):
                return self.get(ids) if ids else []
            case ExactSearch(vectors, limit, filter):
                return self.exact_search(vectors, limit, filter)
            case ResolveFilter(filter):
                return self.resolve_filter(filter)

    # -- filters -------------------------------------------------------------------------------------------

    def can_filter(self, filter: Filter) -> bool:
        """Whether the database can express this filter exactly. Here: every operator in it is declared, and
        :class:`~mrl_retrieval.filters.IdIn` always. Override where it depends on operands too."""
        return all(leaf.op in self.capabilities.filter_operators for leaf in leaves(filter))

    def resolve_filter(self, filter: Filter | None) -> Filter | None:
        """The filter itself where the database can express it, else the allow-list of ids that match it.

        Raises:
            FilterError: an order operator meets a stored value of another type, in whichever row.
        """
        if filter is None or self.can_filter(filter):
            return filter
        return IdIn(frozenset(self.matching_ids(filter)))

    def matching_ids(self, filter: Filter) -> Iterator[str]:
        """Ids of the rows that match, by reading all metadata and evaluating the filter here."""
        for batch in self.scan(documents=False):
            for id, metadata in zip(batch.ids, batch.metadatas, strict=True):
                if matches(filter, id, metadata):
                    yield id

    # -- the rest ------------------------------------------------------------------------------------------

    @abstractmethod
    def stats(self) -> BackendStats:
        """Counts and sizes."""

    def flush(self) -> None:
        """Write caches that make the next opening faster. Rows are durable without it."""

    def learn_depth(self, queries: FloatArray | None, k: int) -> Any:
        """Learn how deep to search for which recall of the best ``k``, where ``depth_by_query`` is declared.

        ``queries``: (Q, fine_dims) unit rows; None: stored vectors stand for them.

        Raises:
            InvalidInput: it cannot be learned from so little.
        """
        raise NothingLearned(
            f"the backend at {self.address} does not learn how deep to search: pass coarse_top_k to its searches"
        )

    def repair(self) -> Any:
        """Bring back in order what an interrupted write left behind. Nothing to do where there are transactions. A
        backend may return a report of what it did."""

    @abstractmethod
    def close(self) -> None:
        """Release files and connections; a second call is no error."""

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
