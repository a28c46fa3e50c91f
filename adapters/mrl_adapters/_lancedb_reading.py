"""Reading the table of a collection: by condition, by ids, by likeness. Lets LanceDB's errors through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrl_retrieval.filters import Filter, IdIn
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.scoring import top_k
from mrl_retrieval.two_stage import Candidates

from ._lancedb_filters import IDS_IN_SQL, compile_where, keys_in
from ._lancedb_package import pa, pc
from ._lancedb_rows import matrix
from ._lancedb_upkeep import vector_index

__all__ = ["Effort", "by_ids", "count", "exactly", "nearest", "score_all", "stream"]

_IDS_PER_QUERY = 5000
_ROWS_PER_BATCH = 8192
_VECTORS = "has_vector"
# From so many queries on, reading all vectors once is faster than as many searches without an index.
_QUERIES_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard a search by an index tries."""

    nprobes: int
    refine_factor: int


def stream(
    table: Any, filter: Filter | None, names: list[str], *, vectors: bool = False, batch_size: int = _ROWS_PER_BATCH
) -> Iterator[Any]:
    """Every row that matches, as record batches of the columns ``names``, from one version of the table.

    Args:
        vectors: only rows that have a vector.
        batch_size: the most rows in a batch.
    """
    where, among = _split(filter)
    conditions = [part for part in (where, _VECTORS if vectors else None) if part]
    query = table.search().select(list(dict.fromkeys([*names, "id"])))
    if conditions:
        query = query.where(" AND ".join(conditions))
    for batch in query.limit(None).to_batches(batch_size):
        kept = batch if among is None else batch.filter(pc.is_in(batch["id"], value_set=among))
        for i in range(0, kept.num_rows, batch_size):
            yield kept.slice(i, batch_size)


def _split(filter: Filter | None) -> tuple[str | None, Any | None]:
    """The SQL of a filter, or, for a long list of ids, what to join with."""
    if isinstance(filter, IdIn) and len(filter.ids) > IDS_IN_SQL:
        return None, pa.array(filter.ids, type=pa.string())
    return (None if filter is None else compile_where(filter)), None


def count(table: Any, filter: Filter | None) -> int:
    """How many rows match."""
    where, among = _split(filter)
    if among is None:
        return int(table.count_rows(where))
    return sum(batch.num_rows for batch in stream(table, filter, ["id"]))


def by_ids(table: Any, ids: Sequence[str], names: list[str]) -> Iterator[Any]:
    """The rows of these ids, as tables of the columns ``names``, in no order."""
    for i in range(0, len(ids), _IDS_PER_QUERY):
        part = ids[i : i + _IDS_PER_QUERY]
        yield table.search().where(keys_in(part)).select(names).limit(len(part)).to_arrow()


def nearest(
    table: Any, queries: FloatArray, limit: int, filter: Filter | None, effort: Effort, *, full: bool
) -> list[tuple[Candidates, Any]]:
    """The best ``limit`` prefixes for each query, and with ``full`` the ids and full vectors of what was found."""
    where, among = _split(filter)
    limit = min(limit, int(table.count_rows()))
    if limit == 0:
        return [(Candidates([], np.empty(0, dtype=np.float32)), None) for _ in queries]
    indexed = among is None and vector_index(table) is not None
    if among is not None or (not indexed and len(queries) >= _QUERIES_AT_ONCE):
        return [(found, None) for found in score_all(table, queries, limit, filter, "coarse")]
    extra = ["full"] if full else []
    found = [_ask(table, query, "coarse", limit, where, extra, effort if indexed else None) for query in queries]
    shortest = min(answer.num_rows for answer in found)
    if indexed and shortest < limit:
        there = int(table.count_rows(_VECTORS if where is None else f"{_VECTORS} AND {where}"))
        if shortest < min(limit, there):
            found = [_ask(table, query, "coarse", limit, where, extra, None) for query in queries]
    return [(_candidates(answer, limit), answer) for answer in found]


def exactly(table: Any, queries: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
    """The true best ``limit`` full vectors for each query."""
    where, among = _split(filter)
    # Of a narrower type, rows have not quite unit length, and LanceDB would round the query to that type too.
    wide = table.schema.field("full").type.value_type == pa.float32()
    if among is not None or not wide or len(queries) >= _QUERIES_AT_ONCE:
        return score_all(table, queries, limit, filter, "full")
    limit = max(1, min(limit, int(table.count_rows())))
    return [_candidates(_ask(table, query, "full", limit, where, [], None), limit) for query in queries]


def _ask(
    table: Any, query: FloatArray, column: str, limit: int, where: str | None, extra: list[str], effort: Effort | None
) -> Any:
    """One search of LanceDB's, by the index with an ``effort``, else over every row."""
    asked = table.search(query, vector_column_name=column).distance_type("dot").limit(limit)
    asked = asked.select(["id", "_distance", *extra])
    if where is not None:
        asked = asked.where(where, prefilter=True)
    if effort is None:
        return asked.bypass_vector_index().to_arrow()
    # 0 is no upper limit: it goes on until it has found enough.
    asked = asked.minimum_nprobes(effort.nprobes).maximum_nprobes(0)
    # Refined, distances are those of the stored prefixes; unquantized, they are that anyway.
    return (asked.refine_factor(effort.refine_factor) if effort.refine_factor else asked).to_arrow()


def _candidates(found: Any, limit: int) -> Candidates:
    scores = np.float32(1) - found["_distance"].to_numpy().astype(np.float32)
    return Candidates(*top_k(scores, found["id"].to_pylist(), limit))


def score_all(table: Any, queries: FloatArray, limit: int, filter: Filter | None, column: str) -> list[Candidates]:
    """The true best ``limit`` for each query: all vectors of ``column`` that match are read, and scored here."""
    best = [_Best(limit) for _ in queries]
    for batch in stream(table, filter, [column], vectors=True):
        rows = matrix(batch[column], queries.shape[1])
        for one, scores in zip(best, _cosines(queries, rows), strict=True):
            kept = np.arange(len(scores)) if len(scores) <= limit else np.argpartition(-scores, limit - 1)[:limit]
            one.add(scores[kept], batch["id"].take(pa.array(kept)))
    return [one.candidates() for one in best]


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
        self._held = 0

    def add(self, scores: FloatArray, ids: Any) -> None:
        self._scores.append(scores)
        self._ids.append(ids)
        self._held += len(scores)
        if self._held > 4 * self._limit + _ROWS_PER_BATCH:
            best = self.candidates()
            self._scores, self._ids, self._held = [best.scores], [pa.array(best.ids, type=pa.string())], len(best.ids)

    def candidates(self) -> Candidates:
        if not self._held:
            return Candidates([], np.empty(0, dtype=np.float32))
        scores, ids = np.concatenate(self._scores), pa.concat_arrays(self._ids).to_pylist()
        return Candidates(*top_k(scores, ids, self._limit))
