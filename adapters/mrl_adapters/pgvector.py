"""The ``pgvector`` backend: all stages of a search in one SQL statement of PostgreSQL.

One table holds the rows of a collection, with the full vector of each. An HNSW index is over an expression, the
renormalised prefix of that vector; what it finds is rescored by the full vectors in the same statement. Writes are
transactions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from mrl_retrieval.address import Address
from mrl_retrieval.backend import Backend, BackendStats, Capabilities
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import CollectionNotFound, DimensionError, MissingExtra
from mrl_retrieval.filters import Filter, IdIn, check_order
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.two_stage import Candidates, Ranking, SearchRequest, Stage

try:
    from psycopg import sql
except ImportError as error:
    raise MissingExtra("the pgvector backend", "pgvector") from error

from . import _pgvector_filters as filters
from ._pgvector_client import Connections, Statement
from ._pgvector_layout import Layout, Types
from ._pgvector_options import Options
from ._pgvector_rows import (
    chunks,
    delete_statement,
    page_statement,
    read_page,
    read_row,
    rows_per_read,
    upsert_statements,
)
from ._pgvector_search import search_statement
from ._pgvector_tables import Tables
from ._pgvector_values import json_text, read_vector, unescape

__all__ = ["PgvectorBackend"]

T = TypeVar("T")

_QUERIES_PER_ROUND_TRIP = 100
_WIDEST = 1000
"""The most that ``hnsw.ef_search`` takes."""


class PgvectorBackend(Backend):
    """A collection in a PostgreSQL database with pgvector 0.8 or later."""

    capabilities = Capabilities(
        persistent=True,
        transactions=True,
        concurrent_writers=True,
        server_side_rerank=True,
        server_side_funnel=True,
        filter_operators=filters.PUSHED,
        exact_search=True,
        approximate_coarse=True,
        quantization=frozenset({"halfvec", "binary"}),
    )
    options: ClassVar[frozenset[str]] = frozenset(f.name for f in fields(Options))

    def __init__(self, address: Address, options: Options) -> None:
        super().__init__(address)
        self._options = options
        self._connections = Connections(address, options)
        self._tables = Tables(address, options, self._connections)
        self._found: Layout | None = None
        self._types: Types | None = None
        if options.fine_dtype:
            self.capabilities = replace(self.capabilities, vector_dtype=options.fine_dtype)

    @classmethod
    def from_address(cls, address: Address, **options: Any) -> PgvectorBackend:
        """Check the address and the options. No connection is made yet.

        Raises:
            InvalidInput: an unknown option, or a wrong value.
            AddressError: the address names no PostgreSQL database.
        """
        return cls(address, Options.parse(options))

    # -- the collection ------------------------------------------------------------------------------------

    def read_manifest(self) -> Manifest | None:
        """See the base class."""
        found = self._tables.read()
        if found is None:
            self._forget()
            return None
        self._remember(*found)
        return found[0]

    def write_manifest(self, manifest: Manifest, expected: Manifest | None) -> None:
        """See the base class. One transaction."""
        if expected is None:
            self._remember(manifest, self._tables.make(manifest))
        else:
            self._tables.replace(manifest, expected)
            self._remember(manifest, self._layout)

    def collections(self) -> list[str]:
        """See the base class. Those of the schema."""
        return self._tables.names()

    def drop(self) -> None:
        """See the base class. Waits for the statements that use the table."""
        self._tables.drop()
        self._forget()

    def _remember(self, manifest: Manifest, layout: Layout) -> None:
        self._manifest, self._found = manifest, layout
        self.capabilities = replace(self.capabilities, vector_dtype=layout.settings.fine_dtype)

    def _forget(self) -> None:
        self._manifest = self._found = self._types = None

    @property
    def _layout(self) -> Layout:
        found = self._found
        if found is None:
            stored = self._tables.read()
            if stored is None:
                raise CollectionNotFound(f"there is no collection at {self.address}; index something first")
            self._remember(*stored)
            found = stored[1]
        return found

    @property
    def _extension(self) -> Types:
        found = self._types
        if found is None:
            found = self._types = self._tables.types()
        return found

    def _ask(self, doing: str, statements: Sequence[Statement], **settings: str) -> list[list[tuple[Any, ...]]]:
        try:
            return self._connections.ask(doing, statements, self._extension.search_path | settings)
        except CollectionNotFound:
            self._forget()
            raise

    # -- rows ----------------------------------------------------------------------------------------------

    def upsert(self, batch: RowBatch) -> None:
        """See the base class. One transaction; rows that are there already, the same, are not written again."""
        layout = self._layout
        shape = (len(batch), layout.fine_dims)
        vectors = np.zeros(shape, dtype=np.float32) if batch.vectors is None else batch.vectors
        if vectors.shape != shape:
            raise DimensionError(
                f"the vectors of {len(batch)} rows have shape {vectors.shape}, {self.address} has fine_dims="
                f"{layout.fine_dims}: read its manifest again"
            )
        statements = list(upsert_statements(batch, vectors, layout, self._extension))
        if statements:
            self._ask("writing rows", statements)

    def delete(self, ids: Sequence[str]) -> int:
        """See the base class. One transaction."""
        ((found,),) = self._ask("deleting rows", [delete_statement(list(dict.fromkeys(ids)), self._layout)])
        return int(found[0])

    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        """See the base class."""
        columns = "id, document, metadata_text" + (", fine" if vectors else "")
        layout = self._layout
        found = {}
        for part in chunks(list(dict.fromkeys(ids)), rows_per_read(layout, vectors=vectors)):
            for id, document, metadata, *fine in self._select(columns, IdIn(frozenset(part))):
                vector = read_vector(fine[0], half=layout.half) if vectors else None
                found[unescape(id)] = read_row(id, document, metadata, vector)
        handed_out: set[str] = set()
        rows: list[Row | None] = []
        for id in ids:
            row = found.get(id)
            if row is not None and id in handed_out:  # asked for twice: each answer is the caller's own to change
                row = Row(row.id, row.document, json.loads(json_text(row.metadata)), _copy(row.vector))
            handed_out.add(id)
            rows.append(row)
        return rows

    def fetch_vectors(self, ids: Sequence[str]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """See the base class. Reads the vectors alone."""
        layout = self._layout
        found: dict[str, FloatArray] = {}
        for part in chunks(list(dict.fromkeys(ids)), rows_per_read(layout, vectors=True)):
            for id, fine in self._select("id, fine", IdIn(frozenset(part))):
                vector = read_vector(fine, half=layout.half)
                if vector is not None:
                    found[unescape(id)] = vector
        out = np.zeros((len(ids), layout.fine_dims), dtype=np.float32)
        there = np.zeros(len(ids), dtype=np.bool_)
        for i, id in enumerate(ids):
            if id in found:
                out[i], there[i] = found[id], True
        return out, there

    def _select(self, columns: str, filter: Filter | None) -> list[tuple[Any, ...]]:
        parameters = filters.Parameters()
        where = filters.condition(filter, parameters)
        text = sql.SQL("SELECT {} FROM {} AS t WHERE {}").format(sql.SQL(columns), self._layout.table, where)
        return self._ask("reading rows", [Statement(text, parameters.values)])[0]

    def count(self, filter: Filter | None = None) -> int:
        """See the base class."""
        _ = self._layout
        pushed = self.resolve_filter(filter)
        return int(self._select("count(*)", pushed)[0][0])

    def scan(
        self, filter: Filter | None = None, *, vectors: bool = False, documents: bool = True, batch_size: int = 1000
    ) -> Iterator[RowBatch]:
        """See the base class. In the order of the keys, a statement for each batch: nothing is held between them."""
        layout = self._layout
        pushed = self.resolve_filter(filter)
        size = max(1, min(batch_size, rows_per_read(layout, vectors=vectors)))

        def read(after: bytes, condition: Filter | None) -> list[tuple[Any, ...]]:
            statement = page_statement(layout, condition, after, size, vectors=vectors, documents=documents)
            return self._ask("scanning", [statement])[0]

        if isinstance(pushed, IdIn):
            for ids in chunks(sorted(pushed.ids), size):
                page = read(b"", IdIn(frozenset(ids)))
                if page:
                    yield read_page(page, layout, vectors=vectors)
            return
        after = b""
        while page := read(after, pushed):
            yield read_page(page, layout, vectors=vectors)
            after = bytes(page[-1][0])
            if len(page) < size:
                return

    # -- filters -------------------------------------------------------------------------------------------

    def can_filter(self, filter: Filter) -> bool:
        """Whether it can be said in SQL: all but ``$itext``, paths of more than 16 keys and huge trees."""
        return filters.can_push(filter)

    def resolve_filter(self, filter: Filter | None) -> Filter | None:
        """See the base class. One look into an index finds rows whose type has no order with the operand's."""
        resolved = super().resolve_filter(filter)
        if resolved is filter:
            parameters = filters.Parameters()
            wrong = filters.out_of_order(filter, parameters)
            if wrong is not None:
                text = sql.SQL("SELECT t.id, t.metadata_text FROM {} AS t WHERE {} LIMIT 1").format(
                    self._layout.table, wrong
                )
                for id, metadata in self._ask("checking the filter", [Statement(text, parameters.values)])[0]:
                    row = read_row(id, None, metadata)
                    check_order(filter, row.id, row.metadata)
        return resolved

    # -- search --------------------------------------------------------------------------------------------

    def search(self, request: SearchRequest) -> list[Ranking]:
        """See the base class. One statement for all stages and the rows, unless ``explain`` asks what is between."""
        if request.explain:
            return super().search(request)
        filter = self.resolve_filter(request.filter)
        found = self._search(request.vectors, request.stages, filter, graph=not request.exact, rows=True)
        return [
            Ranking([read_row(id, document, metadata) for id, _, document, metadata in ranked], _scores(ranked))
            for ranked in found
        ]

    def coarse_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        """See the base class."""
        stages = [Stage(self._layout.coarse_dims, limit)]
        return _candidates(self._search(vectors, stages, filter, graph=True, rows=False))

    def exact_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        """See the base class. Scored in PostgreSQL."""
        stages = [Stage(self._layout.fine_dims, limit)]
        return _candidates(self._search(vectors, stages, filter, graph=False, rows=False))

    def _search(
        self, vectors: FloatArray, stages: Sequence[Stage], filter: Filter | None, *, graph: bool, rows: bool
    ) -> list[list[tuple[Any, ...]]]:
        layout = self._layout
        binary = layout.settings.coarse_quantization == "binary"
        wide = stages[0].limit * (self._options.oversampling if binary else 1) if graph else 0
        statements = [search_statement(layout, v, stages, filter, graph=wide, rows=rows) for v in vectors]
        found: list[list[tuple[Any, ...]]] = []
        for part in chunks(statements, _QUERIES_PER_ROUND_TRIP):
            found += self._ask("searching", part, **self._search_settings(wide))
        return found

    def _search_settings(self, limit: int) -> Mapping[str, str]:
        """Of the server, for one search: the graph is searched at least as widely as it is asked for rows."""
        return {
            "hnsw.ef_search": str(max(self._options.ef_search, min(limit, _WIDEST))),
            "hnsw.iterative_scan": self._options.iterative_scan,
            "hnsw.max_scan_tuples": str(self._options.max_scan_tuples),
            "jit": "off",  # it costs more than any of these statements takes
            # A graph is of use only where it is in memory; the default is that of a turning disk, and would have the
            # planner read thousands of rows rather than walk the graph.
            "random_page_cost": "1.1",
        }

    # -- the rest ------------------------------------------------------------------------------------------

    def stats(self) -> BackendStats:
        """See the base class."""
        layout = self._layout
        text = sql.SQL(
            "SELECT (SELECT count(*) FROM {table}), (SELECT count(fine) FROM {table}), "
            "(SELECT sum(pg_column_size(fine)) FROM {table})::int8, pg_total_relation_size({name}::regclass), "
            "(SELECT sum(pg_relation_size(i.indexrelid)) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "JOIN pg_am a ON a.oid = c.relam WHERE i.indrelid = {name}::regclass AND a.amname = 'hnsw')::int8, "
            "(SELECT extversion FROM pg_extension WHERE extname = 'vector'), current_setting('server_version')"
        ).format(table=layout.table, name=layout.table.as_string())
        ((row,),) = self._ask("counting", [Statement(text)])
        rows, vectors, fine, total, graph, extension, server = row
        settings = layout.settings
        return BackendStats(
            rows=rows,
            vectors=vectors,
            bytes={"coarse": graph, "fine": fine, "rows": max(total - graph - (fine or 0), 0) or None},
            details={
                "index": f"HNSW, m={settings.m}, ef_construction={settings.ef_construction}",
                "coarse_quantization": settings.coarse_quantization,
                "table": layout.table.as_string(),
                "pgvector": extension,
                "postgresql": server,
            },
        )

    def close(self) -> None:
        """See the base class."""
        self._connections.close()


def _copy(vector: FloatArray | None) -> FloatArray | None:
    return None if vector is None else vector.copy()


def _scores(rows: list[tuple[Any, ...]]) -> FloatArray:
    return np.array([row[1] for row in rows], dtype=np.float32)


def _candidates(found: list[list[tuple[Any, ...]]]) -> list[Candidates]:
    return [Candidates([unescape(row[0]) for row in rows], _scores(rows)) for rows in found]
