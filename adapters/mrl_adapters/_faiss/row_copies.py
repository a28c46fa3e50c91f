"""The copy of a collection's rows, for the hits of searches: when it pays, and making it in the background."""

from __future__ import annotations

import os
import time

from mrl_retrieval.kernels import available
from mrl_retrieval.storage import Snapshot, Store, save_row_copy

from .background import Background, Stopped

__all__ = ["RowCopies"]

_WORTH_ROWS = 20_000
"""Below, the database is small enough to be fast."""
_MISSING_SHARE = 4
"""The copy is made again when this part of all rows is not in it, or is in it and gone."""
_BREATH = 0.0005
"""Seconds between two pieces of the work, in which others get the interpreter."""


class RowCopies:
    """Sees to the copy of the rows of one collection. Thread-safe.

    Args:
        store: the collection.
        wanted: whether to keep a copy; None: where it pays, and takes no more room than the vectors do.
    """

    def __init__(self, store: Store, wanted: bool | None) -> None:
        self._store = store
        self._wanted = wanted
        self._failed_at = self._tried_at = -1
        self._background = Background("mrl-row-copy", self._give_up)

    def after_fork(self) -> None:
        """Start afresh in a child process."""
        self._background.after_fork()

    def stop(self) -> None:
        """Give up what is being made."""
        self._background.stop()

    def _give_up(self) -> None:
        self._failed_at = self._tried_at

    def follow(self, snapshot: Snapshot) -> None:
        """Have the copy made in the background, where that is due."""
        if self._background.is_busy or snapshot.state.generation == self._failed_at:
            return
        if self._is_due(snapshot, _MISSING_SHARE):
            self._tried_at = snapshot.state.generation
            self._background.start(f"{self._store.files.folder}: copying the rows for searches", self._make)

    def make_if_due(self) -> None:
        """Make the copy now, where one is wanted and any row is missing in it.

        Raises:
            BackendError: the disk is full, or fails.
        """
        self._background.wait()
        with self._store.snapshot() as snapshot:
            due = self._is_due(snapshot, snapshot.state.vectors + 1)
        if due:
            self._make()

    def _is_due(self, snapshot: Snapshot, share: int) -> bool:
        """Whether a copy is wanted, and one part in ``share`` of the rows is not in it, or is in it and gone."""
        state = snapshot.state
        rows = state.rows - state.bare_rows
        if self._wanted is False or not rows or not available() or snapshot.version == 1:
            return False
        if not os.access(self._store.files.folder, os.W_OK):
            return False
        copy = self._store.row_copy.of(snapshot)
        if copy is not None:
            missing = state.vectors - copy.end  # numbers, of rows that are there or not
            gone = max(copy.rows - rows, 0)
            return max(missing * share, gone * _MISSING_SHARE) > rows
        if self._wanted:
            return True
        if rows < _WORTH_ROWS:
            return False
        sizes = self._store.sizes()
        return sizes["rows"] <= sizes["fine"]

    def _make(self) -> None:
        with self._store.snapshot() as snapshot:
            save_row_copy(snapshot, self._store.files, self._pause)
        self._store.row_copy.look_again()

    def _pause(self) -> None:
        if self._background.stopping():
            raise Stopped
        time.sleep(_BREATH)
