"""Rows: the statements that write, delete, find and page through them, and rows from what PostgreSQL gives back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from psycopg import sql

from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import CorruptionError
from mrl_retrieval.filters import Filter
from mrl_retrieval.matryoshka import FloatArray

from .client import Statement
from .filters import Parameters, condition, out_of_order
from .layout import Layout, Types
from .values import as_vector_array, escape, json_text, jsonb_text, key_of, kinds_of, read_vector, unescape

__all__ = [
    "FINE",
    "GET",
    "chunks",
    "count_statement",
    "delete_statement",
    "hand_out",
    "out_of_order_statement",
    "page_statement",
    "read_page",
    "read_row",
    "rows_per_read",
    "select_statement",
    "upsert_statements",
]

T = TypeVar("T")

GET = ("id", "document", "metadata_text")
FINE = ("fine",)
"""Columns, as :func:`select_statement` takes them."""

_ROWS_PER_STATEMENT = 500
_BYTES_PER_STATEMENT = 16 * 2**20
_IDS_PER_STATEMENT = 10_000

# A row that is there already, the same, is left alone: writing it again would put it into the graph a second time.
_UPSERT = sql.SQL(
    "INSERT INTO {table} AS t (key, id, document, metadata, metadata_text, kinds, fine) "
    "SELECT n.key, n.id, n.document, n.metadata::jsonb, n.metadata_text, "
    "ARRAY(SELECT jsonb_array_elements_text(n.kinds::jsonb)), n.fine "
    "FROM unnest({keys}::bytea[], {ids}::text[], {documents}::text[], {metadata}::text[], {texts}::text[], "
    "{kinds}::text[], {vectors}::{type}[]) AS n(key, id, document, metadata, metadata_text, kinds, fine) "
    "ON CONFLICT (key) DO UPDATE SET document = EXCLUDED.document, metadata = EXCLUDED.metadata, "
    "metadata_text = EXCLUDED.metadata_text, kinds = EXCLUDED.kinds, fine = EXCLUDED.fine "
    "WHERE (t.document, t.metadata_text, t.fine) IS DISTINCT FROM "
    "(EXCLUDED.document, EXCLUDED.metadata_text, EXCLUDED.fine)"
)
# In the order of the keys, as rows are written: of two writers one then waits for the other, but never each for each.
_DELETE = sql.SQL(
    "WITH doomed AS MATERIALIZED (SELECT t.key FROM {table} AS t WHERE t.key = ANY({keys}) ORDER BY t.key FOR UPDATE), "
    "gone AS (DELETE FROM {table} AS t USING doomed WHERE t.key = doomed.key RETURNING 1) SELECT count(*) FROM gone"
)
_PAGE = sql.SQL(
    "SELECT t.key, t.id, {document}, t.metadata_text, t.fine IS NOT NULL, {fine} FROM {table} AS t "
    "WHERE t.key > {after}::bytea AND {condition} ORDER BY t.key LIMIT {size}"
)


def upsert_statements(batch: RowBatch, vectors: FloatArray, layout: Layout, types: Types) -> Iterator[Statement]:
    """What writes a batch, in the order of the keys, in parts of reasonable size."""
    keys = [key_of(id) for id in batch.ids]
    element = types.halfvec if layout.half else types.vector
    for part in _parts(sorted(range(len(keys)), key=keys.__getitem__), batch, layout):
        parameters = Parameters()
        chosen = np.array(part, dtype=np.intp)
        documents = [batch.documents[i] for i in part]
        metadatas = [batch.metadatas[i] for i in part]
        packed = as_vector_array(vectors[chosen], batch.has_vector[chosen], element, half=layout.half)
        text = _UPSERT.format(
            table=layout.table,
            type=layout.fine_type,
            keys=parameters.add([keys[i] for i in part], binary=True),
            ids=parameters.add([escape(batch.ids[i]) for i in part], binary=True),
            documents=parameters.add([d if d is None else escape(d) for d in documents], binary=True),
            metadata=parameters.add([jsonb_text(m) for m in metadatas], binary=True),
            texts=parameters.add([json_text(m) for m in metadatas], binary=True),
            kinds=parameters.add([json_text(kinds_of(m)) for m in metadatas], binary=True),
            vectors=parameters.add(packed, binary=True),
        )
        yield Statement(text, parameters.values)


def _parts(order: list[int], batch: RowBatch, layout: Layout) -> Iterator[list[int]]:
    part: list[int] = []
    size = 0
    for i in order:
        row = 4 * layout.fine_dims + len(batch.documents[i] or "") + len(batch.ids[i])
        if part and (len(part) == _ROWS_PER_STATEMENT or size + row > _BYTES_PER_STATEMENT):
            yield part
            part, size = [], 0
        part.append(i)
        size += row
    if part:
        yield part


def delete_statement(ids: Sequence[str], layout: Layout) -> Statement:
    """What deletes rows; its one value is how many were there."""
    parameters = Parameters()
    return Statement(_DELETE.format(table=layout.table, keys=parameters.keys(ids)), parameters.values)


def select_statement(columns: Sequence[str], layout: Layout, filter: Filter | None) -> Statement:
    """What reads these columns of all rows that match."""
    parameters = Parameters()
    named = sql.SQL(", ").join([sql.Identifier("t", name) for name in columns])
    where = condition(filter, parameters)
    return Statement(sql.SQL("SELECT {} FROM {} AS t WHERE {}").format(named, layout.table, where), parameters.values)


def count_statement(layout: Layout, filter: Filter | None) -> Statement:
    """What counts the rows that match; its one value is how many."""
    parameters = Parameters()
    where = condition(filter, parameters)
    return Statement(sql.SQL("SELECT count(*) FROM {} AS t WHERE {}").format(layout.table, where), parameters.values)


def out_of_order_statement(layout: Layout, filter: Filter | None) -> Statement | None:
    """What finds a row whose value has no order with an operand of the filter; None where it needs no order."""
    parameters = Parameters()
    wrong = out_of_order(filter, parameters)
    if wrong is None:
        return None
    text = sql.SQL("SELECT t.id, t.metadata_text FROM {} AS t WHERE {} LIMIT 1").format(layout.table, wrong)
    return Statement(text, parameters.values, prepare=True)


def page_statement(
    layout: Layout, filter: Filter | None, after: bytes, size: int, *, vectors: bool, documents: bool
) -> Statement:
    """What reads the next ``size`` rows after a key; :func:`read_page` takes what it gives."""
    parameters = Parameters()
    text = _PAGE.format(
        document=sql.SQL("t.document" if documents else "NULL::text"),
        fine=sql.SQL("t.fine" if vectors else "NULL::bytea"),
        table=layout.table,
        after=parameters.add(after, binary=True),
        condition=condition(filter, parameters),
        size=parameters.add(size),
    )
    return Statement(text, parameters.values)


def read_page(page: list[tuple[Any, ...]], layout: Layout, *, vectors: bool) -> RowBatch:
    """The rows of a page as columns."""
    rows = [read_row(id, document, metadata) for _, id, document, metadata, _, _ in page]
    matrix = np.zeros((len(rows), layout.fine_dims), dtype=np.float32) if vectors else None
    if matrix is not None:
        for i, (*_, fine) in enumerate(page):
            vector = read_vector(fine, half=layout.half)
            if vector is not None:
                matrix[i] = vector
    return RowBatch(
        ids=[row.id for row in rows],
        documents=[row.document for row in rows],
        metadatas=[row.metadata for row in rows],
        vectors=matrix,
        has_vector=np.array([has for *_, has, _ in page], dtype=np.bool_),
    )


def read_row(id: str, document: str | None, metadata: str, vector: FloatArray | None = None) -> Row:
    """A row from its columns.

    Raises:
        CorruptionError: its metadata is no JSON.
    """
    try:
        return Row(unescape(id), None if document is None else unescape(document), json.loads(metadata), vector)
    except ValueError as error:
        raise CorruptionError(
            f"the metadata of row {id!r} is no JSON ({error}): {metadata[:200]!r}; it was changed by hand: index the "
            "row again"
        ) from error


def hand_out(found: Mapping[str, Row], ids: Sequence[str]) -> list[Row | None]:
    """The rows in the order they were asked for. One asked for twice is two: each is the caller's own to change."""
    handed_out: set[str] = set()
    rows: list[Row | None] = []
    for id in ids:
        row = found.get(id)
        if row is not None and id in handed_out:
            vector = None if row.vector is None else row.vector.copy()
            row = Row(row.id, row.document, json.loads(json_text(row.metadata)), vector)
        handed_out.add(id)
        rows.append(row)
    return rows


def rows_per_read(layout: Layout, *, vectors: bool) -> int:
    """How many rows one statement should read."""
    per_row = 4096 + (4 * layout.fine_dims if vectors else 0)
    return max(1, min(_IDS_PER_STATEMENT, _BYTES_PER_STATEMENT // per_row))


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in parts of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
