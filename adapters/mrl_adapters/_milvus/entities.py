"""The entities of one Milvus collection: asked for, counted, listed, written and removed by their primary keys.

What Milvus takes and gives at once is kept to here, and so is what its Lite needs on top: new rows are moved to disk
before many of them are searched, and a row of which a killed server holds two copies is one row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mrl_retrieval.errors import CollectionNotFound

from . import filters
from .client import Connection, NotLoaded
from .collections import HAS_VECTOR, PK, Collections, Table
from .rows import entity_size, parts

__all__ = ["KEYS_PER_CALL", "ROWS_PER_WRITE", "Entities", "Entity"]

KEYS_PER_CALL = 5000
ROWS_PER_WRITE = 1000
BYTES_PER_CALL = 16 * 2**20
"""A server takes messages of 64 MiB."""
_FLUSH_AT = 1000
"""Milvus Lite searches rows that are in memory only about thirty times slower than those on disk."""

Entity = Mapping[str, Any]


class Entities:
    """What is in the Milvus collection behind one of ours."""

    def __init__(self, connection: Connection, collections: Collections) -> None:
        self._connection = connection
        self._collections = collections

    def table(self) -> Table:
        """The collection in Milvus.

        Raises:
            CollectionNotFound: it is not there.
        """
        table = self._collections.table()
        if table is None:
            raise CollectionNotFound(f"there is no collection at {self._connection.address}; index something first")
        return table

    def call(self, doing: str, method: str, **arguments: Any) -> Any:
        """One call about the collection; loads it again where Milvus was restarted."""
        name = self.table().name
        try:
            try:
                return self._connection.call(doing, method, collection_name=name, **arguments)
            except NotLoaded:
                self._collections.load()
                return self._connection.call(doing, method, collection_name=name, **arguments)
        except CollectionNotFound:
            self._collections.forget()
            raise

    # -- reading -------------------------------------------------------------------------------------------

    def query(self, doing: str, expression: str, fields: list[str], **arguments: Any) -> list[dict[str, Any]]:
        """The entities for which an expression holds."""
        found: list[dict[str, Any]] = self.call(
            doing,
            "query",
            filter=expression,
            output_fields=fields,
            consistency_level="Strong",
            strict_float32=True,  # vectors as arrays, not as lists of Python's floats
            **arguments,
        )
        return found

    def count(self, expression: str) -> int:
        """How many there are; of an empty expression, all."""
        return int(self.query("counting", expression, ["count(*)"])[0]["count(*)"])

    def may_lack_vectors(self) -> bool:
        """Whether searches have to leave out rows without a vector; known where this process alone writes."""
        known = self._connection.without_vector
        if known is None:
            return True
        name = self.table().name
        if name not in known:
            found = self.query("looking for rows without a vector", f"{HAS_VECTOR} == false", [PK], limit=1)
            known.setdefault(name, bool(found))  # unless a writer has said so meanwhile
        return known.get(name, True)

    def with_keys(
        self, doing: str, keys: Iterable[str], fields: list[str], size: int
    ) -> Iterator[list[dict[str, Any]]]:
        """Those of these primary keys that exist, asking for ``size`` at once."""
        for part in parts(keys, size):
            if found := self.query(doing, filters.key_in(PK, part), fields):
                yield found

    def pages(self, doing: str, expression: str, fields: list[str], size: int) -> Iterator[list[dict[str, Any]]]:
        """All for which an expression holds, in the order of their keys, so that a writer does not shift the pages."""
        self.settle()
        last = ""
        while True:
            after = f'{PK} > "{last}"'
            page = self.query(
                doing,
                f"{after} and ({expression})" if expression else after,
                fields,
                limit=size,
                iterator="True",
                reduce_stop_for_best="True",
            )
            if not page:
                return
            # A Milvus Lite server that was killed may hold a row twice, see lite.py.
            yield list({entity[PK]: entity for entity in page}.values())
            last = max(str(entity[PK]) for entity in page)

    # -- writing -------------------------------------------------------------------------------------------

    def upsert(self, entities: Iterable[Entity]) -> None:
        """Write entities, in as few calls as their sizes allow."""
        part: list[Entity] = []
        size = 0
        for entity in entities:
            weight = entity_size(entity)
            if part and (len(part) == ROWS_PER_WRITE or size + weight > BYTES_PER_CALL):
                self._write(part)
                part, size = [], 0
            part.append(entity)
            size += weight
        if part:
            self._write(part)

    def _write(self, part: list[Entity]) -> None:
        known = self._connection.without_vector
        if known is not None and not all(entity[HAS_VECTOR] for entity in part):
            known[self.table().name] = True  # before they are there
        self.call("writing rows", "upsert", data=part)
        self._unflushed(len(part))

    def delete(self, keys: Iterable[str]) -> int:
        """Remove those of these primary keys that exist; returns how many."""
        removed = 0
        for found in self.with_keys("deleting rows", keys, [PK], KEYS_PER_CALL):
            there = [str(entity[PK]) for entity in found]
            self.call("deleting rows", "delete", ids=there)
            self._unflushed(len(there))
            removed += len(there)
        return removed

    def _unflushed(self, more: int) -> None:
        name, unflushed = self.table().name, self._connection.place.unflushed
        unflushed[name] = unflushed.get(name, _FLUSH_AT) + more

    def settle(self) -> None:
        """Have Milvus Lite move many new rows to disk, before they are searched."""
        if self._connection.lite and self._connection.place.unflushed.get(self.table().name, _FLUSH_AT) >= _FLUSH_AT:
            self.flush()

    def flush(self) -> None:
        """Have Milvus Lite move all new rows to disk; no error where there is no collection."""
        if self._connection.exists() and self._connection.lite and (table := self._collections.table()) is not None:
            self.call("flushing", "flush")
            self._connection.place.unflushed[table.name] = 0
