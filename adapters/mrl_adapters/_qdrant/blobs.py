"""Attachments on Qdrant: pieces of text in the payloads of a Qdrant collection beside that of the rows.

``NAME.mrl-blobs.ID`` is made with the first attachment of the collection NAME. ID is the beginning of that one's own
id, so that what an interrupted drop leaves behind is never taken up again. It has no manifest, so it is no collection
of ours.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar

from qdrant_client import QdrantClient, models

from mrl_retrieval.errors import BackendError, CollectionNotFound
from mrl_retrieval.manifest import Manifest

from .. import _pieces
from .options import ServerOptions
from .paging import scrolled

__all__ = ["BlobRecords", "Blobs"]

T = TypeVar("T")

_ROLE = "mrl_retrieval_blobs"
"""Key in the metadata of such a Qdrant collection; it holds the id of the collection that it belongs to."""
_KEY, _TEXT = "key", "text"
_NAMES = uuid.UUID("7c9a4d52-51a5-4c43-8a1b-5a2f0f6f2f0e")
_KEYS_AT_ONCE = 100


class Run(Protocol):
    """Calls the client, and says what failed."""

    def __call__(self, doing: str, action: Callable[[QdrantClient], T]) -> T: ...


class BlobRecords:
    """See :class:`mrl_adapters._pieces.Records`. A point a text, with an id that follows from the key."""

    longest = 256 * 1024

    def __init__(self, run: Run, name: str) -> None:
        self._run = run
        self._name = name

    def put(self, texts: Mapping[str, str]) -> None:
        """See the protocol."""
        points = [
            models.PointStruct(id=_id_of(key), vector={}, payload={_KEY: key, _TEXT: text})
            for key, text in texts.items()
        ]
        self._run("writing an attachment", lambda c: c.upsert(self._name, points=points, wait=True))

    def get(self, keys: Sequence[str]) -> dict[str, str]:
        """See the protocol."""
        read = partial(QdrantClient.retrieve, collection_name=self._name, ids=list(map(_id_of, keys)))
        found = self._run("reading an attachment", lambda c: read(c, with_payload=True, with_vectors=False))
        payloads = [point.payload or {} for point in found]
        return {str(payload.get(_KEY)): str(payload.get(_TEXT)) for payload in payloads}

    def keys(self) -> list[str]:
        """See the protocol."""
        pages = scrolled(
            partial(self._run, "listing attachments"),
            collection_name=self._name,
            limit=_KEYS_AT_ONCE,
            with_payload=[_KEY],
            with_vectors=False,
        )
        return [str((point.payload or {}).get(_KEY)) for page in pages for point in page]

    def remove(self, keys: Sequence[str]) -> None:
        """See the protocol."""
        selector = models.PointIdsList(points=list(map(_id_of, keys)))
        self._run("writing an attachment", lambda c: c.delete(self._name, points_selector=selector, wait=True))


class Blobs:
    """Makes, finds and removes the Qdrant collection of a collection's attachments."""

    def __init__(self, run: Run, collection: str, options: ServerOptions) -> None:
        self._run = run
        self._before = f"{collection}.mrl-blobs."
        self._options = options

    def find(self, manifest: Manifest) -> BlobRecords | None:
        """Those of the collection that this is the manifest of; None where it has none."""
        name = self._name(manifest)
        there = self._run("looking for attachments", lambda c: c.collection_exists(name))
        return BlobRecords(self._run, name) if there else None

    def made(self, manifest: Manifest) -> BlobRecords:
        """The same, made where they are missing."""
        found = self.find(manifest)
        if found is not None:
            return found
        name, options = self._name(manifest), self._options
        try:
            self._run(
                "making a place for attachments",
                lambda c: c.create_collection(
                    name,
                    # Qdrant wants to know of some vector; no point has one.
                    vectors_config={"none": models.VectorParams(size=1, distance=models.Distance.DOT)},
                    replication_factor=options.replication_factor,
                    write_consistency_factor=options.write_consistency_factor,
                    on_disk_payload=True,
                    metadata={_ROLE: manifest.collection_id},
                ),
            )
        except BackendError as error:
            if "already exists" not in str(error):  # somebody else made it in the same moment
                raise
        return BlobRecords(self._run, name)

    def write(self, manifest: Manifest, name: str, sealed: str) -> None:
        """Put a sealed attachment in the place of what has this name."""
        _pieces.write(self.made(manifest), name, sealed)

    def read(self, manifest: Manifest, name: str, place: object) -> bytes | None:
        """The content of an attachment; None where there is none."""
        try:
            found = self.find(manifest)
            return None if found is None else _pieces.read(found, name, place)
        except CollectionNotFound:
            return None  # dropped just now

    def clear(self, manifest: Manifest) -> None:
        """Remove what interrupted writes and drops left behind. Call it while nobody else writes."""
        self._remove_others(manifest)
        if (found := self.find(manifest)) is not None:
            _pieces.clear(found)

    def remove(self, manifest: Manifest) -> None:
        """Remove those of a collection that was dropped."""
        if self.find(manifest) is not None:
            self._delete(self._name(manifest))

    def _remove_others(self, manifest: Manifest) -> None:
        """Remove what interrupted drops of collections of the same name left behind."""
        listed = self._run("listing collections", lambda c: c.get_collections()).collections
        for name in (each.name for each in listed):
            if name.startswith(self._before) and name != self._name(manifest) and self._is_ours(name):
                self._delete(name)

    def _is_ours(self, name: str) -> bool:
        info = self._run("reading the collection's settings", lambda c: c.get_collection(name))
        return _ROLE in (info.config.metadata or {})

    def _delete(self, name: str) -> None:
        self._run("removing attachments", lambda c: c.delete_collection(name))

    def _name(self, manifest: Manifest) -> str:
        return self._before + manifest.collection_id.replace("-", "")[:12]


def _id_of(key: str) -> str:
    return str(uuid.uuid5(_NAMES, key))
