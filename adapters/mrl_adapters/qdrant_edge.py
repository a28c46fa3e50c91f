"""The ``qdrant-edge`` backend: Qdrant's own engine in this process, both stages of a search in one call.

One shard holds one collection, in a folder of its own; the points lie in it as in the collections of the ``qdrant``
backend. Every write goes to the shard's write-ahead log before it is acknowledged.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from uuid import UUID

from mrl_retrieval.address import Address
from mrl_retrieval.attachments import checked_name, seal
from mrl_retrieval.backend import BackendStats, Capabilities
from mrl_retrieval.errors import AddressError, BackendError, CollectionNotFound, MissingExtra, MRLError
from mrl_retrieval.manifest import Manifest

try:
    import qdrant_edge as edge
except ImportError as error:
    raise MissingExtra("the qdrant-edge backend", "qdrant-edge") from error

from ._qdrant import filters, points
from ._qdrant.filters import JSON
from ._qdrant.layout import QUANTIZATIONS, payload_indexes, vectors_config
from ._qdrant.options import Options
from ._qdrant.points import COARSE, Point, ScoredPoint
from ._qdrant.search import QdrantSearch
from ._qdrant_edge import types
from ._qdrant_edge.files import EdgeFiles, collection_names, is_ours
from ._qdrant_edge.holders import abandon, acquire, release
from ._qdrant_edge.shard import SharedShard
from ._temporary import Temporary

__all__ = ["QdrantEdgeBackend"]

T = TypeVar("T")


class QdrantEdgeBackend(QdrantSearch):
    """A collection in a folder, or in a temporary one that is removed by ``close``."""

    options: ClassVar[frozenset[str]] = frozenset(f.name for f in fields(Options))

    def __init__(self, address: Address, options: Options) -> None:
        super().__init__(address)
        self._settings = options
        self.capabilities = Capabilities(
            persistent=not address.in_memory,
            server_side_rerank=True,
            server_side_funnel=True,
            filter_operators=filters.OPERATORS_PUSHED,
            exact_search=True,
            approximate_coarse=True,
            quantization=frozenset(QUANTIZATIONS),
            attachments=True,
        )
        self._lock = threading.Lock()
        self._closed = False
        self._shared: SharedShard | None = None
        self._temporary: Temporary | None = None
        self._abandoned: weakref.finalize[..., QdrantEdgeBackend] | None = None
        self._place = None if address.in_memory else Path(os.path.realpath(address.folder))
        if self._place is not None:
            is_ours(self._place)

    @classmethod
    def from_address(cls, address: Address, **options: Any) -> QdrantEdgeBackend:
        """Check the address and the options. Nothing is opened yet.

        Raises:
            AddressError: the address of a server.
            InvalidInput: an unknown option, or a wrong value.
            NotACollection: the folder holds something else.
        """
        if address.url:
            raise AddressError(
                f"{address} names a server, and qdrant-edge runs in this process: use qdrant+{address.url}, or "
                "qdrant-edge:./folder"
            )
        return cls(address, Options.parse(address, options))

    # -- the collection ------------------------------------------------------------------------------------

    def read_manifest(self) -> Manifest | None:
        """See the base class. Opens no shard and takes no lock."""
        try:
            found = None if self._place is None else self._files(self._place).read()
        except MRLError:
            self._manifest = None  # what is there now is not ours, or damaged
            raise
        # Only now, because other threads go by what was read before.
        manifest, self._quantization = found or (None, "none")
        self._manifest = manifest
        return manifest

    def write_manifest(self, manifest: Manifest, expected: Manifest | None) -> None:
        """See the base class. The folder of a collection is held while it is made or changed."""
        shared = self._acquire(self._made_place())
        shared.write_manifest(manifest, expected, lambda: self._new(manifest), self._settings.lock_timeout)
        self.read_manifest()

    def _new(self, manifest: Manifest) -> tuple[edge.EdgeConfig, list[edge.UpdateOperation], str]:
        settings = self._settings
        kind = settings.coarse_quantization
        config = types.config_of(vectors_config(manifest, on_disk=settings.on_disk, coarse_quantization=kind))
        return config, self._indexing(), kind

    def _indexing(self) -> list[edge.UpdateOperation]:
        kinds = payload_indexes(self._settings.index_fields)
        return [edge.UpdateOperation.create_field_index(key, types.index_of(kind)) for key, kind in kinds.items()]

    def collections(self) -> list[str]:
        """See the base class."""
        return [] if self._place is None else collection_names(self._place)

    def drop(self) -> None:
        """See the base class."""
        if self.read_manifest() is not None and self._place is not None:
            self._acquire(self._place).drop(self._settings.lock_timeout)
        self._manifest = None

    def write_attachment(self, name: str, content: bytes) -> None:
        """See the base class. A file beside the manifest."""
        sealed = seal(name, content)
        if self._place is None or self.read_manifest() is None:
            raise self._not_there()
        self._acquire(self._place).write_attachment(name, sealed, self._settings.lock_timeout)

    def read_attachment(self, name: str) -> bytes | None:
        """See the base class. Opens no shard and takes no lock."""
        checked_name(name)
        if self._place is None or self.read_manifest() is None:
            return None
        return self._files(self._place).read_attachment(name)

    def _files(self, place: Path) -> EdgeFiles:
        return EdgeFiles(place, self.address.collection)

    def _made_place(self) -> Path:
        """The folder; a temporary one is made now."""
        with self._lock:
            if self._place is None:
                self._check_open()
                self._temporary = Temporary("mrl-qdrant-edge-")
                self._place = self._temporary.path / "kb"
            return self._place

    def _acquire(self, place: Path) -> SharedShard:
        with self._lock:
            self._check_open()
            if self._shared is None:
                self._shared = acquire(self._files(place))
                self._abandoned = weakref.finalize(self, abandon, self._shared, self._temporary)
                self._abandoned.atexit = False  # what is on disk is whole, and a temporary folder goes by itself
            return self._shared

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError(f"{self.address} was closed; open it again")

    # -- the six calls -------------------------------------------------------------------------------------

    def _run(self, doing: str, action: Callable[[edge.EdgeShard], T]) -> T:
        if self._place is None:
            raise self._not_there()
        return self._acquire(self._place).run(action, doing=doing, patience=self._settings.lock_timeout)

    def _not_there(self) -> CollectionNotFound:
        return CollectionNotFound(f"there is no collection at {self.address}; index something first")

    def _write(self, doing: str, operation: edge.UpdateOperation, points: int) -> None:
        self._run(doing, lambda shard: shard.update(operation))
        shared = self._shared
        if shared is not None:
            shared.wrote(points)

    def _upsert(self, part: list[JSON]) -> None:
        wanted = edge.UpdateOperation.upsert_points(list(map(types.point_of, part)))
        self._write("writing rows", wanted, len(part))

    def _delete_points(self, ids: list[Any]) -> None:
        self._write("deleting rows", edge.UpdateOperation.delete_points(ids), len(ids))

    def _retrieve_points(
        self, ids: list[str], *, payload: bool | list[str], vectors: bool | list[str]
    ) -> Sequence[Point]:
        wanted: list[edge.PointId] = list(map(UUID, ids))
        return self._run(
            "reading rows", lambda shard: shard.retrieve(wanted, with_payload=payload, with_vector=vectors)
        )

    def _count(self, condition: JSON | None, *, exact: bool = True) -> int:
        request = edge.CountRequest(exact=exact, filter=types.filter_of(condition))
        return self._run("counting", lambda shard: shard.count(request))

    def _page(
        self, condition: JSON | None, size: int, offset: Any, payload: list[str], vectors: bool | list[str]
    ) -> tuple[Sequence[Point], Any]:
        request = edge.ScrollRequest(
            offset=offset, limit=size, filter=types.filter_of(condition), with_payload=payload, with_vector=vectors
        )
        return self._run("scanning", lambda shard: shard.scroll(request))

    def _query_batch(self, requests: list[JSON]) -> list[Sequence[ScoredPoint]]:
        batch = edge.QueryBatchRequest(list(map(types.query_of, requests)))
        return [*self._run("searching", lambda shard: shard.query_batch(batch))]

    # -- the rest ------------------------------------------------------------------------------------------

    def stats(self) -> BackendStats:
        """See the base class. Sizes are those of the raw vectors; the engine does not tell that of its graph."""
        dims = points.vector_dims(self.manifest)
        vectors = self._count({"must": [points.WITH_VECTOR]})
        info = self._run("reading the shard's state", lambda shard: shard.info())
        return BackendStats(
            rows=self._count(None),
            vectors=vectors,
            bytes={"coarse": None, "fine": 4 * vectors * (sum(dims.values()) - dims[COARSE]), "rows": None},
            details={
                "index": "HNSW over the coarse vectors",
                "coarse_quantization": self._quantization,
                "indexed_vectors": info.indexed_vectors_count,
                "segments": info.segments_count,
            },
        )

    def flush(self) -> None:
        """Index everything, and write it out to the disk; other threads of this process wait meanwhile."""
        shared = self._shared
        if shared is not None:
            shared.flush()

    def repair(self) -> None:
        """Make the payload indexes that ``index_fields`` names and the collection has not, and remove what a killed
        writer left of an attachment. Rows need nothing."""
        self._require()
        if self._place is not None:
            self._acquire(self._place).sweep_attachments(self._settings.lock_timeout)
        for operation in self._indexing():
            self._write("indexing the payload", operation, 0)

    def close(self) -> None:
        """See the base class. The last backend of this process to close a collection frees it for others."""
        with self._lock:
            self._closed = True
            shared, self._shared = self._shared, None
            temporary, self._temporary = self._temporary, None
            if self._abandoned is not None:
                self._abandoned.detach()
        try:
            if shared is not None:
                release(shared)
        finally:
            if temporary is not None:
                temporary.remove()
