"""Attachments in PostgreSQL: one table for those of all collections of the schema, made with the first of them.

``mrl_attachments`` names a collection by its number, which no other gets, so that what a dropped one had is never taken
up again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors, sql

from mrl_retrieval.address import Address
from mrl_retrieval.errors import BackendError, CollectionNotFound, NotACollection

from .client import Connections, Statement
from .options import Options

__all__ = ["Attachments", "forget"]

Connection = psycopg.Connection[tuple[Any, ...]]

_LOCK = 0x6D726C5F6174
"""Of those who make the table one goes at a time: IF NOT EXISTS is no lock."""

_MAKE = sql.SQL(
    'CREATE TABLE IF NOT EXISTS {} (collection bigint, name text COLLATE "C", content bytea NOT NULL, '
    "PRIMARY KEY (collection, name))"
)
# What is attached is not to be compressed a second time.
_AS_IT_IS = sql.SQL("ALTER TABLE {} ALTER COLUMN content SET STORAGE EXTERNAL")
_HOLD = sql.SQL("SELECT number FROM {} WHERE name = %s FOR SHARE")
_PUT = sql.SQL(
    "INSERT INTO {} (collection, name, content) VALUES (%s, %s, %b) "
    "ON CONFLICT (collection, name) DO UPDATE SET content = excluded.content"
)
_GET = sql.SQL(
    "SELECT a.content FROM {attachments} a JOIN {list} c ON c.number = a.collection "
    "WHERE c.name = %(collection)s AND a.name = %(name)s"
)
_FORGET = sql.SQL("DELETE FROM {} WHERE collection = %s")


def _table(schema: str) -> sql.Identifier:
    return sql.Identifier(schema, "mrl_attachments")


def forget(connection: Connection, schema: str, number: int) -> None:
    """Remove those of a collection, within the transaction that drops it."""
    if _is_there(connection, schema):
        connection.execute(_FORGET.format(_table(schema)), [number])


def _is_there(connection: Connection, schema: str) -> bool:
    found = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [_table(schema).as_string()]).fetchone()
    return found is not None and bool(found[0])


class Attachments:
    """Those of the collection of the address."""

    def __init__(self, address: Address, options: Options, connections: Connections) -> None:
        self._address = address
        self._name = address.collection
        self._schema = options.schema
        self._list = sql.Identifier(options.schema, "mrl_collections")
        self._connections = connections

    def write(self, name: str, sealed: bytes) -> None:
        """Put what :func:`~mrl_retrieval.attachments.seal` gave in the place of what has this name. One transaction.

        Raises:
            CollectionNotFound: there is no collection.
            NotACollection: a table of that name is not ours.
        """
        with self._ours():
            self._connections.transact("writing an attachment", lambda c: self._write(c, name, sealed))

    def read(self, name: str) -> bytes | None:
        """The same; None where there is none, or no collection."""
        query = _GET.format(attachments=_table(self._schema), list=self._list)
        statement = Statement(query, {"collection": self._name, "name": name})
        try:
            with self._ours():
                (found,) = self._connections.ask("reading an attachment", [statement], {})
        except CollectionNotFound:
            return None  # there is not even a table
        return bytes(found[0][0]) if found else None

    def _write(self, connection: Connection, name: str, sealed: bytes) -> None:
        # Held until the end: whoever drops the collection meanwhile waits, and finds what was written.
        row = connection.execute(_HOLD.format(self._list), [self._name]).fetchone()
        if row is None:
            raise CollectionNotFound(f"there is no collection at {self._address}; index something first")
        table = _table(self._schema)
        if not _is_there(connection, self._schema):
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            connection.execute(_MAKE.format(table))
            connection.execute(_AS_IT_IS.format(table))
        connection.execute(_PUT.format(table), [row[0], name, sealed])

    @contextmanager
    def _ours(self) -> Iterator[None]:
        try:
            yield
        except BackendError as error:
            if isinstance(error.__cause__, (errors.UndefinedColumn, errors.WrongObjectType, errors.DatatypeMismatch)):
                raise NotACollection(
                    f"{self._address} needs the table {_table(self._schema).as_string()}, and the one that is there "
                    "was not made by this library; choose another schema="
                ) from error
            raise
