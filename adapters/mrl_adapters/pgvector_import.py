"""Reading a PostgreSQL table, or view, with a pgvector column that another program made."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from mrl_retrieval.address import Address
from mrl_retrieval.errors import CollectionNotFound, InvalidInput, MissingExtra
from mrl_retrieval.moving.foreign import Fields, ForeignBatch, ForeignCollection

try:
    import psycopg
    from psycopg import sql
    from psycopg.abc import AdaptContext, Buffer
    from psycopg.adapt import Loader
    from psycopg.types import datetime as moments
    from psycopg.types.string import TextLoader
except ImportError as error:
    raise MissingExtra("the pgvector importer", "pgvector") from error

from ._foreign import Column, Roles, check_options, listed, roles_of
from ._pgvector.client import Connections, Statement
from ._pgvector.options import Options
from ._pgvector.values import read_vector

__all__ = ["PgvectorForeign", "open_foreign"]

_OPTIONS = frozenset(
    {"user", "password", "sslmode", "sslrootcert", "sslcert", "sslkey", "connection", "timeout", "schema"}
)

_SETTINGS = {
    "transaction_read_only": "on",
    "idle_in_transaction_session_timeout": "0",  # between two batches the target is written
    "timezone": "UTC",  # so that times are in order as text
    "datestyle": "ISO",
    "intervalstyle": "postgres",
}

_TABLES = sql.SQL(
    "SELECT c.oid::int8, n.nspname, c.relname, pg_table_is_visible(c.oid) FROM pg_class c "
    "JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' "
    "ORDER BY 4 DESC, 2, 3"
)
_COLUMNS = sql.SQL(
    "SELECT a.attname, format_type(a.atttypid, a.atttypmod), e.extname IS NOT NULL, t.typname, t.typcategory = 'S', "
    "coalesce(a.attnum = ANY (i.indkey), false), x.nspname FROM pg_attribute a "
    "JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace x ON x.oid = t.typnamespace "
    "LEFT JOIN pg_extension e ON e.extname = 'vector' AND e.extnamespace = t.typnamespace "
    "AND t.typname IN ('vector', 'halfvec', 'sparsevec') "
    "LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary "
    "WHERE a.attrelid = {} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
)
_NOT_AN_ID = sql.SQL(
    "SELECT {column}::text, count(*) FROM {table} GROUP BY 1 HAVING count(*) > 1 OR {column}::text IS NULL LIMIT 1"
)
# One statement, so that it sees the table at one instant; rows with a vector first, because they tell its length.
_READ = sql.SQL(
    "SELECT {columns} FROM {table} AS t WHERE t.{vector} IS NOT NULL "
    "UNION ALL SELECT {columns} FROM {table} AS t WHERE t.{vector} IS NULL"
)


def open_foreign(address: Address, fields: Fields, **options: Any) -> PgvectorForeign:
    """Open the table, or view, of that name: ``table``, as the search path finds it, or ``schema.table``.

    The vector is the only ``vector`` or ``halfvec`` column; the id the primary key, of one column; the text the column
    ``document``, ``text``, ``page_content`` or ``content``, or else the only one of text; all else is metadata. Where
    one ``jsonb`` (``json``) column is all that is left, its keys are the metadata.

    Args:
        options: ``user``, ``password``, ``sslmode``, ``sslrootcert``, ``sslcert``, ``sslkey``, ``connection`` and
            ``timeout`` as the pgvector backend has them; ``schema``: where the table is.

    Raises:
        CollectionNotFound: there is no such table.
        InvalidInput: a column is not there, or which is which is not clear.
    """
    check_options("pgvector", options, _OPTIONS)
    connections = Connections(address, Options.parse(options))
    try:
        return PgvectorForeign(address, connections, fields, options.get("schema"))
    except BaseException:
        connections.close()
        raise


@dataclass(frozen=True, slots=True)
class _Table:
    name: sql.Identifier
    columns: list[Column]
    key: list[str]
    """Columns of the primary key."""
    vectors: dict[str, str]
    """The type of each column of vectors."""
    types: str
    """The schema of these types."""


class PgvectorForeign(ForeignCollection):
    """A table through a server-side cursor, in a transaction that cannot write."""

    def __init__(self, address: Address, connections: Connections, fields: Fields, schema: str | None) -> None:
        self._address, self._connections = address, connections
        self._reading: Generator[ForeignBatch] | None = None
        self._table = self._find(address.collection, schema)
        where = f"the table {address.collection!r}"
        self._roles = roles_of(where, self._table.columns, fields, ids=self._table.key)
        self._check_id(where)

    def _ask(self, doing: str, statement: sql.Composed | sql.SQL) -> list[tuple[Any, ...]]:
        (found,) = self._connections.ask(doing, [Statement(statement)], _SETTINGS)
        return found

    def _find(self, name: str, schema: str | None) -> _Table:
        tables = self._ask("looking for the table", _TABLES)
        shown = []
        for oid, space, table, visible in tables:
            whole = f"{space}.{table}"
            if (table == name and space == schema) if schema else (whole == name or (visible and table == name)):
                return self._look_at(oid, sql.Identifier(space, table))
            shown.append(table if visible else whole)
        raise CollectionNotFound(
            f"PostgreSQL has no table {name!r}{f' in the schema {schema!r}' if schema else ''} at {self._address} "
            f"(there: {listed(shown) or 'none'}); name it with ?collection=TABLE or ?collection=SCHEMA.TABLE"
        )

    def _look_at(self, oid: int, name: sql.Identifier) -> _Table:
        columns, key, vectors, types = [], [], {}, ""
        for column, words, ours, kind, is_text, in_key, space in self._ask(
            "reading its columns", _COLUMNS.format(sql.Literal(oid))
        ):
            if in_key:
                key.append(column)
            if ours and kind != "sparsevec":
                vectors[column], types = kind, space
                columns.append(Column(column, words, "vector"))
            elif ours or kind == "tsvector":
                columns.append(Column(column, words, "search"))
            elif kind in ("jsonb", "json"):
                columns.append(Column(column, words, "object"))
            else:
                columns.append(Column(column, words, "text" if is_text else "other"))
        return _Table(name, columns, key, vectors, types)

    def _check_id(self, where: str) -> None:
        """An id is one column, without NULL, and in one row only."""
        id, key = self._roles.id, self._table.key
        if id is None:
            found = f"a primary key of {len(key)} columns ({', '.join(key)})" if key else "no primary key"
            raise InvalidInput(
                f"{where} has {found}: name a column whose values are unique with --id-field (there: "
                f"{listed(column.name for column in self._table.columns)})"
            )
        if key == [id]:
            return
        again = self._ask("checking the ids", _NOT_AN_ID.format(column=sql.Identifier(id), table=self._table.name))
        if again:
            value, count = again[0]
            found = f"{count} rows have no {id!r}" if value is None else f"{count} rows have {value!r} as {id!r}"
            raise InvalidInput(f"{where}: {found}; an id is in every row and in no other: name another --id-field")

    def count(self) -> int:
        ((found,),) = self._ask("counting", sql.SQL("SELECT count(*) FROM {}").format(self._table.name))
        return int(found)

    def batches(self, size: int) -> Iterator[ForeignBatch]:
        # Held, so that closing ends the transaction also where nobody reads on.
        self._reading = reading = self._read(size)
        return reading

    def _read(self, size: int) -> Generator[ForeignBatch]:
        roles, half = self._roles, self._table.vectors[self._roles.vector] == "halfvec"
        query = _READ.format(columns=self._selected(roles), table=self._table.name, vector=sql.Identifier(roles.vector))
        with (
            self._connections.transaction("reading", _SETTINGS) as connection,
            connection.cursor(name="mrl_import") as cursor,
        ):
            for name, loader in _LOADERS.items():
                cursor.adapters.register_loader(name, loader)
            cursor.execute(query)
            while rows := cursor.fetchmany(size):
                yield ForeignBatch(
                    [row[0] for row in rows],
                    [read_vector(row[1], half=half) for row in rows],
                    [row[2] for row in rows],
                    [roles.metadata_of(row[3:]) for row in rows],
                )

    def _selected(self, roles: Roles) -> sql.Composed:
        """Id, vector as its own bytes, text, metadata."""
        send = sql.Identifier(self._table.types, f"{self._table.vectors[roles.vector]}_send")
        assert roles.id is not None
        text = sql.NULL if roles.text is None else sql.SQL("t.{}").format(sql.Identifier(roles.text))
        first = [
            sql.SQL("t.{}::text").format(sql.Identifier(roles.id)),
            sql.SQL("{}(t.{})").format(send, sql.Identifier(roles.vector)),
            sql.SQL("{}::text").format(text),
        ]
        return sql.SQL(", ").join([*first, *(sql.SQL("t.{}").format(sql.Identifier(n)) for n in roles.metadata)])

    def close(self) -> None:
        if self._reading is not None:
            self._reading.close()
        self._connections.close()


class _Moment(Loader):
    """A date or time as Python's; as PostgreSQL's words where Python has none, as for infinity and years B.C."""

    strict: ClassVar[type[Loader]]

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        self._strict = self.strict(oid, context)

    def load(self, data: Buffer) -> Any:
        try:
            return self._strict.load(data)
        except psycopg.DataError:
            return bytes(data).decode()


class _Date(_Moment):
    strict = moments.DateLoader


class _Time(_Moment):
    strict = moments.TimeLoader


class _TimeWithZone(_Moment):
    strict = moments.TimetzLoader


class _Timestamp(_Moment):
    strict = moments.TimestampLoader


class _TimestampWithZone(_Moment):
    strict = moments.TimestamptzLoader


_LOADERS: dict[str, type[Loader]] = {
    "date": _Date,
    "time": _Time,
    "timetz": _TimeWithZone,
    "timestamp": _Timestamp,
    "timestamptz": _TimestampWithZone,
    "interval": TextLoader,  # months have no number of days
}
