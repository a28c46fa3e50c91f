"""A snapshot without a transaction: what was read of the last commit, as long as no other was noted since.

Beginning and ending a transaction costs a search 15 µs, looking at the note of the last commit (``marker.py``) two. It
is written before a write is answered, so whoever was told of a commit finds it. A writer killed between commit and note
has told nobody; that commit is found by the next look into the database, a second later at most. So it is noticed when
somebody takes the files away by hand; dropping a collection empties the note.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .files import CollectionFiles
from .marker import note

if TYPE_CHECKING:
    from .snapshot import Snapshot

__all__ = ["Glances"]

_SECONDS = 1.0
"""So long a snapshot is given without a look into the database."""
_LONGEST_NOTE = 256


class _OpenNote:
    """A descriptor, closed when nobody has it any more: not earlier, since another thread may be reading."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def begins_with(self, expected: bytes) -> bool:
        return os.pread(self.fd, _LONGEST_NOTE, 0).startswith(expected)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


class _Kept(NamedTuple):
    snapshot: Snapshot
    note: bytes
    file: _OpenNote
    until: float


class Glances:
    """Keeps the last snapshot of a collection. Thread-safe."""

    def __init__(self, files: CollectionFiles) -> None:
        self._note = files.committed
        self._kept: _Kept | None = None

    def forget(self) -> None:
        """The next one is to look into the database."""
        self._kept = None

    def keep(self, snapshot: Snapshot) -> None:
        """Give this snapshot, without its database, until another commit is noted; if all its rows are at hand."""
        if not snapshot.has_all_texts():
            self._kept = None
            return
        expected = note(snapshot.state.collection_id, snapshot.state.generation)
        try:
            file = _OpenNote(self._note)
            is_last = file.begins_with(expected)
        except OSError:
            self._kept = None
            return
        until = time.monotonic() + _SECONDS
        self._kept = _Kept(snapshot.without_database(), expected, file, until) if is_last else None

    def take(self) -> Snapshot | None:
        """The last snapshot, if it still is the last; None: begin a transaction.

        Raises:
            CorruptionError: a segment was cut off.
        """
        kept = self._kept
        if kept is None or time.monotonic() > kept.until:
            return None
        try:
            if not kept.file.begins_with(kept.note):
                return None
        except OSError:
            return None
        kept.snapshot.fine.check_sizes()
        return kept.snapshot
