"""Reading a Qdrant collection that another program made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from mrl_retrieval.address import Address
from mrl_retrieval.errors import CollectionNotFound, InvalidInput, MissingExtra
from mrl_retrieval.moving.foreign import Fields, ForeignBatch, ForeignCollection

try:
    from qdrant_client import models
except ImportError as error:
    raise MissingExtra("the qdrant importer", "qdrant") from error

from ._foreign import TEXT_NAMES, check_ids, check_options, listed, vectors_first
from ._qdrant.client import Connection
from ._qdrant.installed import MANIFEST
from ._qdrant.options import ServerOptions
from ._qdrant.paging import scrolled

__all__ = ["QdrantForeign", "open_foreign"]

_OPTIONS = frozenset({"api_key", "verify", "prefer_grpc", "grpc_port", "timeout", "lock_timeout"})
_SAMPLE = 100
"""Points that are looked at to see what is in the payload."""
_IDS_AT_ONCE = 1000

_LANGCHAIN = frozenset({"page_content", "metadata"})


def open_foreign(address: Address, fields: Fields, **options: Any) -> QdrantForeign:
    """Open the collection of that name.

    The vector is the only dense one, with a name or without; the id that of the point; the text the payload's key
    ``document``, ``text``, ``page_content`` or ``content``, whichever the first points have. A payload of exactly
    ``page_content`` and ``metadata``, as LangChain writes it, is taken as if the metadata lay beside the text.

    Args:
        options: ``api_key``, ``verify``, ``prefer_grpc``, ``grpc_port``, ``timeout`` and ``lock_timeout`` as the qdrant
            backend has them.

    Raises:
        CollectionNotFound: there is none.
        InvalidInput: a vector or key of that name is not there, or which is which is not clear.
    """
    check_options("qdrant", options, _OPTIONS)
    connection = Connection(address, ServerOptions.parse(address, options))
    try:
        return QdrantForeign(connection, fields)
    except BaseException:
        connection.close()
        raise


class QdrantForeign(ForeignCollection):
    """A collection through Qdrant's own client, page by page in the order of its ids."""

    def __init__(self, connection: Connection, fields: Fields) -> None:
        self._connection, self._fields = connection, fields
        self._name = connection.address.collection
        self._where = f"the Qdrant collection {self._name!r}"
        self._vector = self._dense(self._find(), fields.vector)
        there = self._look_for(fields)
        self._text = fields.text or next((name for name in TEXT_NAMES if name in there and name != fields.id), None)
        if fields.id is not None:
            pages = self._pages(_IDS_AT_ONCE, vectors=False)
            check_ids(self._where, fields.id, (_payload(point).get(fields.id) for page in pages for point in page))

    def _look_for(self, fields: Fields) -> list[str]:
        """The keys of the first payloads; raises where a key that was named is in none of all."""
        named = [("text", fields.text), ("id", fields.id), *(("metadata", name) for name in fields.metadata or ())]
        missing = {name: option for option, name in named if name is not None}
        there: dict[str, None] = {}
        for page in self._pages(_SAMPLE, vectors=False):
            for point in page:
                there |= dict.fromkeys(_payload(point))
            missing = {name: option for name, option in missing.items() if name not in there}
            if not missing:
                break
        for name, option in missing.items() if there else ():
            raise InvalidInput(
                f"{self._where}: no payload has a key {name!r} for --{option}-field{'s' * (option == 'metadata')} "
                f"(there: {listed(there)})"
            )
        return list(there)

    def _find(self) -> models.CollectionInfo:
        names: list[str] = []
        if self._connection.exists():
            found = self._connection.run(lambda c: c.get_collections(), doing="listing collections")
            names = sorted(each.name for each in found.collections)
        if self._name not in names:
            raise CollectionNotFound(
                f"Qdrant has no collection {self._name!r} at {self._connection.address} (there: "
                f"{listed(names) or 'none'}); name it with ?collection=NAME"
            )
        info = self._connection.run(lambda c: c.get_collection(self._name), doing="reading the collection's settings")
        if MANIFEST in (info.config.metadata or {}):
            raise InvalidInput(f"{self._where} was made by this library: copy it (mrl copy, copy_to) instead")
        return info

    def _dense(self, info: models.CollectionInfo, wanted: str | None) -> str:
        """The name of the vector; ``""`` is Qdrant's for the one without a name."""
        params = info.config.params
        dense = params.vectors if isinstance(params.vectors, Mapping) else {}
        if isinstance(params.vectors, models.VectorParams):
            dense = {"": params.vectors}
        single = [name for name, settings in dense.items() if settings.multivector_config is None]
        others = [name for name in dense if name not in single] + list(params.sparse_vectors or {})
        shown = listed(repr(name) if name else "one without a name" for name in single) or "none"
        if wanted is None:
            if len(single) == 1:
                return single[0]
            many = "several vectors" if single else "no vector that can be taken over, one dense vector a point"
            raise InvalidInput(
                f"{self._where} has {many} (dense: {shown}; others: {listed(others) or 'none'}): name a dense one with "
                "--vector-field"
            )
        if wanted not in single:
            why = "is sparse, or several a point" if wanted in others else "is not there"
            raise InvalidInput(f"{self._where}: the vector {wanted!r} {why} (dense: {shown}); see --vector-field")
        return wanted

    def count(self) -> int:
        return self._connection.run(lambda c: c.count(self._name, exact=True), doing="counting").count

    def batches(self, size: int) -> Iterator[ForeignBatch]:
        return vectors_first(lambda: self._read(size))

    def _read(self, size: int) -> Iterator[ForeignBatch]:
        for page in self._pages(size, vectors=True):
            payloads = [_payload(point) for point in page]
            ids = [str(point.id) for point in page]
            if self._fields.id is not None:
                ids = [str(payload.pop(self._fields.id)) for payload in payloads]
            texts = [None if self._text is None else payload.pop(self._text, None) for payload in payloads]
            yield ForeignBatch(
                ids,
                [self._vector_of(point) for point in page],
                [None if text is None else str(text) for text in texts],
                [self._kept(payload) for payload in payloads],
            )

    def _pages(self, size: int, *, vectors: bool) -> Iterator[list[models.Record]]:
        return scrolled(
            partial(self._connection.run, doing="reading"),
            collection_name=self._name,
            limit=size,
            with_payload=True,
            with_vectors=([self._vector] if self._vector else True) if vectors else False,
        )

    def _vector_of(self, point: models.Record) -> Any:
        found = point.vector
        return found.get(self._vector) if isinstance(found, Mapping) else found

    def _kept(self, payload: dict[str, Any]) -> dict[str, Any]:
        names = self._fields.metadata
        return payload if names is None else {name: payload[name] for name in names if name in payload}

    def close(self) -> None:
        self._connection.close()


def _payload(point: models.Record) -> dict[str, Any]:
    """A copy of a point's payload, LangChain's metadata lifted beside the text."""
    payload = dict(point.payload or {})
    inner = payload.get("metadata")
    if payload.keys() == _LANGCHAIN and isinstance(inner, Mapping) and "page_content" not in inner:
        return {"page_content": payload["page_content"], **inner}
    return payload
