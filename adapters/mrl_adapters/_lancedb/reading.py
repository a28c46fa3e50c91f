"""Reading the table of a collection: by condition, by ids, by row numbers. Lets LanceDB's errors through.

LanceDB's row numbers (``_rowid``) hold for one version of a table, so they are good for what is asked of one handle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mrl_retrieval.filters import Filter, IdIn

from .filters import IDS_IN_SQL, compile_where, keys_in
from .package import pa, pc

__all__ = ["ROWS_PER_BATCH", "by_ids", "by_numbers", "count", "everything", "split", "stream"]

_IDS_PER_QUERY = 5000
ROWS_PER_BATCH = 8192


def everything(query: Any) -> Any:
    """The whole answer to a query as one table, with fewer calls than its ``to_arrow``, which looks for blobs first."""
    return query.to_batches().read_all()


def split(filter: Filter | None) -> tuple[str | None, Any | None]:
    """The SQL of a filter, or, for a long list of ids, what to join with."""
    if isinstance(filter, IdIn) and len(filter.ids) > IDS_IN_SQL:
        return None, pa.array(filter.ids, type=pa.string())
    return (None if filter is None else compile_where(filter)), None


def stream(table: Any, filter: Filter | None, names: list[str], *, batch_size: int = ROWS_PER_BATCH) -> Iterator[Any]:
    """Every row that matches, as record batches of ``id`` and the columns ``names``, of ``batch_size`` rows at most."""
    where, among = split(filter)
    query = table.search().select(list(dict.fromkeys([*names, "id"])))
    if where is not None:
        query = query.where(where)
    for batch in query.limit(None).to_batches(batch_size):
        kept = batch if among is None else batch.filter(pc.is_in(batch["id"], value_set=among))
        for i in range(0, kept.num_rows, batch_size):
            yield kept.slice(i, batch_size)


def count(table: Any, filter: Filter | None) -> int:
    """How many rows match."""
    where, among = split(filter)
    if among is None:
        return int(table.count_rows(where))
    return sum(batch.num_rows for batch in stream(table, filter, ["id"]))


def by_ids(table: Any, ids: Sequence[str], names: list[str]) -> Iterator[Any]:
    """The rows of these ids, as tables of the columns ``names``, in no order."""
    for i in range(0, len(ids), _IDS_PER_QUERY):
        part = ids[i : i + _IDS_PER_QUERY]
        yield everything(table.search().where(keys_in(part)).select(names).limit(len(part)))


def by_numbers(table: Any, numbers: Sequence[int], names: list[str]) -> Any:
    """The rows of these row numbers, as one table of the columns ``names``, in no order; faster than by ids."""
    return table.take_row_ids(list(numbers)).select(names).to_arrow()
