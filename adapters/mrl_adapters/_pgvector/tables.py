"""The tables in PostgreSQL: one lists the collections, and each of them has one of its own, with two indexes.

All are in one schema. ``mrl_collections`` names the collections; the rows of the one with number 7 are in
``mrl_rows_7``. A collection that is dropped and made again gets another number, so that nobody who still knows the old
one writes into the new one.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import Any

import psycopg
from psycopg import errors, sql

from mrl_retrieval.address import Address
from mrl_retrieval.errors import (
    BackendError,
    CollectionMismatchError,
    CollectionNotFound,
    ConflictError,
    DimensionError,
    NotACollection,
)
from mrl_retrieval.manifest import Manifest

from .attachments import forget
from .client import Connections, Statement
from .layout import Layout, Settings, Types
from .options import Options

__all__ = ["Tables"]

Connection = psycopg.Connection[tuple[Any, ...]]

_LEAST_VERSION = (0, 8)
_LOCK = 0x6D726C5F7067
"""Of those who make tables one goes at a time: IF NOT EXISTS is no lock."""

_MOST_COMPONENTS = 16_000
_MOST_INDEXED = {"none": 2_000, "halfvec": 4_000, "binary": _MOST_COMPONENTS}
_MOST_IN_THE_ROW = 384
"""Of a row of more than 2 kB PostgreSQL moves the longest values into a second table, which takes a look there to read
them. A prefix of up to so many components is to be the last that goes; longer ones would drive out the metadata."""

_FIND_EXTENSION = sql.SQL(
    "SELECT n.nspname, e.extversion, v.oid::int8, h.oid::int8 FROM pg_extension e "
    "JOIN pg_namespace n ON n.oid = e.extnamespace "
    "LEFT JOIN pg_type v ON v.typnamespace = n.oid AND v.typname = 'vector' "
    "LEFT JOIN pg_type h ON h.typnamespace = n.oid AND h.typname = 'halfvec' WHERE e.extname = 'vector'"
)

_MAKE_LIST = sql.SQL(
    'CREATE TABLE {} (name text COLLATE "C" PRIMARY KEY, number bigint GENERATED ALWAYS AS IDENTITY, '
    "manifest text NOT NULL, settings text NOT NULL)"
)

_MAKE_ROWS = sql.SQL(
    'CREATE TABLE {table} (key bytea PRIMARY KEY, id text COLLATE "C" NOT NULL, document text, '
    "metadata jsonb NOT NULL, metadata_text text NOT NULL, kinds text[] NOT NULL, {vectors})"
)


class Tables:
    """The list of collections, and the one of the address in it."""

    def __init__(self, address: Address, options: Options, connections: Connections) -> None:
        self._address = address
        self._name = address.collection
        self._schema = options.schema
        self._given = options.fixed
        self._connections = connections
        self._list = sql.Identifier(options.schema, "mrl_collections")

    def types(self) -> Types:
        """Where the extension's types are.

        Raises:
            BackendError: it is not installed, or too old.
        """
        (found,) = self._connections.ask("looking for the extension", [Statement(_FIND_EXTENSION)], {})
        return self._types(found)

    def read(self) -> tuple[Manifest, Layout] | None:
        """The manifest and layout of the collection; None where there is none.

        Raises:
            NotACollection: a table of that name is not ours.
            CollectionMismatchError: it was made with other options.
        """
        query = sql.SQL("SELECT number, manifest, settings FROM {} WHERE name = {}").format(self._list, self._name)
        found = self._ask_list("reading the manifest", query)
        if not found:
            return None
        number, text, settings = found[0]
        manifest = Manifest.loads(text)
        return manifest, self._layout(number, manifest, Settings.loads(settings))

    def names(self) -> list[str]:
        """The collections of the schema, sorted."""
        found = self._ask_list("listing collections", sql.SQL("SELECT name FROM {} ORDER BY name").format(self._list))
        return [name for (name,) in found]

    def make(self, manifest: Manifest) -> Layout:
        """Make the collection, with the schema and the extension where they are missing: all or nothing.

        Raises:
            ConflictError: there is one.
            DimensionError: pgvector does not take so many dims.
            NotACollection: a table of that name is not ours.
        """
        settings = Settings.given(self._given, manifest)
        _check_dims(manifest, settings)
        return self._connections.transact("making the collection", lambda c: self._make(c, manifest, settings))

    def replace(self, manifest: Manifest, expected: Manifest) -> None:
        """Replace the manifest.

        Raises:
            ConflictError: what is stored is not ``expected``.
        """
        with suppress(CollectionNotFound):
            self._connections.transact("writing the manifest", lambda c: self._replace(c, manifest, expected))
            return
        raise self._conflict()

    def drop(self) -> None:
        """Remove the collection; no error where there is none."""
        with suppress(CollectionNotFound):
            self._connections.transact("dropping the collection", self._drop)

    def _ask_list(self, doing: str, query: sql.SQL | sql.Composed) -> list[tuple[Any, ...]]:
        try:
            (found,) = self._connections.ask(doing, [Statement(query)], {})
        except CollectionNotFound:
            return []  # there is not even a list
        except BackendError as error:
            if isinstance(error.__cause__, errors.UndefinedColumn):
                raise self._not_ours(self._list) from error
            raise
        return found

    # -- in a transaction ----------------------------------------------------------------------------------

    def _make(self, connection: Connection, manifest: Manifest, settings: Settings) -> Layout:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        (encoding,) = _one(connection, "SELECT current_setting('server_encoding')")
        if encoding != "UTF8":
            raise BackendError(
                f"the database of {self._address} has the encoding {encoding}, texts need UTF8: "
                "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
            )
        types = self._extension(connection)
        if not _one(connection, "SELECT to_regclass(%s) IS NOT NULL", self._list.as_string())[0]:
            if not _one(connection, "SELECT to_regnamespace(%s) IS NOT NULL", sql.Identifier(self._schema).as_string())[
                0
            ]:
                connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self._schema)))
            connection.execute(_MAKE_LIST.format(self._list))
        insert = sql.SQL(
            "INSERT INTO {} (name, manifest, settings) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING RETURNING number"
        ).format(self._list)
        try:
            row = connection.execute(insert, [self._name, manifest.dumps(), settings.dumps()]).fetchone()
        except (errors.UndefinedColumn, errors.WrongObjectType, errors.InvalidColumnReference) as error:
            raise self._not_ours(self._list) from error
        if row is None:
            raise self._conflict()
        layout = self._layout(row[0], manifest, settings)
        connection.execute("SELECT set_config('search_path', %s, TRUE)", [types.search_path["search_path"]])
        try:
            connection.execute(_MAKE_ROWS.format(table=layout.table, vectors=layout.columns))
        except errors.DuplicateTable as error:
            raise self._not_ours(layout.table) from error
        if settings.stored_prefix and layout.coarse_dims <= _MOST_IN_THE_ROW:
            connection.execute(sql.SQL("ALTER TABLE {} ALTER COLUMN coarse SET STORAGE MAIN").format(layout.table))
        connection.execute(
            sql.SQL("CREATE INDEX ON {} USING hnsw (({}) {}) WITH (m = {}, ef_construction = {})").format(
                layout.table,
                layout.graph_key(layout.name),
                layout.operator_class,
                settings.m,
                settings.ef_construction,
            )
        )
        connection.execute(
            sql.SQL(
                # With fast updates, new entries lie in a list that every query reads, until a vacuum comes by.
                "CREATE INDEX ON {} USING gin (metadata jsonb_path_ops, kinds) WITH (fastupdate = off)"
            ).format(layout.table)
        )
        return layout

    def _extension(self, connection: Connection) -> Types:
        """The extension, made where it is missing."""
        found = connection.execute(_FIND_EXTENSION).fetchall()
        if not found:
            try:
                connection.execute("CREATE EXTENSION vector")
            except (errors.InsufficientPrivilege, errors.FeatureNotSupported, errors.UndefinedFile) as error:
                raise BackendError(
                    f"the database of {self._address} has no pgvector, and PostgreSQL refused to add it: "
                    f"{error.diag.message_primary}; install pgvector on the server and have a superuser run "
                    "CREATE EXTENSION vector in this database"
                ) from error
            found = connection.execute(_FIND_EXTENSION).fetchall()
        return self._types(found)

    def _replace(self, connection: Connection, manifest: Manifest, expected: Manifest) -> None:
        query = sql.SQL("SELECT manifest FROM {} WHERE name = %s FOR UPDATE").format(self._list)
        row = connection.execute(query, [self._name]).fetchone()
        if row is None or Manifest.loads(row[0]).checksum != expected.checksum:
            raise self._conflict()
        query = sql.SQL("UPDATE {} SET manifest = %s WHERE name = %s").format(self._list)
        connection.execute(query, [manifest.dumps(), self._name])

    def _drop(self, connection: Connection) -> None:
        query = sql.SQL("DELETE FROM {} WHERE name = %s RETURNING number").format(self._list)
        row = connection.execute(query, [self._name]).fetchone()
        if row is not None:
            table = sql.Identifier(self._schema, self._table(row[0]))
            connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
            forget(connection, self._schema, row[0])

    # -- the rest ------------------------------------------------------------------------------------------

    @staticmethod
    def _table(number: int) -> str:
        return f"mrl_rows_{number}"

    def _layout(self, number: int, manifest: Manifest, settings: Settings) -> Layout:
        made = asdict(settings)
        for name, value in self._given.items():
            if value != made[name]:
                raise CollectionMismatchError(
                    f"{self._address} was made with {name}={made[name]!r}, {value!r} was given: leave the option out, "
                    "or copy the rows into a new collection made with it"
                )
        return Layout(self._schema, self._table(number), manifest.coarse_dims, manifest.fine_dims, settings)

    def _types(self, found: list[tuple[Any, ...]]) -> Types:
        if not found:
            raise BackendError(f"the database of {self._address} has no pgvector any more: CREATE EXTENSION vector")
        schema, version, vector, halfvec = found[0]
        if tuple(int(part) for part in version.split(".")[:2]) < _LEAST_VERSION:
            raise BackendError(
                f"the database of {self._address} has pgvector {version}, iterative scans need 0.8: install it on the "
                "server and have a superuser run ALTER EXTENSION vector UPDATE"
            )
        return Types(schema, vector, halfvec)

    def _conflict(self) -> ConflictError:
        return ConflictError(f"the manifest of {self._address} was changed meanwhile; read it again and repeat")

    def _not_ours(self, table: sql.Identifier) -> NotACollection:
        return NotACollection(
            f"{self._address} needs the table {table.as_string()}, and the one that is there was not made by this "
            "library; choose another schema="
        )


def _one(connection: Connection, query: str, *parameters: Any) -> tuple[Any, ...]:
    row = connection.execute(sql.SQL(query), parameters).fetchone()
    assert row is not None
    return row


def _check_dims(manifest: Manifest, settings: Settings) -> None:
    kind = settings.coarse_quantization
    if manifest.coarse_dims > _MOST_INDEXED[kind]:
        raise DimensionError(
            f"coarse_dims={manifest.coarse_dims}, a graph of pgvector with coarse_quantization={kind!r} takes up to "
            f"{_MOST_INDEXED[kind]}: choose fewer, or coarse_quantization='halfvec' (4000) or 'binary' (16000)"
        )
    if manifest.fine_dims > _MOST_COMPONENTS:
        raise DimensionError(
            f"fine_dims={manifest.fine_dims}, a vector of pgvector takes up to {_MOST_COMPONENTS}: choose fewer"
        )
