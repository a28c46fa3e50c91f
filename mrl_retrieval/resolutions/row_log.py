"""The ids, documents and metadata beside the vectors: JSON lines, one a row, in the rows' order.

While a folder is being written a line may also be ``{"deleted": ["id", …]}``, and an id may occur again, which replaces
the earlier row. What is finished has neither.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.documents import Metadata, Row, canonical_json
from mrl_retrieval.errors import BackendError, CorruptionError
from mrl_retrieval.storage.files import os_errors

from .block_sums import BLOCK, BlockSums

__all__ = ["LiveRows", "deletion_line", "lines", "row_line"]


def row_line(id: str, document: str | None, metadata: Metadata) -> bytes:
    """The line of a row; equal rows have equal lines."""
    return (canonical_json({"id": id, "document": document, "metadata": metadata}) + "\n").encode()


def deletion_line(ids: Sequence[str]) -> bytes:
    """The line that says that rows are gone."""
    return (canonical_json({"deleted": list(ids)}) + "\n").encode()


def lines(path: Path, sums: BlockSums) -> Iterator[Row | list[str]]:
    """Rows, and lists of deleted ids, in order; no block is read further than its checksum holds.

    The file is mapped at once: what is published and removed later is not seen.

    Raises:
        CorruptionError: the file is not there, too short, or not as it was written.
    """
    with os_errors(f"reading {path}"):
        try:
            length = min(path.stat().st_size, sums.length)
        except FileNotFoundError as error:
            raise CorruptionError(
                f"{path} is not there; restore it from a backup, or write the vectors again"
            ) from error
        # An empty file cannot be mapped.
        content = np.memmap(path, dtype=np.uint8, mode="r", shape=(length,)) if length else np.empty(0, dtype=np.uint8)
    return _lines(path, sums, content)


def _lines(path: Path, sums: BlockSums, content: npt.NDArray[np.uint8]) -> Iterator[Row | list[str]]:
    rest = b""
    for number in range(len(sums.sums)):
        block = content[number * BLOCK : min((number + 1) * BLOCK, sums.length)].tobytes()
        if not sums.fits(number, block):
            raise CorruptionError(
                f"{path} is damaged at byte {number * BLOCK:,} or after: restore it from a backup, or write it anew"
            )
        complete, newline, rest = (rest + block).rpartition(b"\n")
        for line in (complete + newline).splitlines() if newline else ():
            yield _parsed(json.loads(line))


def _parsed(value: dict[str, Any]) -> Row | list[str]:
    deleted: list[str] | None = value.get("deleted")
    return Row(value["id"], value["document"], value["metadata"]) if deleted is None else deleted


class LiveRows:
    """Which row an id has now, in a private temporary database: ten million ids need not fit in memory."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # "": a temporary file that SQLite removes itself
        self._db.execute("CREATE TABLE live (id TEXT PRIMARY KEY, row INTEGER NOT NULL, line BLOB) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def load(self, log: Iterable[Row | list[str]]) -> None:
        """What a log adds up to."""
        row = 0
        for entry in log:
            if isinstance(entry, Row):
                self.put([(entry.id, row_line(entry.id, entry.document, entry.metadata))], row)
                row += 1
            else:
                self.remove(entry)

    def put(self, rows: Sequence[tuple[str, bytes]], first: int) -> None:
        """Ids and lines of rows that are numbered from ``first`` on."""
        values = ((id, first + i, _digest(line)) for i, (id, line) in enumerate(rows))
        with _sqlite_errors():
            self._db.executemany("INSERT OR REPLACE INTO live VALUES (?, ?, ?)", values)

    def remove(self, ids: Sequence[str]) -> None:
        """Ids that are gone."""
        with _sqlite_errors():
            self._db.executemany("DELETE FROM live WHERE id = ?", ((id,) for id in ids))

    def row(self, id: str) -> int | None:
        """The row of an id; None where it has none."""
        with _sqlite_errors():
            found: tuple[int] | None = self._db.execute("SELECT row FROM live WHERE id = ?", (id,)).fetchone()
        return None if found is None else found[0]

    def holds(self, id: str, line: bytes) -> bool:
        """Whether the row of this id has this very line."""
        with _sqlite_errors():
            found = self._db.execute("SELECT 1 FROM live WHERE id = ? AND line = ?", (id, _digest(line))).fetchone()
        return found is not None

    def __len__(self) -> int:
        with _sqlite_errors():
            count: int = self._db.execute("SELECT count(*) FROM live").fetchone()[0]
        return count

    def close(self) -> None:
        """Remove the temporary database."""
        self._db.close()


@contextlib.contextmanager
def _sqlite_errors() -> Iterator[None]:
    """A full disk, as SQLite says it."""
    try:
        yield
    except sqlite3.Error as error:
        raise BackendError(
            f"keeping the ids of the rows in a temporary file failed: {error}; check the space of the folder for "
            "temporary files (TMPDIR)"
        ) from error


def _digest(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=16).digest()
