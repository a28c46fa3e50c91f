"""One write transaction: the counters, lists and tables of a collection, changed together or not at all."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

from .checks import Sums
from .records import Records, Span
from .rows import PathTable
from .segments import Segments
from .state import State, add_batch, drop_batches, spans_to_keep

__all__ = ["Transaction"]


class Transaction:
    """What the holder of the writer lock does between ``BEGIN`` and ``COMMIT``."""

    def __init__(self, connection: sqlite3.Connection, state: State, segments: Segments, spans: list[Span]) -> None:
        self.connection = connection
        self.before = state
        self.state = replace(state, generation=state.generation + 1)
        """As it will be; change it by assigning another one."""
        self.segments = segments
        self.spans = spans
        self.paths = PathTable(connection)
        self._last = spans[-1] if spans else None
        self.files_before: int | None = None
        """Segments below this number hold nothing any more, once the transaction is committed."""

    def append(self, records: Records, sums: Sums) -> int:
        """Write vectors, as they are stored, durably behind the last one. Returns the number of the first."""
        first = self.state.vectors
        self._list(self.segments.append(self._last, first, records))
        add_batch(self.connection, self.state.collection_id, first, sums)
        self.state = replace(self.state, vectors=first + len(records))
        return first

    def begin_segment(self) -> None:
        """Let the next vectors go to a new file."""
        self._list([self.segments.begin(self._last, self.state.vectors)])

    def number_segments_after(self, number: int) -> None:
        """Let the next vectors go to a new file with a higher number; for a collection that lists none yet."""
        room = self.segments.layout.rows_per_segment
        self._last = Span(number, self.state.vectors - room)  # full

    def forget_before(self, first: int) -> None:
        """No vector below ``first`` is there any more: advance to it, and drop the segments that are free by that."""
        self.state = replace(self.state, first=first)
        drop_batches(self.connection, first)
        kept = spans_to_keep(self.spans, first)
        if kept and kept[0] != self.spans[0]:
            self.files_before = kept[0].number
            self.connection.execute("DELETE FROM segment WHERE number < ?", (kept[0].number,))
            self.spans = kept

    def finish(self) -> None:
        """Store what was collected; the caller commits."""
        self.paths.store()
        self.state = replace(self.state, paths=self.state.paths + self.paths.added)
        self.state.write(self.connection)

    def _list(self, begun: list[Span]) -> None:
        self.connection.executemany("INSERT INTO segment VALUES (?, ?)", begun)
        self.spans += begun
        self._last = self.spans[-1] if self.spans else self._last
