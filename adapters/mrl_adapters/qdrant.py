"""The ``qdrant`` backend: both stages of a search in one request to Qdrant.

One Qdrant collection holds one of ours. A point has the vectors ``coarse`` (the only one with a graph), ``full``, and
one for each of ``funnel_dims``; all have unit length, so the dot product is the cosine. The manifest lies in the
Qdrant collection's own metadata.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, ClassVar, TypeVar

from mrl_retrieval.address import Address
from mrl_retrieval.attachments import checked_name, seal_text
from mrl_retrieval.backend import BackendStats, Capabilities
from mrl_retrieval.errors import (
    BackendError,
    ConflictError,
    InvalidInput,
    ManifestError,
    MissingExtra,
    NotACollection,
)
from mrl_retrieval.manifest import Manifest

try:
    from qdrant_client import QdrantClient, models
except ImportError as error:
    raise MissingExtra("the qdrant backend", "qdrant") from error

from ._qdrant import filters, local, points
from ._qdrant.blobs import Blobs
from ._qdrant.client import Connection
from ._qdrant.errors import forbids_exact
from ._qdrant.filters import JSON
from ._qdrant.installed import MANIFEST, filter_of, known, manifest_text, quantization_of, quantizations
from ._qdrant.layout import payload_indexes, vectors_config
from ._qdrant.options import ServerOptions
from ._qdrant.points import COARSE, Point, ScoredPoint
from ._qdrant.search import QdrantSearch

__all__ = ["QdrantBackend"]

T = TypeVar("T")

_IDS_AT_ONCE = 1_000
"""Of allowed ids, in local mode, whose vectors are read at a time."""


class QdrantBackend(QdrantSearch):
    """A collection in memory, in a folder (Qdrant's local mode), or on a Qdrant server of version 1.16 or later."""

    options: ClassVar[frozenset[str]] = frozenset(f.name for f in fields(ServerOptions))

    def __init__(self, address: Address, options: ServerOptions) -> None:
        super().__init__(address)
        self._settings: ServerOptions = options
        self._connection = Connection(address, options)
        self._name = address.collection
        in_process = self._connection.local
        if in_process:
            self._exhaustive, self._longest_list = True, _IDS_AT_ONCE
        self.capabilities = Capabilities(
            persistent=not address.in_memory,
            concurrent_writers=not in_process,
            server_side_rerank=True,
            server_side_funnel=True,
            filter_operators=filters.OPERATORS_PUSHED,
            exact_search=True,
            approximate_coarse=not in_process,
            quantization=frozenset() if in_process else quantizations(),
            attachments=True,
        )

    @classmethod
    def from_address(cls, address: Address, **options: Any) -> QdrantBackend:
        """Check the address and the options. Neither a folder nor a connection is opened yet.

        Raises:
            InvalidInput: an unknown option, or a wrong value.
            NotACollection: the folder holds something else.
        """
        parsed = ServerOptions.parse(address, options)
        if parsed.coarse_quantization not in quantizations():
            raise InvalidInput(
                f"coarse_quantization={parsed.coarse_quantization!r} is unknown to the qdrant-client installed here: "
                "upgrade it (pip install -U qdrant-client)"
            )
        return cls(address, parsed)

    def _run(self, doing: str, action: Callable[[QdrantClient], T]) -> T:
        return self._connection.run(action, doing=doing)

    # -- the collection ------------------------------------------------------------------------------------

    def read_manifest(self) -> Manifest | None:
        """See the base class. A folder is opened, and so locked, by the first call that finds something in it."""
        info = self._info(self._name)
        text = manifest_text(info)
        if info is not None and text is None:
            self._manifest = None
            raise self._not_ours("choose another ?collection=")
        found = None if text is None else Manifest.loads(text)
        # Only now, because other threads go by what was read before.
        self._quantization, self._manifest = quantization_of(info), found
        return found

    def write_manifest(self, manifest: Manifest, expected: Manifest | None) -> None:
        """See the base class. Creating is atomic; replacing is a comparison and then a write, with a gap between."""
        found = self.read_manifest()
        if (found and found.checksum) != (expected and expected.checksum):
            raise self._conflict()
        if found is None:
            self._create(manifest)
        else:
            metadata = {MANIFEST: manifest.dumps()}
            self._run("writing the manifest", lambda c: c.update_collection(self._name, metadata=metadata))
        # Somebody else who wrote in the same instant is found out here.
        kept = self.read_manifest()
        if kept is None or kept.checksum != manifest.checksum:
            raise self._conflict()

    def _create(self, manifest: Manifest) -> None:
        options = self._settings
        kind = options.coarse_quantization if self.capabilities.quantization else "none"
        config = {
            name: models.VectorParams.model_validate(known(params))
            for name, params in vectors_config(manifest, on_disk=options.on_disk, coarse_quantization=kind).items()
        }
        try:
            self._run(
                "creating the collection",
                lambda c: c.create_collection(
                    self._name,
                    vectors_config=config,
                    shard_number=options.shard_number,
                    replication_factor=options.replication_factor,
                    write_consistency_factor=options.write_consistency_factor,
                    metadata={MANIFEST: manifest.dumps()},
                ),
            )
        except BackendError as error:
            if "already exists" in str(error):
                raise self._conflict() from error
            raise
        if manifest_text(self._info(self._name)) is None:
            self._run("removing the collection", lambda c: c.delete_collection(self._name))
            raise BackendError(
                f"the Qdrant server at {self.address.url} does not keep the metadata of a collection, as servers do "
                "from version 1.16 on: upgrade it"
            )
        self._index_payload()

    def _index_payload(self) -> None:
        """Payload indexes make filters fast on a server. Local mode has none."""
        if self._connection.local:
            return
        make = partial(QdrantClient.create_payload_index, collection_name=self._name, wait=True)
        for key, kind in payload_indexes(self._settings.index_fields).items():
            schema = models.PayloadSchemaType(kind)
            self._run(f"indexing the payload key {key}", partial(make, field_name=key, field_schema=schema))

    def collections(self) -> list[str]:
        """See the base class. Asks for the settings of every Qdrant collection at this place."""
        if not self._connection.exists():
            return []
        found = self._run("listing collections", lambda c: c.get_collections()).collections
        return sorted(each.name for each in found if manifest_text(self._info(each.name)) is not None)

    def drop(self) -> None:
        """See the base class. A Qdrant collection that is not ours is left alone: :class:`NotACollection`."""
        info = self._info(self._name)
        if info is not None:
            if manifest_text(info) is None:
                raise self._not_ours("it is not dropped: use Qdrant's own tools")
            self._run("dropping the collection", lambda c: c.delete_collection(self._name))
            with contextlib.suppress(ManifestError):  # damaged: what it had is left to repair
                self._blobs().remove(Manifest.loads(str(manifest_text(info))))
        self._manifest = None

    def write_attachment(self, name: str, content: bytes) -> None:
        """See the base class. In pieces, in a Qdrant collection of its own."""
        sealed = seal_text(name, content)
        self.read_manifest()
        self._blobs().write(self.manifest, name, sealed)

    def read_attachment(self, name: str) -> bytes | None:
        """See the base class."""
        checked_name(name)
        manifest = self.read_manifest()
        return None if manifest is None else self._blobs().read(manifest, name, self.address)

    def _blobs(self) -> Blobs:
        # Not kept: whoever drops the backend without closing it is noticed as long as nothing refers to it.
        return Blobs(self._run, self._name, self._settings)

    def _info(self, name: str) -> models.CollectionInfo | None:
        if not self._connection.exists():
            return None
        if not self._run("looking for the collection", lambda c: c.collection_exists(name)):
            return None
        return self._run("reading the collection's settings", lambda c: c.get_collection(name))

    def _not_ours(self, remedy: str) -> NotACollection:
        return NotACollection(
            f"the Qdrant collection {self._name!r} at {self.address} was not made by this library; {remedy}"
        )

    def _conflict(self) -> ConflictError:
        return ConflictError(f"the manifest of {self.address} was changed meanwhile; read it again and repeat")

    # -- the six calls -----------------------------------------------------------------------------------------

    def _upsert(self, part: list[JSON]) -> None:
        wanted = [models.PointStruct(**point) for point in part]
        self._run("writing rows", lambda c: c.upsert(self._name, points=wanted, wait=True))

    def _delete_points(self, ids: list[Any]) -> None:
        selector = models.PointIdsList(points=ids)
        self._run("deleting rows", lambda c: c.delete(self._name, points_selector=selector, wait=True))

    def _retrieve_points(
        self, ids: list[str], *, payload: bool | list[str], vectors: bool | list[str]
    ) -> Sequence[Point]:
        return self._run(
            "reading rows", lambda c: c.retrieve(self._name, list(ids), with_payload=payload, with_vectors=vectors)
        )

    def _count(self, condition: JSON | None, *, exact: bool = True) -> int:
        wanted = filter_of(condition)
        return self._run("counting", lambda c: c.count(self._name, count_filter=wanted, exact=exact)).count

    def _page(
        self, condition: JSON | None, size: int, offset: Any, payload: list[str], vectors: bool | list[str]
    ) -> tuple[Sequence[Point], Any]:
        scroll = partial(
            QdrantClient.scroll,
            collection_name=self._name,
            scroll_filter=filter_of(condition),
            limit=size,
            offset=offset,
            with_payload=payload,
            with_vectors=vectors,
        )
        return self._run("scanning", scroll)

    def _query_batch(self, requests: list[JSON]) -> list[Sequence[ScoredPoint]]:
        if self._connection.local:
            return self._run("searching", lambda c: [local.query(c, self._name, request) for request in requests])
        wanted = [models.QueryRequest.model_validate(request) for request in requests]
        found = self._run("searching", lambda c: c.query_batch_points(self._name, requests=wanted))
        return [answer.points for answer in found]

    def _refuses_exact(self, error: BackendError) -> bool:
        return forbids_exact(error)

    # -- the rest ------------------------------------------------------------------------------------------

    def stats(self) -> BackendStats:
        """See the base class. Sizes are those of the raw vectors; a server does not tell that of its graph."""
        dims = points.vector_dims(self.manifest)
        vectors = self._count({"must": [points.WITH_VECTOR]})
        details: dict[str, Any] = {"index": "flat, exact (Qdrant's local mode)"}
        info = None if self._connection.local else self._info(self._name)
        if info is not None:
            details = {
                "index": "HNSW over the coarse vectors",
                "coarse_quantization": self._quantization,
                "indexed_vectors": info.indexed_vectors_count,
                "segments": info.segments_count,
                "status": info.status.value,
            }
        return BackendStats(
            rows=self._count(None),
            vectors=vectors,
            bytes={
                "coarse": 4 * vectors * dims[COARSE] if self._connection.local else None,
                "fine": 4 * vectors * (sum(dims.values()) - dims[COARSE]),
                "rows": None,
            },
            details=details,
        )

    def repair(self) -> None:
        """Make the payload indexes that an interrupted creation left out, and remove what interrupted writes and drops
        left of attachments. Rows need nothing: each is written whole. Call it while nobody else writes."""
        self._require()
        self._index_payload()
        self._blobs().clear(self.manifest)

    def close(self) -> None:
        """See the base class. The last backend of this process to close a folder frees it for others."""
        self._connection.close()
