"""One version of a collection, and every way of reading it.

LanceDB keeps whole versions, and a handle that is not told to look for newer ones stays with the one it was opened at.
So one handle for all steps of a call makes the call consistent: what one step found is there for the next, whatever
others write meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.backend import BackendStats
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.filters import Filter, IdIn, check_order, matches
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.two_stage import (
    Candidates,
    CoarseSearch,
    ExactSearch,
    FetchRows,
    FetchVectors,
    Ranking,
    Request,
    ResolveFilter,
    SearchRequest,
    drive,
    exact,
    two_stage,
)

from . import filters, reading, rows
from .search import Effort, Found, exactly, nearest
from .upkeep import vector_index

__all__ = ["Snapshot"]


class Snapshot:
    """Of a table of rows, by a handle that stays with its version. Lets LanceDB's errors through."""

    def __init__(self, table: Any, fine_dims: int, effort: Effort) -> None:
        self._table = table
        self.fine_dims = fine_dims
        self._effort = effort

    # -- rows ----------------------------------------------------------------------------------------------

    def get(self, ids: Sequence[str], *, vectors: bool) -> list[Row | None]:
        """Rows in the asked order, None where unknown."""
        found: dict[str, Row] = {}
        wanted = rows.columns(vectors=vectors, documents=True)
        for part in reading.by_ids(self._table, list(dict.fromkeys(ids)), wanted):
            found.update((row.id, row) for row in rows.to_batch(part, self.fine_dims).rows())
        return [found.get(id) for id in ids]

    def fetch_vectors(self, ids: Sequence[str]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Full vectors in the asked order, and which were there."""
        at = {id: i for i, id in enumerate(dict.fromkeys(ids))}
        out = np.zeros((len(at), self.fine_dims), dtype=np.float32)
        found = np.zeros(len(at), dtype=np.bool_)
        for part in reading.by_ids(self._table, list(at), ["id", "full"]):
            positions = [at[id] for id in part["id"].to_pylist()]
            out[positions] = rows.matrix(part["full"], self.fine_dims)
            found[positions] = part["full"].is_valid().to_numpy()
        asked = np.fromiter((at[id] for id in ids), dtype=np.intp, count=len(ids))
        return out[asked], found[asked]

    def count(self, filter: Filter | None) -> int:
        """How many rows match a filter that :meth:`resolve` gave."""
        return reading.count(self._table, filter)

    def scan(self, filter: Filter | None, *, vectors: bool, documents: bool, batch_size: int) -> Iterator[RowBatch]:
        """Every row that matches a filter that :meth:`resolve` gave."""
        wanted = rows.columns(vectors=vectors, documents=documents)
        for part in reading.stream(self._table, filter, wanted, batch_size=batch_size):
            yield rows.to_batch(part, self.fine_dims)

    # -- filters -------------------------------------------------------------------------------------------

    def resolve(self, filter: Filter | None) -> Filter | None:
        """The filter itself where LanceDB can say it, else the ids that match.

        Raises:
            FilterError: an order operator meets a stored value of another type, in whichever row.
        """
        if filter is None:
            return None
        if not filters.can_push_down(filter):
            return IdIn(frozenset(self._matching(filter)))
        offenders = filters.order_offenders(filter)
        if offenders is not None and self._table.count_rows(offenders):
            found = self._table.search().where(offenders).select(["id", "metadata", "has_vector"]).limit(1)
            for row in rows.to_batch(reading.everything(found), 0).rows():
                check_order(filter, row.id, row.metadata)
        return filter

    def _matching(self, filter: Filter) -> Iterator[str]:
        for batch in self.scan(None, vectors=False, documents=False, batch_size=reading.ROWS_PER_BATCH):
            for id, metadata in zip(batch.ids, batch.metadatas, strict=True):
                if matches(filter, id, metadata):
                    yield id

    # -- search --------------------------------------------------------------------------------------------

    def search(self, request: SearchRequest) -> list[Ranking]:
        """Both stages and the rows of the hits."""
        return drive(exact(request) if request.exact else two_stage(request), _Steps(self).perform)

    def nearest(self, vectors: FloatArray, limit: int, filter: Filter | None, *, full: bool) -> list[Found]:
        """The best prefixes, with ``full`` and their full vectors where those come at little cost."""
        return nearest(self._table, vectors, limit, filter, self._effort, full=full)

    def exactly(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Found]:
        """The best full vectors."""
        return exactly(self._table, vectors, limit, filter)

    def vectors_at(self, numbers: dict[str, int]) -> FloatArray:
        """The full vectors of these ids, whose row numbers are known: ``(n, fine_dims)``, in this order."""
        at = {number: i for i, number in enumerate(numbers.values())}
        part = reading.by_numbers(self._table, list(at), ["_rowid", "full"])
        out = np.empty((len(at), self.fine_dims), dtype=np.float32)
        out[[at[number] for number in part["_rowid"].to_pylist()]] = rows.matrix(part["full"], self.fine_dims)
        return out

    def rows_at(self, numbers: dict[str, int]) -> list[Row]:
        """The rows of these ids, whose row numbers are known, in no order and without vectors."""
        ids = {number: id for id, number in numbers.items()}
        part = reading.by_numbers(self._table, list(ids), ["_rowid", "document", "metadata"])
        return rows.to_rows([ids[number] for number in part["_rowid"].to_pylist()], part)

    def stats(self) -> BackendStats:
        """Counts and sizes."""
        index, parts = vector_index(self._table), self._table.stats()
        kind = "flat" if index is None else str(self._table.index_stats(index[0]).index_type).lower()
        return BackendStats(
            rows=int(self._table.count_rows()),
            vectors=int(self._table.count_rows("has_vector")),
            bytes={"coarse": None, "fine": None, "rows": None},
            details={
                "index": kind,
                "table_bytes": int(parts["total_bytes"]),
                "files": int(parts["fragment_stats"]["num_fragments"]),
                "version": int(self._table.version),
            },
        )


class _Steps:
    """The steps of one search, each with what those before it found."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._numbers: dict[str, int] = {}
        self._full: dict[str, tuple[FloatArray, int]] = {}

    def perform(self, step: Request) -> Any:
        """Answer a step as the core expects it."""
        match step:
            case ResolveFilter(filter):
                return self._snapshot.resolve(filter)
            case CoarseSearch(vectors, limit, filter):
                return self._kept(self._snapshot.nearest(vectors, limit, filter, full=True))
            case ExactSearch(vectors, limit, filter):
                return self._kept(self._snapshot.exactly(vectors, limit, filter))
            case FetchVectors(ids):
                return self._vectors(ids), np.ones(len(ids), dtype=np.bool_)
            case FetchRows(ids):
                return self._snapshot.rows_at({id: self._numbers[id] for id in ids}) if ids else []

    def _kept(self, found: list[Found]) -> list[Candidates]:
        for each in found:
            self._numbers.update(zip(each.ids, each.numbers.tolist(), strict=True))
            if each.full is not None:
                matrix, positions = each.full
                self._full.update((id, (matrix, i)) for id, i in zip(each.ids, positions.tolist(), strict=True))
        return [each.candidates for each in found]

    def _vectors(self, ids: Sequence[str]) -> FloatArray:
        if all(id in self._full for id in ids):
            parts = (self._full[id] for id in ids)
            vectors = np.array([matrix[i] for matrix, i in parts], dtype=np.float32)
            return vectors.reshape(len(ids), self._snapshot.fine_dims)
        return self._snapshot.vectors_at({id: self._numbers[id] for id in ids})
