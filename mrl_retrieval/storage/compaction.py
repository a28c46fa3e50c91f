"""Taking back the room of what was deleted and overwritten, a few rows at a time.

Vectors form a log: new ones go to its end, and compaction moves those that are left at its beginning to the end too,
until everything before a new segment is gone and the old files can be deleted. Each step is an ordinary transaction
that moves a bounded number of rows, so writers wait no longer than for one of them, readers do not wait at all, and a
crash leaves the collection between two steps.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .rows import check_head, move
from .segments import FineView
from .state import State
from .transaction import Transaction

__all__ = ["CompactionReport", "begin", "is_due", "step"]

_VECTOR_HEADS = (
    "SELECT row, id, metadata, vector_sum, document_crc32, crc32 FROM row WHERE row >= ? AND row < ? "
    "ORDER BY row LIMIT ?"
)
_BARE_HEADS = (
    "SELECT row, id, metadata, vector_sum, document_crc32, crc32 FROM row WHERE row >= ? AND row < ? "
    "ORDER BY row DESC LIMIT ?"
)
_STALE = "SELECT generation, row FROM tombstone WHERE (row >= 0 AND row < ?) OR (row < 0 AND row >= ?) LIMIT ?"


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """What :meth:`Store.compact` did."""

    moved: int
    """Rows that were given another place."""
    bytes_before: int
    """Of segments and database together."""
    bytes_after: int

    @property
    def reclaimed(self) -> int:
        """Bytes that are free now; readers that are still at it may hold them a little longer."""
        return max(0, self.bytes_before - self.bytes_after)


def is_due(state: State, row_bytes: int, share: float, least_bytes: int) -> bool:
    """Whether a compaction is under way, or so many vectors are dead that one should begin.

    Args:
        state: the counters.
        row_bytes: of a vector.
        share: of the stored vectors, from 0 to 1; 1 is never reached.
        least_bytes: below it nothing is begun.
    """
    if state.first < state.clean_to:
        return True
    stored = state.vectors - state.first
    return state.dead * row_bytes >= least_bytes and state.dead > share * stored


def begin(transaction: Transaction) -> None:
    """Fix where the compaction ends, and begin a new segment there."""
    transaction.begin_segment()
    transaction.state = replace(transaction.state, clean_to=transaction.state.vectors)


def step(transaction: Transaction, fine: FineView, limit: int) -> int:
    """Move up to ``limit`` rows from the beginning of the log to its end. Returns how many.

    Raises:
        CorruptionError: a row or its vector is not as it was written; nothing is moved.
    """
    connection, state = transaction.connection, transaction.state
    heads = _heads(connection, _VECTOR_HEADS, state.first, state.clean_to, limit)
    if heads:
        old = np.array([head[0] for head in heads], dtype=np.int64)
        records = fine.records(old)
        assert fine.sums is not None
        first = transaction.append(records, fine.sums[old - fine.first])
        new = range(first, first + len(heads))
        move(connection, transaction.paths, heads, new)
        transaction.state = replace(transaction.state, numbers=transaction.state.numbers + sum(new) - int(old.sum()))
    transaction.forget_before(heads[-1][0] + 1 if len(heads) == limit else state.clean_to)
    _forget_tombstones(transaction, 4 * limit)
    return len(heads)


def step_bare(transaction: Transaction, end: int, limit: int) -> int:
    """The same for rows without a vector, down to the number ``-end``. Returns how many were moved."""
    connection, state = transaction.connection, transaction.state
    heads = _heads(connection, _BARE_HEADS, -end, -state.first_bare, limit)
    new = [-state.bare - 1 - i for i in range(len(heads))]
    move(connection, transaction.paths, heads, new)
    transaction.state = replace(
        state,
        bare=state.bare + len(heads),
        first_bare=-heads[-1][0] if len(heads) == limit else end,
        numbers=state.numbers + sum(new) - sum(head[0] for head in heads),
    )
    _forget_tombstones(transaction, 4 * limit)
    return len(heads)


def clear_tombstones(transaction: Transaction) -> None:
    """Delete those of row numbers that are no longer in use."""
    while _forget_tombstones(transaction, 10_000):
        pass


def _heads(
    connection: sqlite3.Connection, statement: str, start: int, stop: int, limit: int
) -> Sequence[tuple[Any, ...]]:
    heads = connection.execute(statement, (start, stop, limit)).fetchall()
    for head in heads:
        check_head(head)
    return heads


def _forget_tombstones(transaction: Transaction, limit: int) -> int:
    state = transaction.state
    found = transaction.connection.execute(_STALE, (state.first, -state.first_bare, limit)).fetchall()
    transaction.connection.executemany("DELETE FROM tombstone WHERE generation = ? AND row = ?", found)
    return len(found)
