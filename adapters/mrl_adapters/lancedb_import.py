"""Reading a LanceDB table that another program made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from mrl_retrieval.address import Address
from mrl_retrieval.documents import content_id
from mrl_retrieval.errors import CollectionNotFound, InvalidInput
from mrl_retrieval.moving.foreign import Fields, ForeignBatch, ForeignCollection, plain_json

from ._foreign import Column, check_ids, check_options, listed, roles_of, vectors_first
from ._lancedb.database import Database
from ._lancedb.options import Opening
from ._lancedb.package import pa
from ._lancedb.rows import matrix

__all__ = ["LanceDBForeign", "open_foreign"]

_ID = "id"
_ROWS_AT_ONCE = 8192
_OURS = ("mrl-collections", "mrl-rows.")


def open_foreign(address: Address, fields: Fields, **options: Any) -> LanceDBForeign:
    """Open the table of that name, as it is now: what is written to it meanwhile is not read.

    The vector is the only column of lists of one length of floats; the text the column ``document``, ``text``,
    ``page_content`` or ``content``, or else the only one of text; all else is metadata. Where one struct is all that is
    left, its fields are the metadata. The id is the column ``id`` of strings or whole numbers. Where there is none, it
    is made of text and metadata, as for everything that is indexed without one: two rows that are equal in these and in
    the vector become one, and where the vectors differ a column has to be named.

    Args:
        options: none.

    Raises:
        CollectionNotFound: there is no such table.
        InvalidInput: a column is not there, or which is which is not clear.
    """
    check_options("lancedb", options, ())
    database = Database(address, Opening().lock_timeout)
    try:
        return LanceDBForeign(database, fields)
    except BaseException:
        database.close()
        raise


class LanceDBForeign(ForeignCollection):
    """One version of a table, scanned."""

    def __init__(self, database: Database, fields: Fields) -> None:
        self._database = database
        self._table = self._find(database.address.collection)
        self._schema = self._table.schema
        where = self._where = f"the LanceDB table {database.address.collection!r}"
        columns = [Column(field.name, str(field.type), _kind(field.type)) for field in self._schema]
        ids = [_ID] if _ID in self._schema.names and _is_id(self._schema.field(_ID).type) else []
        self._roles = roles = roles_of(where, columns, fields, ids=ids)
        self._rows = 0
        if roles.id is None:
            if roles.text is None and not roles.metadata:
                raise InvalidInput(
                    f"{where} has no column {_ID!r}, nor text or metadata to make ids of: name one with --id-field"
                )
            # Read once for nothing, so that rows of which no ids can be made are found before anything is written.
            self._rows = sum(len(batch.ids) for batch in self._read(_ROWS_AT_ONCE))
        else:
            name = roles.id
            pages = self._scan([name], _ROWS_AT_ONCE)
            check_ids(where, name, (id for page in pages for id in page[name].to_pylist()))

    def _find(self, name: str) -> Any:
        if not name.startswith(_OURS):
            table = self._database.open_table(name)
            if table is not None:
                with self._database.errors("opening a table"):
                    table.checkout(table.version)
                return table
        there = [each for each in self._database.table_names() if not each.startswith(_OURS)]
        raise CollectionNotFound(
            f"LanceDB has no table {name!r} at {self._database.address} (there: {listed(there) or 'none'}); name it "
            "with ?collection=TABLE"
        )

    def count(self) -> int:
        """How many rows there are; of equal ones without an id, one counts."""
        if self._roles.id is None:
            return self._rows
        with self._database.errors("counting"):
            return int(self._table.count_rows())

    def batches(self, size: int) -> Iterator[ForeignBatch]:
        return vectors_first(lambda: self._read(size))

    def _read(self, size: int) -> Iterator[ForeignBatch]:
        roles = self._roles
        others = list(dict.fromkeys([*(n for n in (roles.text, roles.id) if n is not None), *roles.metadata]))
        made: dict[str, bytes] = {}
        for batch in self._scan(list(dict.fromkeys([roles.vector, *others])), size):
            found = {name: self._values(batch, name) for name in others}
            columns = [found[name] for name in roles.metadata]
            rows: Sequence[Sequence[Any]] = list(zip(*columns, strict=True)) or [()] * batch.num_rows
            metadatas = [roles.metadata_of(row) for row in rows]
            texts = [None] * batch.num_rows if roles.text is None else [_text(value) for value in found[roles.text]]
            vectors = self._vectors(batch, roles.vector)
            if roles.id is not None:
                yield ForeignBatch([str(id) for id in found[roles.id]], vectors, texts, metadatas)
                continue
            ids = [content_id(text, plain_json(one)) for text, one in zip(texts, metadatas, strict=True)]
            kept = [i for i, id in enumerate(ids) if self._is_new(made, id, vectors[i], texts[i])]
            yield ForeignBatch(
                [ids[i] for i in kept],
                [vectors[i] for i in kept],
                [texts[i] for i in kept],
                [metadatas[i] for i in kept],
            )

    def _scan(self, names: list[str], size: int) -> Iterator[Any]:
        """The rows as record batches of these columns."""
        with self._database.errors("reading"):
            found = iter(self._table.search().select(names).limit(None).to_batches(size))
        while True:
            with self._database.errors("reading"):
                batch = next(found, None)
            if batch is None:
                return
            for start in range(0, batch.num_rows, size):
                yield batch.slice(start, size)

    def _vectors(self, batch: Any, name: str) -> list[Any]:
        column = batch[name]
        there = column.is_valid().to_pylist()
        rows = matrix(column, self._schema.field(name).type.list_size)
        return [row if valid else None for row, valid in zip(rows, there, strict=True)]

    def _values(self, batch: Any, name: str) -> list[Any]:
        column = batch[name]
        if pa.types.is_timestamp(column.type) and column.type.tz is not None:
            column = column.cast(pa.timestamp(column.type.unit, "UTC"))  # so that times are in order as text
        try:
            values: list[Any] = column.to_pylist()
        except (ValueError, OverflowError, pa.ArrowException) as error:
            raise InvalidInput(
                f"{self._where}: the column {name!r} of {column.type} has a value that Python has no place for "
                f"({error}); leave it out by naming the others with --metadata-fields"
            ) from error
        return values

    def _is_new(self, made: dict[str, bytes], id: str, vector: Any, text: str | None) -> bool:
        """Whether this is the first row of that content."""
        digest = b"" if vector is None else hashlib.blake2b(vector.tobytes(), digest_size=16).digest()
        if id not in made:
            made[id] = digest
            return True
        if made[id] != digest:
            raise InvalidInput(
                f"{self._where}: two rows with the text {(text or '')[:80]!r} are equal but for their vectors, so that "
                "no id can be made of text and metadata: name a column of unique values with --id-field"
            )
        return False

    def close(self) -> None:
        self._database.close()


def _kind(type: Any) -> Literal["vector", "text", "object", "search", "other"]:
    if pa.types.is_fixed_size_list(type) and pa.types.is_floating(type.value_type):
        return "vector"
    if pa.types.is_list(type) and pa.types.is_fixed_size_list(type.value_type):
        return "search"
    if pa.types.is_struct(type):
        return "object"
    if pa.types.is_dictionary(type):
        type = type.value_type
    return "text" if pa.types.is_string(type) or pa.types.is_large_string(type) else "other"


def _is_id(type: Any) -> bool:
    return bool(pa.types.is_integer(type) or pa.types.is_string(type) or pa.types.is_large_string(type))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
