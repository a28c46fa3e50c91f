"""The two Chroma collections behind one of ours: their names, their settings, and the manifest that makes them ours.

``mrl-coarse.NAME`` exists exactly when our collection does; its metadata holds the manifest and the name of the
other one, ``mrl-full.TOKEN.NAME``, where TOKEN is new for every collection made, so that what an interrupted drop
leaves behind is never taken up again. Attachments are in ``mrl-blobs.TOKEN.NAME``, made with the first of them, with
the same TOKEN. What is being dropped is called ``mrl-dropped.TOKEN.NAME``.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chromadb.errors import ChromaError

from mrl_retrieval.errors import (
    CollectionMismatchError,
    CollectionNotFound,
    ConflictError,
    CorruptionError,
    NotACollection,
)
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.storage import forks

from .client import Connection
from .options import GRAPH

__all__ = ["Collections", "Pair"]

_COARSE = "mrl-coarse."
_FULL_NAME, _BLOBS_NAME = "mrl-full.", "mrl-blobs."
_MANIFEST, _FULL, _ROLE = "mrl_manifest", "mrl_full", "mrl_role"

# The graph over the full vectors is never searched, but Chroma always builds one: the cheapest.
_NO_GRAPH = {"ef_search": 10, "ef_construction": 10, "max_neighbors": 4}


@dataclass(frozen=True, slots=True)
class Pair:
    """Handles of the two Chroma collections."""

    coarse: Any
    full: Any
    ef_search: int
    """How widely the coarse graph is searched at least."""


class Collections:
    """Makes, finds, lists and drops the pair of one collection."""

    def __init__(self, connection: Connection, name: str, graph: Mapping[str, int]) -> None:
        self._connection = connection
        self._name = name
        self._part = re.compile(rf"mrl-(full|blobs|dropped)\.[0-9a-f]{{12}}\.{re.escape(name)}")
        self._asked = dict(graph)
        self._pair: Pair | None = None
        forks.register(self)

    def after_fork(self) -> None:
        """The handles are of the parent's client."""
        self.forget()

    def pair(self) -> Pair | None:
        """The handles; None where the collection does not exist."""
        pair = self._pair
        if pair is None and (found := self._renew()) is not None:
            _, pair = found
        return pair

    def forget(self) -> None:
        """Let go of the handles, so that the next use looks again."""
        self._pair = None

    def read(self) -> Manifest | None:
        """The stored manifest; None where the collection does not exist. Renews the handles."""
        found = self._renew()
        return None if found is None else found[0]

    def _renew(self) -> tuple[Manifest, Pair] | None:
        """Look anew. Other threads have the old handles until the new ones are there."""
        found = None
        try:
            found = self._look()
        finally:
            self._pair = None if found is None else found[1]
        return found

    def _look(self) -> tuple[Manifest, Pair] | None:
        with self._connection.errors("reading the manifest"):
            client = self._connection.reader()
            coarse = None if client is None else self._find(client, _COARSE + self._name)
            if client is None or coarse is None:
                return None
            metadata = self._ours(coarse)
            manifest = Manifest.loads(metadata[_MANIFEST])
            full = self._find(client, str(metadata.get(_FULL)))
            if full is None:
                if self._find(client, _COARSE + self._name) is None:
                    return None  # dropped just now
                raise CorruptionError(
                    f"collection {self._name!r} has lost its full vectors (Chroma collection {metadata.get(_FULL)!r}); "
                    "drop it and index again"
                )
            stored = self._graph(coarse)
            for key, value in self._asked.items():
                if stored.get(key, value) != value:
                    raise CollectionMismatchError(
                        f"collection {self._name!r} was made with {key}={stored[key]}, asked for {value}; Chroma "
                        "cannot change it later: leave the option out, or drop the collection and index again"
                    )
            return manifest, Pair(coarse, full, stored.get("ef_search", 0))

    def write(self, manifest: Manifest, expected: Manifest | None) -> None:
        """Compare-and-set of the manifest. Making a collection is atomic in Chroma, replacing its metadata is not."""
        with self._connection.errors("writing the manifest"):
            found = self._renew()
            if (found and found[0].checksum) != (expected and expected.checksum):
                raise self._conflict()
            if found is None:
                self._create(manifest)
            else:
                _, pair = found
                pair.coarse.modify(metadata={_MANIFEST: manifest.dumps(), _FULL: pair.full.name})

    def _create(self, manifest: Manifest) -> None:
        client = self._connection.client()
        full_name = f"{_FULL_NAME}{_token()}.{self._name}"
        full = client.create_collection(
            full_name,
            configuration={"hnsw": {"space": "ip", **_NO_GRAPH}},
            metadata={_ROLE: "full"},
            embedding_function=None,
        )
        try:
            coarse = client.create_collection(
                _COARSE + self._name,
                configuration={"hnsw": {"space": "ip", **GRAPH, **self._asked}},
                metadata={_MANIFEST: manifest.dumps(), _FULL: full_name},
                embedding_function=None,
            )
        except Exception as error:
            client.delete_collection(full_name)
            if self._find(client, _COARSE + self._name) is not None:
                raise self._conflict() from error
            raise
        self._pair = Pair(coarse, full, self._graph(coarse).get("ef_search", 0))

    def _conflict(self) -> ConflictError:
        return ConflictError(
            f"the manifest of {self._connection.address} was changed meanwhile; open the collection again and repeat"
        )

    def names(self) -> list[str]:
        """Our collections at this place, sorted."""
        with self._connection.errors("listing collections"):
            client = self._connection.reader()
            listed = [] if client is None else client.list_collections()
            return sorted(
                c.name.removeprefix(_COARSE)
                for c in listed
                if c.name.startswith(_COARSE) and _MANIFEST in (c.metadata or {})
            )

    def drop(self) -> None:
        """Remove both. Renaming the one that makes the collection exist is what drops it, at once.

        Nothing else of this name goes: it may be what somebody else is just making.
        """
        self._pair = None
        with self._connection.errors("dropping the collection"):
            client = self._connection.reader()
            coarse = None if client is None else self._find(client, _COARSE + self._name)
            if client is None or coarse is None:
                return
            full_name, dropped = str(self._ours(coarse).get(_FULL)), f"mrl-dropped.{_token()}.{self._name}"
            coarse.modify(name=dropped)
            for name in filter(self._part.fullmatch, (full_name, _blobs_of(full_name), dropped)):
                self._remove(client, name)

    def drop_orphans(self) -> None:
        """Remove what an interrupted creation or drop of this name left behind. Call it while nobody else makes one."""
        client = self._connection.client()
        coarse = self._find(client, _COARSE + self._name)
        full_name = "" if coarse is None else str(self._ours(coarse).get(_FULL))
        used = {full_name, _blobs_of(full_name)}
        for collection in client.list_collections():
            ours = (collection.metadata or {}).keys() & {_ROLE, _MANIFEST}
            if ours and self._part.fullmatch(collection.name) and collection.name not in used:
                self._remove(client, collection.name)

    def _remove(self, client: Any, name: str) -> None:
        """Delete the rows before the collection: with it Chroma forgets their lists, which would then turn up as
        metadata of whatever is written next, in any collection of the database."""
        collection = self._find(client, name)
        if collection is None:
            return
        size = self.max_batch()
        ids = collection.get(include=[])["ids"]
        for i in range(0, len(ids), size):
            collection.delete(ids=ids[i : i + size])
        client.delete_collection(name)

    def blobs(self, *, make: bool) -> Any | None:
        """The Chroma collection of the attachments, looked up anew; None where there is none, or no collection."""
        found = self._renew()
        if found is None:
            return None
        client, name = self._connection.client(), _blobs_of(found[1].full.name)
        blobs = self._find(client, name)
        if blobs is not None or not make:
            return blobs
        try:
            return client.create_collection(
                name,
                configuration={"hnsw": {"space": "ip", **_NO_GRAPH}},
                metadata={_ROLE: "blobs"},
                embedding_function=None,
            )
        except ChromaError:
            # What there is already is an InternalError in this process and a plain ChromaError from a server: neither
            # has a class of its own, so that it has to be looked up whether somebody else has just made it.
            if (blobs := self._find(client, name)) is None:
                raise
            return blobs

    def graph(self, pair: Pair) -> dict[str, Any]:
        """The settings that the coarse graph was made with."""
        return self._graph(pair.coarse)

    @staticmethod
    def _graph(coarse: Any) -> dict[str, Any]:
        stored = coarse.configuration.get("hnsw") or {}
        return {key: stored[key] for key in GRAPH if key in stored}

    def max_batch(self) -> int:
        """The most records that Chroma takes in one call."""
        return int(self._connection.client().get_max_batch_size())

    def _find(self, client: Any, name: str) -> Any | None:
        try:
            with self._connection.errors("looking up a collection"):
                return client.get_collection(name, embedding_function=None)
        except CollectionNotFound:
            return None

    def _ours(self, coarse: Any) -> Mapping[str, Any]:
        metadata: Mapping[str, Any] = coarse.metadata or {}
        if not isinstance(metadata.get(_MANIFEST), str):
            raise NotACollection(
                f"Chroma has a collection {coarse.name!r} that this library did not make; rename it there, or use "
                "another ?collection= name"
            )
        return metadata


def _blobs_of(full_name: str) -> str:
    return _BLOBS_NAME + full_name.removeprefix(_FULL_NAME)


def _token() -> str:
    return uuid.uuid4().hex[:12]
