"""The vector searches of one version of a table: by its index, over every row, or over the few rows that match.

Each query costs LanceDB 2 to 5 ms before it has looked at a vector, so each answer brings along whatever a later stage
of the search needs. Lets LanceDB's errors through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.filters import Filter
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.scoring import rank
from mrl_retrieval.two_stage import Candidates

from .filters import answered_by_indexes
from .package import pa
from .reading import ROWS_PER_BATCH, everything, split, stream
from .rows import matrix
from .upkeep import vector_index

__all__ = ["Effort", "Found", "exactly", "nearest"]

_VECTORS = "has_vector"
# From so many queries on, reading all vectors once is faster than as many searches without an index.
_QUERIES_AT_ONCE = 4
# Reading so many full vectors more than there are candidates takes about as long as a search by the index.
_FEW = 128
# Beyond so many full vectors each query's come not with it, so that those of several queries are read, and held, once.
_FULL_AT_ONCE = 16_384

Numbers = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard a search by an index tries."""

    nprobes: int
    refine_factor: int


@dataclass(frozen=True, slots=True)
class Found:
    """The best rows for one query, best first, all four parallel."""

    ids: list[str]
    scores: FloatArray
    numbers: Numbers
    """Row numbers in this version of the table."""
    full: tuple[FloatArray, npt.NDArray[np.intp]] | None = None
    """Where their full vectors are, if those came along: in the rows of a matrix, ``(n, fine_dims)``."""

    @property
    def candidates(self) -> Candidates:
        """As the core knows them."""
        return Candidates(self.ids, self.scores)


def nearest(
    table: Any, queries: FloatArray, limit: int, filter: Filter | None, effort: Effort, *, full: bool
) -> list[Found]:
    """The best ``limit`` prefixes for each query; with ``full`` the full vectors too, where that costs little."""
    where, among = split(filter)
    limit = min(limit, int(table.count_rows()))
    if limit == 0:
        return [_nothing() for _ in queries]
    if among is not None:
        return _score_all(table, queries, limit, filter, "coarse")
    full = full and limit * len(queries) <= _FULL_AT_ONCE
    if where is not None and answered_by_indexes(where):
        matching = int(table.count_rows(where))
        if matching == 0:
            return [_nothing() for _ in queries]
        if matching <= limit + min(_FEW * len(queries), ROWS_PER_BATCH):
            return _among_few(table, queries, limit, where, "full" if full else "coarse")
    if len(queries) >= _QUERIES_AT_ONCE and vector_index(table) is None:
        return _score_all(table, queries, limit, filter, "coarse")
    found = [_ask(table, query, "coarse", limit, where, full, effort) for query in queries]
    shortest = min(answer.num_rows for answer in found)
    if shortest < limit and vector_index(table) is not None:
        there = int(table.count_rows(_VECTORS if where is None else f"{_VECTORS} AND {where}"))
        if shortest < min(limit, there):
            found = [_ask(table, query, "coarse", limit, where, full, None) for query in queries]
    return [_found(answer, limit, full) for answer in found]


def exactly(table: Any, queries: FloatArray, limit: int, filter: Filter | None) -> list[Found]:
    """The true best ``limit`` full vectors for each query."""
    where, among = split(filter)
    # Of a narrower type, rows have not quite unit length, and LanceDB would round the query to that type too.
    wide = table.schema.field("full").type.value_type == pa.float32()
    if among is not None or not wide or len(queries) >= _QUERIES_AT_ONCE:
        return _score_all(table, queries, limit, filter, "full")
    limit = max(1, min(limit, int(table.count_rows())))
    return [_found(_ask(table, query, "full", limit, where, False, None), limit, False) for query in queries]


