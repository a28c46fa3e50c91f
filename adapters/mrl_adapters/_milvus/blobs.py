"""Attachments on Milvus: pieces of text as entities of a Milvus collection beside that of the rows.

Its name is that of the rows' collection, ``_b``, which escapes no letter there, and the beginning of that one's own
id, so that what an interrupted drop leaves behind is never taken up again. It has no manifest, so it is no collection
of ours.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from pymilvus import DataType, MilvusClient  # type: ignore[import-untyped]

from mrl_retrieval.errors import BackendError
from mrl_retrieval.manifest import Manifest

from . import filters
from .client import Connection, NotLoaded
from .lite import DOOMED

__all__ = ["BlobRecords", "Blobs"]

_PK, _TEXT, _NONE = "pk", "text", "none"
_LONGEST_KEY = 80
_LONGEST_TEXT = 60_000  # of 65,535 bytes that Milvus takes in one string
_KEYS_AT_ONCE = 1000


class BlobRecords:
    """See :class:`mrl_adapters._pieces.Records`. An entity a text."""

    longest = _LONGEST_TEXT

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name

    def put(self, texts: Mapping[str, str]) -> None:
        """See the protocol."""
        # Milvus wants a vector in every entity, of two components at least.
        entities = [{_PK: key, _TEXT: text, _NONE: [0.0, 0.0]} for key, text in texts.items()]
        self._call("writing an attachment", "upsert", data=entities)

    def get(self, keys: Sequence[str]) -> dict[str, str]:
        """See the protocol."""
        found = self._query("reading an attachment", filters.key_in(_PK, list(keys)), [_PK, _TEXT])
        return {str(entity[_PK]): str(entity[_TEXT]) for entity in found}

    def keys(self) -> list[str]:
        """See the protocol."""
        found: list[str] = []
        last = ""
        while True:
            page = self._query(
                "listing attachments",
                f'{_PK} > "{last}"',
                [_PK],
                limit=_KEYS_AT_ONCE,
                iterator="True",
                reduce_stop_for_best="True",
            )
            if not page:
                return found
            found += sorted({str(entity[_PK]) for entity in page})
            last = found[-1]

    def remove(self, keys: Sequence[str]) -> None:
        """See the protocol."""
        self._call("writing an attachment", "delete", ids=list(keys))

    def _query(self, doing: str, expression: str, fields: list[str], **arguments: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._call(
            doing, "query", filter=expression, output_fields=fields, consistency_level="Strong", **arguments
        )
        return found

    def _call(self, doing: str, method: str, **arguments: Any) -> Any:
        try:
            return self._connection.call(doing, method, collection_name=self._name, **arguments)
        except NotLoaded:
            self.load()
            return self._connection.call(doing, method, collection_name=self._name, **arguments)

    def load(self) -> None:
        """Have Milvus hold it in memory, as it must to be asked."""
        replicas = {"replica_number": n} if (n := self._connection.options.replica_number) else {}
        self._connection.call("loading attachments", "load_collection", collection_name=self._name, **replicas)


class Blobs:
    """Makes, finds and removes the Milvus collection of a collection's attachments."""

    def __init__(self, connection: Connection, milvus_name: str) -> None:
        self._connection = connection
        self._before = f"{milvus_name}_b"

    def find(self, manifest: Manifest) -> BlobRecords | None:
        """Those of the collection that this is the manifest of; None where it has none."""
        name = self._name(manifest)
        # Without an index somebody is just making it, or was interrupted: nothing is in it, nor can it be asked.
        return BlobRecords(self._connection, name) if self._is_there(name) and self._is_indexed(name) else None

    def made(self, manifest: Manifest) -> BlobRecords:
        """The same, made where they are missing, and ready."""
        name = self._name(manifest)
        found = BlobRecords(self._connection, name)
        if not self._is_there(name):
            self._create(name, manifest)
        if not self._is_indexed(name):
            wanted = MilvusClient.prepare_index_params()
            wanted.add_index(field_name=_NONE, metric_type="IP", index_type="FLAT", index_name=_NONE)
            self._connection.call(
                "making an index", "create_index", collection_name=name, index_params=wanted, sync=False
            )
            found.load()
        return found

    def _is_there(self, name: str) -> bool:
        return bool(self._connection.call("looking for attachments", "has_collection", collection_name=name))

    def _is_indexed(self, name: str) -> bool:
        return _NONE in self._connection.call("reading the indexes", "list_indexes", collection_name=name)

    def _create(self, name: str, manifest: Manifest) -> None:
        schema = MilvusClient.create_schema(
            auto_id=False, description=f"mrl_retrieval attachments {manifest.collection_id}"
        )
        schema.add_field(_PK, DataType.VARCHAR, is_primary=True, max_length=_LONGEST_KEY)
        schema.add_field(_TEXT, DataType.VARCHAR, max_length=_LONGEST_TEXT)
        schema.add_field(_NONE, DataType.FLOAT_VECTOR, dim=2)
        try:
            self._connection.call(
                "making a place for attachments",
                "create_collection",
                collection_name=name,
                schema=schema,
                consistency_level="Strong",
            )
        except BackendError:
            if not self._is_there(name):  # not by somebody else in the same moment either
                raise

    def remove(self, manifest: Manifest) -> None:
        """Remove those of a collection that was dropped."""
        if self._is_there(self._name(manifest)):
            self._drop(self._name(manifest))

    def remove_others(self, manifest: Manifest) -> None:
        """Remove what interrupted drops of collections of the same name left behind."""
        for name in self._connection.call("listing collections", "list_collections"):
            if name.startswith(self._before) and name != self._name(manifest):
                self._drop(name)

    def _drop(self, name: str) -> None:
        if self._connection.lite:
            doomed = DOOMED + uuid.uuid4().hex
            self._connection.call("removing attachments", "rename_collection", old_name=name, new_name=doomed)
            name = doomed
        self._connection.call("removing attachments", "drop_collection", collection_name=name)

    def _name(self, manifest: Manifest) -> str:
        return self._before + manifest.collection_id.replace("-", "")[:12]
