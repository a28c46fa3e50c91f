"""A snapshot without a transaction: what was read of the last commit, as long as no other was noted since.

Beginning and ending a transaction costs a search 15 µs, looking at the note of the last commit (see ``marker.py``) two.
It is written before a write is answered, so whoever was told of a commit finds it. A writer killed between commit and
note has told nobody; that commit is found by the next look into the database, a second later at most.
"""

from __future__ import annotations

import os
import time
from typing import IO, TYPE_CHECKING, NamedTuple

from .files import CollectionFiles
from .marker import note

if TYPE_CHECKING:
    from .snapshot import Snapshot

__all__ = ["Glances"]

_SECONDS = 1.0
"""So long a snapshot is given without a look into the database."""
_LONGEST_NOTE = 256


class _Kept(NamedTuple):
    snapshot: Snapshot
    note: bytes
    file: IO[bytes]
    """The note, open."""
    database: tuple[int, int]
    """Device and number of the database's file."""
    until: float


class Glances:
    """Keeps the last snapshot of a collection. Thread-safe."""

    def __init__(self, files: CollectionFiles) -> None:
        self._note, self._database = files.committed, os.fspath(files.database)
        self._kept: _Kept | None = None

    def forget(self) -> None:
        """The next one is to look into the database."""
        self._kept = None

    def keep(self, snapshot: Snapshot) -> None:
        """Give this snapshot, without its database, until another commit is noted; if all its rows are at hand."""
        if not snapshot.has_all_texts():
            self._kept = None
            return
        try:
            file = self._note.open("rb", buffering=0) if self._kept is None else self._kept.file
            expected = note(snapshot.state.collection_id, snapshot.state.generation)
            if not os.pread(file.fileno(), _LONGEST_NOTE, 0).startswith(expected):
                self._kept = None
                return
            found = os.stat(self._database)  # noqa: PTH116 - as often as a search, and Path.stat costs more
        except OSError:
            self._kept = None
            return
        until = time.monotonic() + _SECONDS
        self._kept = _Kept(snapshot.without_database(), expected, file, (found.st_dev, found.st_ino), until)

    def take(self) -> Snapshot | None:
        """The last snapshot, if it still is the last; None: begin a transaction.

        Raises:
            CorruptionError: a segment was cut off.
        """
        kept = self._kept
        if kept is None or time.monotonic() > kept.until:
            return None
        try:
            if not os.pread(kept.file.fileno(), _LONGEST_NOTE, 0).startswith(kept.note):
                return None
            found = os.stat(self._database)  # noqa: PTH116 - see above
        except OSError:
            return None
        if (found.st_dev, found.st_ino) != kept.database:
            return None
        kept.snapshot.fine.check_sizes()
        return kept.snapshot