def _ask(
    table: Any, query: FloatArray, column: str, limit: int, where: str | None, full: bool, effort: Effort | None
) -> Any:
    """One search of LanceDB's, by the index (where there is one) with an ``effort``, else over every row."""
    asked = table.search(query, vector_column_name=column).distance_type("dot").limit(limit)
    asked = asked.select(["id", "_rowid", "_distance", *(["full"] if full else [])])
    if where is not None:
        asked = asked.where(where, prefilter=True)
    if effort is None:
        return everything(asked.bypass_vector_index())
    # 0 is no upper limit: it goes on until it has found enough.
    asked = asked.minimum_nprobes(effort.nprobes).maximum_nprobes(0)
    # Refined, distances are those of the stored prefixes; unquantized, they are that anyway.
    return everything(asked.refine_factor(effort.refine_factor) if effort.refine_factor else asked)


def _found(answer: Any, limit: int, full: bool) -> Found:
    scores = np.float32(1) - answer["_distance"].to_numpy().astype(np.float32)
    vectors = matrix(answer["full"], answer.schema.field("full").type.list_size) if full else None
    return _best(scores, answer["id"].to_pylist(), answer["_rowid"].to_numpy(), limit, vectors)


def _best(
    scores: FloatArray, ids: Sequence[str], numbers: Numbers, limit: int, vectors: FloatArray | None = None
) -> Found:
    best = rank(scores, ids, limit)
    full = None if vectors is None else (vectors, best)
    return Found([ids[i] for i in best], np.asarray(scores[best], dtype=np.float32), numbers[best], full)


def _nothing() -> Found:
    return Found([], np.empty(0, dtype=np.float32), np.empty(0, dtype=np.uint64))


# -- scored here -------------------------------------------------------------------------------------------


def _among_few(table: Any, queries: FloatArray, limit: int, where: str, column: str) -> list[Found]:
    """The same where few rows match: their vectors are read once, and scored here."""
    rows = everything(table.search().select(["id", "_rowid", column]).where(where).limit(None))
    rows = rows.filter(rows[column].is_valid())
    ids, numbers = rows["id"].to_pylist(), rows["_rowid"].to_numpy()
    vectors = matrix(rows[column], rows.schema.field(column).type.list_size)
    scores = _cosines(queries, vectors[:, : queries.shape[1]])
    return [_best(scored, ids, numbers, limit, vectors if column == "full" else None) for scored in scores]


def _score_all(table: Any, queries: FloatArray, limit: int, filter: Filter | None, column: str) -> list[Found]:
    """The true best ``limit`` for each query: all vectors of ``column`` that match are read, and scored here."""
    best = [_Best(limit) for _ in queries]
    for batch in stream(table, filter, [column, "_rowid"]):
        there = batch.filter(batch[column].is_valid()) if batch[column].null_count else batch
        rows, numbers = matrix(there[column], queries.shape[1]), there["_rowid"].to_numpy()
        for one, scores in zip(best, _cosines(queries, rows), strict=True):
            kept = np.arange(len(scores)) if len(scores) <= limit else np.argpartition(-scores, limit - 1)[:limit]
            one.add(scores[kept], there["id"].take(pa.array(kept)), numbers[kept])
    return [one.found() for one in best]


def _cosines(queries: FloatArray, rows: FloatArray) -> FloatArray:
    """``(Q, n)``. A zero vector, on either side, scores 0; a stored float16 row has not quite unit length."""
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    dots = queries @ rows.T
    scores: FloatArray = np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0)
    return scores


class _Best:
    """The best so far of one query, put in order only now and then."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._scores: list[FloatArray] = []
        self._ids: list[Any] = []
        self._numbers: list[Numbers] = []
        self._held = 0

    def add(self, scores: FloatArray, ids: Any, numbers: Numbers) -> None:
        self._scores.append(scores)
        self._ids.append(ids)
        self._numbers.append(numbers)
        self._held += len(scores)
        if self._held > 4 * self._limit + ROWS_PER_BATCH:
            best = self.found()
            self._scores, self._ids, self._numbers = [best.scores], [pa.array(best.ids, pa.string())], [best.numbers]
            self._held = len(best.ids)

    def found(self) -> Found:
        if not self._held:
            return _nothing()
        ids = pa.concat_arrays(self._ids).to_pylist()
        return _best(np.concatenate(self._scores), ids, np.concatenate(self._numbers), self._limit)
