"""Keeps the pages of mapped files that searches have read within a memory budget, where one was given.

A page that was read stays mapped, and counts as this process's memory until the system needs it for something else;
with each, Linux maps fifteen others that it has at hand. Unmapping them costs nothing but looking them up again: the
system's cache keeps them.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from mrl_retrieval.storage import Snapshot

__all__ = ["MappedPages"]

_EVERY = 32
"""Queries between two looks at how much is mapped, which take 20 µs each."""
_LEAST = 256 * 2**20
"""With fewer bytes than that there would be no end of unmapping."""
_STATUS = Path("/proc/self/status")


class MappedPages:
    """Counts the queries of one backend. Threads may count at once; a count that is lost does no harm."""

    def __init__(self) -> None:
        self._queries = 0
        self._others = _mapped_bytes()
        """Bytes of files that are mapped besides: programs, mostly."""

    def after(self, queries: int, snapshot: Snapshot, room: int) -> None:
        """Unmap the vectors and rows that searches have read, if they take more than ``room`` bytes."""
        self._queries += queries
        if self._queries < _EVERY or not hasattr(mmap, "MADV_DONTNEED"):
            return
        self._queries = 0
        mapped = _mapped_bytes()
        if mapped is None or self._others is None or mapped - self._others <= max(room, _LEAST):
            return
        for file in snapshot.mapped_files():
            file.madvise(mmap.MADV_DONTNEED)
        left = _mapped_bytes()
        if left is not None:
            self._others = left


def _mapped_bytes() -> int | None:
    """Resident bytes of mapped files; None where the system does not tell, as others than Linux."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("RssFile:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return None
