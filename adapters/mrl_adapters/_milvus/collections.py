"""The Milvus collection behind one of ours: its name, its fields, its indexes, and the manifest that makes it ours.

Milvus allows letters, digits and ``_`` in a name, so ours are escaped: ``mrl_`` and the name, in which ``_`` is ``__``,
``-`` is ``_h`` and ``.`` is ``_p``. The manifest is a property of the Milvus collection, so that both are made at once.
"""

from __future__ import annotations

import itertools
import json
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pymilvus import DataType, MilvusClient  # type: ignore[import-untyped]

from mrl_retrieval.errors import (
    BackendError,
    CollectionMismatchError,
    CollectionNotFound,
    ConflictError,
    ManifestError,
    NotACollection,
)
from mrl_retrieval.manifest import Manifest

from .blobs import Blobs
from .client import Connection
from .filters import LONGEST_TERM
from .lite import DOOMED, OURS

__all__ = ["COARSE", "DOCUMENT", "FULL", "HAS_VECTOR", "LONGEST_KEY", "METADATA", "PK", "TERMS", "Collections", "Table"]

PK, HAS_VECTOR, COARSE, FULL, TERMS, METADATA, DOCUMENT = (
    "pk", "has_vector", "coarse", "full", "terms", "metadata", "document",
)  # fmt: skip
LONGEST_KEY = 128
"""Bytes of a primary key."""
LONGEST_TEXT = 65_535
"""Bytes that Milvus takes in one string."""
_MOST_PARTS = 4096  # elements that Milvus takes in one array

_MANIFEST, _INDEX, _TOO_MANY = "mrl_manifest", "mrl_index", "mrl_too_many_terms"
_ESCAPES = {"_": "__", "-": "_h", ".": "_p"}
_LOADED = 3


@dataclass(frozen=True, slots=True)
class Table:
    """A collection as it is found in Milvus."""

    name: str
    """In Milvus."""
    listed_terms: bool
    """The terms are an array, as on a server; else one string, which Milvus Lite searches far faster."""
    index_type: str
    """Of the coarse index."""
    search_params: Mapping[str, Any]
    manifest: Manifest
    """As it was last read or written."""


