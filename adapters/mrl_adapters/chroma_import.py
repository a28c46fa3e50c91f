"""Reading a Chroma collection that another program made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mrl_retrieval.address import Address
from mrl_retrieval.errors import CollectionNotFound, InvalidInput
from mrl_retrieval.moving.foreign import Fields, ForeignBatch, ForeignCollection

from ._chroma.client import Connection

__all__ = ["ChromaForeign", "open_foreign"]

_LOOK = 1000


def open_foreign(address: Address, fields: Fields, **options: Any) -> ChromaForeign:
    """Open the collection of that name.

    Chroma has one vector a record, its own id and its own document: ``fields.vector`` and ``fields.id`` stay None,
    and ``fields.text`` may name a key of the metadata that holds the text instead.

    Args:
        options: ``api_key``, ``headers``, ``tenant``, ``database``, ``timeout`` for a server.

    Raises:
        CollectionNotFound: there is none.
        InvalidInput: a field was named that Chroma does not have.
    """
    for name, given in (("vector", fields.vector), ("id", fields.id)):
        if given is not None:
            raise InvalidInput(f"a Chroma record has one {name}, without a name; {given!r} was given: leave it out")
    return ChromaForeign(Connection(address, **options), fields)


class ChromaForeign(ForeignCollection):
    """A collection through Chroma's own client."""

    def __init__(self, connection: Connection, fields: Fields) -> None:
        self._connection, self._fields = connection, fields
        try:
            self._collection = self._find(connection.address.collection)
            self._check_text_field()
        except BaseException:
            connection.close()
            raise

    def _find(self, name: str) -> Any:
        client = self._connection.reader()
        with self._connection.errors("looking for the collection"):
            names = [] if client is None else [found.name for found in client.list_collections()]
            if name not in names or client is None:
                raise CollectionNotFound(
                    f"Chroma has no collection {name!r} at {self._connection.address} (there: "
                    f"{', '.join(sorted(names)) or 'none'}); name it with ?collection=NAME"
                )
            return client.get_collection(name, embedding_function=None)

    def count(self) -> int:
        with self._connection.errors("counting"):
            return int(self._collection.count())

    def batches(self, size: int) -> Iterator[ForeignBatch]:
        offset, total = 0, self.count()
        include = ["embeddings", "documents", "metadatas"]
        while offset < total:
            with self._connection.errors("reading"):
                found = self._collection.get(limit=size, offset=offset, include=include)
            ids = found["ids"]
            if not ids:
                return
            metadatas = [dict(one or {}) for one in found["metadatas"]]
            yield ForeignBatch(
                ids,
                list(found["embeddings"]),
                self._texts(found["documents"], metadatas),
                [self._kept(one) for one in metadatas],
            )
            offset += len(ids)

    def _check_text_field(self) -> None:
        """Look for a record with the text, before anything is written anywhere."""
        name, known = self._fields.text, set[str]()
        if name is None:
            return
        for offset in range(0, self.count(), _LOOK):
            with self._connection.errors("reading"):
                found = self._collection.get(limit=_LOOK, offset=offset, include=["metadatas"])
            for metadata in found["metadatas"]:
                if name in (metadata or {}):
                    return
                known |= (metadata or {}).keys()
        raise InvalidInput(
            f"no record has a field {name!r} in its metadata (there: {', '.join(sorted(known)) or 'none'}); leave it "
            "out to take Chroma's documents"
        )

    def _texts(self, documents: list[str | None], metadatas: list[dict[str, Any]]) -> list[str | None]:
        name = self._fields.text
        if name is None:
            return list(documents)
        return [None if one.get(name) is None else str(one.pop(name)) for one in metadatas]

    def _kept(self, metadata: dict[str, Any]) -> dict[str, Any]:
        names = self._fields.metadata
        return metadata if names is None else {name: metadata[name] for name in names if name in metadata}

    def close(self) -> None:
        self._connection.close()
