"""The ``pgvector`` backend: all stages of a search in one SQL statement of PostgreSQL.

One table holds the rows of a collection, with the full vector of each and its renormalised prefix, which an HNSW index
is over; what that finds is rescored by the full vectors in the same statement. Writes are transactions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import chain, islice
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mrl_retrieval.address import Address
from mrl_retrieval.attachments import checked_name, seal, unseal
from mrl_retrieval.backend import Backend, BackendStats, Capabilities
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import DimensionError, MissingExtra
from mrl_retrieval.filters import Filter, IdIn, check_order
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.two_stage import Candidates, Ranking, SearchRequest, Stage

try:
    import psycopg  # noqa: F401  (the modules below need it)
except ImportError as error:
    raise MissingExtra("the pgvector backend", "pgvector") from error

from ._pgvector import filters
from ._pgvector.client import Statement
from ._pgvector.options import Options
from ._pgvector.rows import (
    FINE,
    GET,
    chunks,
    count_statement,
    delete_statement,
    hand_out,
    out_of_order_statement,
    page_statement,
    read_page,
    read_row,
    rows_per_read,
    select_statement,
    upsert_statements,
)
from ._pgvector.search import search_settings, search_statements
from ._pgvector.session import Known, Session
from ._pgvector.stats import read_stats, stats_statement
from ._pgvector.values import read_vector, unescape

__all__ = ["PgvectorBackend"]

_QUERIES_PER_ROUND_TRIP = 100


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
        attachments=True,
    )
    options: ClassVar[frozenset[str]] = frozenset(f.name for f in fields(Options))

    def __init__(self, address: Address, options: Options) -> None:
        super().__init__(address)
        self._options = options
        self._session = Session(address, options, self._learned)
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
        known = self._session.read()
        return None if known is None else known[0]

    def write_manifest(self, manifest: Manifest, expected: Manifest | None) -> None:
        """See the base class. One transaction."""
        if expected is None:
            self._session.make(manifest)
        else:
            self._session.replace(manifest, expected)

    def collections(self) -> list[str]:
        """See the base class. Those of the schema."""
        return self._session.tables.names()

    def drop(self) -> None:
        """See the base class. Waits for the statements that use the table."""
        self._session.drop()

    def write_attachment(self, name: str, content: bytes) -> None:
        """See the base class. One transaction."""
        self._session.attachments.write(name, seal(name, content))

    def read_attachment(self, name: str) -> bytes | None:
        """See the base class."""
        sealed = self._session.attachments.read(checked_name(name))
        return None if sealed is None else unseal(name, sealed, self.address)

    def _learned(self, known: Known | None) -> None:
        self._manifest = None if known is None else known[0]
        if known is not None:
            self.capabilities = replace(self.capabilities, vector_dtype=known[1].settings.fine_dtype)

    # -- rows ----------------------------------------------------------------------------------------------

    def upsert(self, batch: RowBatch) -> None:
        """See the base class. One transaction; rows that are there already, the same, are not written again."""
        layout = self._session.layout
        shape = (len(batch), layout.fine_dims)
        vectors = np.zeros(shape, dtype=np.float32) if batch.vectors is None else batch.vectors
        if vectors.shape != shape:
            raise DimensionError(
                f"the vectors of {len(batch)} rows have shape {vectors.shape}, {self.address} has fine_dims="
                f"{layout.fine_dims}: read its manifest again"
            )
        statements = list(upsert_statements(batch, vectors, layout, self._session.types))
        if statements:
            self._session.ask("writing rows", statements, writing=True)

    def delete(self, ids: Sequence[str]) -> int:
        """See the base class. One transaction."""
        statement = delete_statement(list(dict.fromkeys(ids)), self._session.layout)
        ((found,),) = self._session.ask("deleting rows", [statement], writing=True)
        return int(found[0])

    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        """See the base class."""
        layout = self._session.layout
        found = {}
        for part in chunks(list(dict.fromkeys(ids)), rows_per_read(layout, vectors=vectors)):
            for id, document, metadata, *fine in self._select(GET + FINE if vectors else GET, IdIn(frozenset(part))):
                vector = read_vector(fine[0], half=layout.half) if vectors else None
                found[unescape(id)] = read_row(id, document, metadata, vector)
        return hand_out(found, ids)

    def fetch_vectors(self, ids: Sequence[str]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """See the base class. Reads the vectors alone."""
        layout = self._session.layout
        found: dict[str, FloatArray] = {}
        for part in chunks(list(dict.fromkeys(ids)), rows_per_read(layout, vectors=True)):
            for id, fine in self._select(("id", *FINE), IdIn(frozenset(part))):
                vector = read_vector(fine, half=layout.half)
                if vector is not None:
                    found[unescape(id)] = vector
        out = np.zeros((len(ids), layout.fine_dims), dtype=np.float32)
        there = np.zeros(len(ids), dtype=np.bool_)
        for i, id in enumerate(ids):
            if id in found:
                out[i], there[i] = found[id], True
        return out, there

    def _select(self, columns: Sequence[str], filter: Filter | None) -> list[tuple[Any, ...]]:
        return self._session.ask("reading rows", [select_statement(columns, self._session.layout, filter)])[0]

    def count(self, filter: Filter | None = None) -> int:
        """See the base class."""
        layout = self._session.layout
        statement = count_statement(layout, self.resolve_filter(filter))
        return int(self._session.ask("counting", [statement])[0][0][0])

    def scan(
        self, filter: Filter | None = None, *, vectors: bool = False, documents: bool = True, batch_size: int = 1000
    ) -> Iterator[RowBatch]:
        """See the base class. In the order of the keys, a statement for each batch: nothing is held between them."""
        layout = self._session.layout
        pushed = self.resolve_filter(filter)
        size = max(1, min(batch_size, rows_per_read(layout, vectors=vectors)))

        def read(after: bytes, condition: Filter | None) -> list[tuple[Any, ...]]:
            statement = page_statement(layout, condition, after, size, vectors=vectors, documents=documents)
            return self._session.ask("scanning", [statement])[0]

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
        for statement in self._order_check(filter, resolved):
            self._check_order(filter, self._session.ask("checking the filter", [statement])[0])
        return resolved

    def _order_check(self, filter: Filter | None, resolved: Filter | None) -> list[Statement]:
        """What finds a row for which the filter is an error. Nothing where the core has looked at all rows already."""
        statement = out_of_order_statement(self._session.layout, filter) if resolved is filter else None
        return [] if statement is None else [statement]

    @staticmethod
    def _check_order(filter: Filter | None, found: list[tuple[Any, ...]]) -> None:
        for id, metadata in found:
            row = read_row(id, None, metadata)
            check_order(filter, row.id, row.metadata)

    # -- search --------------------------------------------------------------------------------------------

    def search(self, request: SearchRequest) -> list[Ranking]:
        """See the base class. One statement for all stages and the rows, unless ``explain`` asks what is between."""
        if request.explain:
            return super().search(request)
        filter = super().resolve_filter(request.filter)
        checks = self._order_check(request.filter, filter)
        found = self._search(request.vectors, request.stages, filter, graph=not request.exact, rows=True, first=checks)
        for rows in found[: len(checks)]:
            self._check_order(filter, rows)
        return [
            Ranking([read_row(id, document, metadata) for id, _, document, metadata in ranked], _scores(ranked))
            for ranked in found[len(checks) :]
        ]

    def coarse_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        """See the base class."""
        stages = [Stage(self._session.layout.coarse_dims, limit)]
        return _candidates(self._search(vectors, stages, filter, graph=True, rows=False))

    def exact_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        """See the base class. Scored in PostgreSQL."""
        stages = [Stage(self._session.layout.fine_dims, limit)]
        return _candidates(self._search(vectors, stages, filter, graph=False, rows=False))

    def _search(
        self,
        vectors: FloatArray,
        stages: Sequence[Stage],
        filter: Filter | None,
        *,
        graph: bool,
        rows: bool,
        first: Sequence[Statement] = (),
    ) -> list[list[tuple[Any, ...]]]:
        """The rows of the statements of ``first``, then those of each query."""
        layout = self._session.layout
        binary = layout.settings.coarse_quantization == "binary"
        wide = stages[0].limit * (self._options.oversampling if binary else 1) if graph else 0
        statements = chain(first, search_statements(layout, vectors, stages, filter, graph=wide, rows=rows))
        found: list[list[tuple[Any, ...]]] = []
        while part := list(islice(statements, _QUERIES_PER_ROUND_TRIP)):
            found += self._session.ask("searching", part, search_settings(self._options, wide))
        return found

    # -- the rest ------------------------------------------------------------------------------------------

    def stats(self) -> BackendStats:
        """See the base class."""
        layout = self._session.layout
        ((row,),) = self._session.ask("counting", [stats_statement(layout)])
        return read_stats(row, layout)

    def close(self) -> None:
        """See the base class."""
        self._session.close()


def _scores(rows: list[tuple[Any, ...]]) -> FloatArray:
    return np.array([row[1] for row in rows], dtype=np.float32)


def _candidates(found: list[list[tuple[Any, ...]]]) -> list[Candidates]:
    return [Candidates([unescape(row[0]) for row in rows], _scores(rows)) for rows in found]