class Collections:
    """Makes, finds, lists and drops the Milvus collection of one of ours."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._milvus_name = _escaped(name)
        self.blobs = Blobs(connection, self._milvus_name)
        self._table: Table | None = None
        self._looks = itertools.count(1)
        self._kept = 0
        """Which look or change of ours the table is of: a look that began earlier may have seen what was before."""
        self._keeping = threading.Lock()

    def table(self) -> Table | None:
        """The collection, ready to be searched; None where it does not exist."""
        return self._table or self._look()

    def forget(self) -> None:
        """Look again at the next use."""
        self._keep(None, next(self._looks))

    def read(self) -> Manifest | None:
        """The stored manifest; None where the collection does not exist. Loads a collection that was not known yet.

        Raises:
            NotACollection: a Milvus collection of this name was not made by this library.
            ManifestError: it is damaged.
            CollectionMismatchError: it was made with another coarse index than the options ask for.
        """
        table = self._look()
        return None if table is None else table.manifest

    def _look(self) -> Table | None:
        """The collection as it is now. Other threads have what was known of it until this is done."""
        look, known = next(self._looks), self._table
        found: Table | None = None
        try:
            if not self._connection.exists():
                return None
            described = self._describe()
            manifest = self._manifest_of(described)
            if known is not None and known.manifest.collection_id == manifest.collection_id:
                # Its indexes were looked at already. Milvus Lite counts all rows to list them.
                found = replace(known, manifest=manifest)
            else:
                found = self._ready(described, manifest)
        except CollectionNotFound:
            return None  # never made, or dropped just now
        finally:
            self._keep(found, look)
        return found

    def _keep(self, table: Table | None, look: int) -> None:
        """Know this from now on, unless a look that began later is done already, or a change came between."""
        with self._keeping:
            if look > self._kept:
                self._table, self._kept = table, look

    def write(self, manifest: Manifest, expected: Manifest | None) -> None:
        """Compare-and-set of the manifest: atomic in one process, and on a server where a collection is made."""
        with self._connection.place.writing:
            table = self._look()
            if (table and table.manifest.checksum) != (expected and expected.checksum):
                raise self._conflict()
            if table is None:
                self._create(manifest)
            else:
                self._set({_MANIFEST: manifest.dumps()}, "writing the manifest")
                self._keep(replace(table, manifest=manifest), next(self._looks))

    def _create(self, manifest: Manifest) -> None:
        call = self._connection.call
        kind, params = self._connection.options.coarse_index(lite=self._connection.lite)
        properties = {_MANIFEST: manifest.dumps(), _INDEX: json.dumps({"index_type": kind, "params": params})}
        shards = {"num_shards": n} if (n := self._connection.options.num_shards) else {}
        try:
            call(
                "making the collection",
                "create_collection",
                collection_name=self._milvus_name,
                schema=self._schema(manifest),
                properties=properties,
                consistency_level="Strong",
                **shards,
            )
        except BackendError as error:
            if self._there(self._milvus_name):
                raise self._conflict() from error
            raise
        # A server takes a second creation with the very same settings for the first one repeated.
        described = self._describe()
        if self._manifest_of(described).checksum != manifest.checksum:
            raise self._conflict()
        try:
            self._keep(self._ready(described, manifest), next(self._looks))
        except BackendError:
            call("undoing", "drop_collection", collection_name=self._milvus_name)
            raise

    def _schema(self, manifest: Manifest) -> Any:
        schema = MilvusClient.create_schema(
            auto_id=False, enable_dynamic_field=True, description=f"mrl_retrieval {manifest.collection_id}"
        )
        text = {"element_type": DataType.VARCHAR, "max_capacity": _MOST_PARTS, "max_length": LONGEST_TEXT}
        schema.add_field(PK, DataType.VARCHAR, is_primary=True, max_length=LONGEST_KEY)
        schema.add_field(HAS_VECTOR, DataType.BOOL)
        # Milvus wants at least two components.
        schema.add_field(COARSE, DataType.FLOAT_VECTOR, dim=max(2, manifest.coarse_dims))
        schema.add_field(FULL, DataType.FLOAT_VECTOR, dim=max(2, manifest.fine_dims))
        if self._listed_terms():
            schema.add_field(
                TERMS,
                DataType.ARRAY,
                element_type=DataType.VARCHAR,
                max_capacity=_MOST_PARTS,
                max_length=LONGEST_TERM,
            )
        else:
            schema.add_field(TERMS, DataType.VARCHAR, max_length=LONGEST_TEXT)
        schema.add_field(METADATA, DataType.ARRAY, **text)
        schema.add_field(DOCUMENT, DataType.ARRAY, **text)
        return schema

    def _listed_terms(self) -> bool:
        return not self._connection.lite

    def _ready(self, described: Mapping[str, Any], manifest: Manifest) -> Table:
        """Finish what making it may have left undone, and load it."""
        call, name, options = self._connection.call, self._milvus_name, self._connection.options
        stored = json.loads(described["properties"][_INDEX])
        asked, _ = options.coarse_index(lite=self._connection.lite)
        if (options.index_type or options.coarse_quantization) and asked != stored["index_type"]:
            raise CollectionMismatchError(
                f"collection {self._name!r} has a coarse index of type {stored['index_type']}, asked for {asked}: "
                "leave index_type= and coarse_quantization= out, or drop the collection and index again"
            )
        listed = [field["type"] for field in described["fields"] if field["name"] == TERMS] == [DataType.ARRAY]
        # pymilvus lays the parameters out flat, as servers want them; Milvus Lite looks for them under this name.
        params = {"params": stored["params"]} if self._connection.lite else stored["params"]
        indexed = set(call("reading the indexes", "list_indexes", collection_name=name))
        wanted: list[dict[str, Any]] = [
            {"field_name": COARSE, "metric_type": "IP", "index_type": stored["index_type"], "params": params},
            {"field_name": FULL, "metric_type": "IP", "index_type": "FLAT"},
        ]
        if listed and not self._connection.lite:
            wanted.append({"field_name": TERMS, "index_type": "INVERTED"})
        for one in wanted:
            if one["field_name"] not in indexed:
                asked_for = MilvusClient.prepare_index_params()
                asked_for.add_index(**one, index_name=one["field_name"])
                # Nothing is in it yet: there is no building to wait for.
                call("making an index", "create_index", collection_name=name, index_params=asked_for, sync=False)
        self.load()
        return Table(name, listed, stored["index_type"], options.search_params, manifest)

    def load(self) -> None:
        """Have Milvus hold the collection in memory, as it must to be searched."""
        state = self._connection.call("loading", "get_load_state", collection_name=self._milvus_name)["state"]
        if int(state) != _LOADED:
            replicas = {"replica_number": n} if (n := self._connection.options.replica_number) else {}
            self._connection.call("loading", "load_collection", collection_name=self._milvus_name, **replicas)

    def has_too_many_terms(self) -> bool:
        """Whether a row was ever written whose terms are more than Milvus can hold, so that filters may miss it."""
        return _TOO_MANY in self._describe()["properties"]

    def note_too_many_terms(self) -> None:
        """Remember it, before such a row is written."""
        if not self.has_too_many_terms():
            self._set({_TOO_MANY: "1"}, "writing a property")

    def names(self) -> list[str]:
        """Our collections at this place, sorted."""
        if not self._connection.exists():
            return []
        found = []
        for name in self._connection.call("listing collections", "list_collections"):
            if name.startswith(OURS):
                described = self._connection.call("listing collections", "describe_collection", collection_name=name)
                if _MANIFEST in described["properties"]:
                    found.append(_unescaped(name))
        return sorted(found)

    def drop(self) -> None:
        """Remove the collection; no error if it is not there."""
        self.forget()
        with self._connection.place.writing:
            self._connection.place.unflushed.pop(self._milvus_name, None)
            if not self._connection.exists() or not self._there(self._milvus_name):
                return
            if (without_vector := self._connection.without_vector) is not None:
                without_vector.pop(self._milvus_name, None)
            manifest = self._manifest_of(self._describe())
            call, name = self._connection.call, self._milvus_name
            if self._connection.lite:
                name = DOOMED + uuid.uuid4().hex
                call("dropping the collection", "rename_collection", old_name=self._milvus_name, new_name=name)
            call("dropping the collection", "drop_collection", collection_name=name)
            self.blobs.remove(manifest)

    def _there(self, name: str) -> bool:
        return bool(self._connection.call("looking up the collection", "has_collection", collection_name=name))

    def _describe(self) -> Mapping[str, Any]:
        call, name = self._connection.call, self._milvus_name
        return dict(call("reading the manifest", "describe_collection", collection_name=name))

    def _set(self, properties: dict[str, str], doing: str) -> None:
        self._connection.call(
            doing, "alter_collection_properties", collection_name=self._milvus_name, properties=properties
        )

    def _manifest_of(self, described: Mapping[str, Any]) -> Manifest:
        properties = described.get("properties") or {}
        if not isinstance(properties.get(_MANIFEST), str):
            raise NotACollection(
                f"Milvus has a collection {self._milvus_name!r} that this library did not make; rename it there, or "
                "use another ?collection= name"
            )
        if not isinstance(properties.get(_INDEX), str):
            raise ManifestError(f"Milvus collection {self._milvus_name!r} has lost its property {_INDEX!r}")
        return Manifest.loads(properties[_MANIFEST])

    def _conflict(self) -> ConflictError:
        return ConflictError(
            f"the manifest of {self._connection.address} was changed meanwhile; open the collection again and repeat"
        )


def _escaped(name: str) -> str:
    return OURS + "".join(_ESCAPES.get(letter, letter) for letter in name)


def _unescaped(name: str) -> str:
    back = {escape[1]: letter for letter, escape in _ESCAPES.items()}
    letters = iter(name.removeprefix(OURS))
    return "".join(back.get(next(letters, ""), "") if letter == "_" else letter for letter in letters)
