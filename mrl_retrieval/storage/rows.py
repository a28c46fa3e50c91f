"""Writing rows: into their table and the filter index, each with its checksum, and out of both again."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from mrl_retrieval.documents import Metadata
from mrl_retrieval.errors import CorruptionError

from .checks import entry_digest, entry_hash, row_crc
from .database import RESTORE
from .fields import Scalar, entries
from .query import CHUNK, in_chunks
from .state import path_crc

__all__ = ["NewRow", "PathTable", "insert", "move", "remove"]

_PLACES = ",".join("?" * CHUNK)
_STORED = (
    "SELECT row, id, metadata, vector_sum, document_crc32, crc32 FROM row "  # noqa: S608 - nothing but question marks
    f"WHERE id IN ({_PLACES})"
)
_INSERT = "INSERT INTO row VALUES (?, ?, ?, ?, ?, ?, ?)"


Head = tuple[int, str, str, int | None, int | None, int]
"""Number, id, metadata (JSON), checksum of the vector, CRC-32 of the document, CRC-32 of all these."""


class NewRow(NamedTuple):
    """A row to be written."""

    row: int
    id: str
    metadata: str
    """JSON."""
    vector_sum: int | None
    """Signed; None without a vector."""
    document_crc: int | None
    document: str | None


class PathTable:
    """The metadata paths: their numbers, and the checksums of their entries, changed here and stored at the end."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        found = connection.execute("SELECT name, path, digest FROM path").fetchall()
        self._numbers = {name: path for name, path, _ in found}
        self._digests = {path: digest for _, path, digest in found}
        self._changed: set[int] = set()
        self.added = 0
        """What the new paths add to ``state.paths``."""

    def number(self, name: str) -> int:
        """The number of a path, a new one if it has none."""
        path = self._numbers.get(name)
        if path is None:
            path = self._numbers[name] = max(self._digests, default=0) + 1
            self._digests[path] = 0
            self._connection.execute("INSERT INTO path VALUES (?, ?, 0)", (path, name))
            self.added += path_crc(path, name)
        return path

    def count(self, path: int, hashed: int, count: int, rows: int) -> None:
        """Add entries (or take them away) to a path's checksum; see :func:`entry_digest`."""
        self._digests[path] = entry_digest(self._digests[path], hashed, count, rows)
        self._changed.add(path)

    def store(self) -> None:
        """Write the checksums that changed."""
        self._connection.executemany(
            "UPDATE path SET digest = ? WHERE path = ?", ((self._digests[path], path) for path in self._changed)
        )
        self._changed.clear()


def insert(
    connection: sqlite3.Connection, paths: PathTable, rows: Sequence[NewRow], metadatas: Iterable[Metadata]
) -> None:
    """Write rows whose ids and numbers are not there. ``metadatas`` are theirs, decoded."""
    connection.executemany(
        _INSERT,
        (
            (r.row, r.id, r.metadata, row_crc(r.row, r.id, r.metadata, r.vector_sum, r.document_crc), *r[3:])
            for r in rows
        ),
    )
    index(connection, paths, ((r.row, metadata) for r, metadata in zip(rows, metadatas, strict=True)))


def index(connection: sqlite3.Connection, paths: PathTable, rows: Iterable[tuple[int, Metadata]]) -> None:
    """Add the filter entries of rows, given as number and metadata."""
    found = [(paths.number(name), kind, value, row) for row, name, kind, value in _entries(rows)]
    for path, kind, value, row in found:
        paths.count(path, entry_hash(kind, value), 1, row)
    # In the order of the key, so that each page of the index is visited once; values of one kind have an order.
    connection.executemany("INSERT INTO field VALUES (?, ?, ?, ?)", sorted(found))


def remove(connection: sqlite3.Connection, paths: PathTable, ids: Iterable[str], generation: int) -> list[int]:
    """Remove rows and their filter entries; leave a tombstone for each. Returns their numbers.

    Raises:
        CorruptionError: one of them is not as it was written.
    """
    gone: list[int] = []
    for chunk in in_chunks(ids):
        found = connection.execute(_STORED, chunk).fetchall()
        for row in found:
            check_head(row)
        unindex(connection, paths, ((row[0], json.loads(row[2])) for row in found))
        gone += [row[0] for row in found]
    connection.executemany("DELETE FROM row WHERE row = ?", ((row,) for row in gone))
    connection.executemany("INSERT INTO tombstone VALUES (?, ?)", ((generation, row) for row in gone))
    return gone


def unindex(connection: sqlite3.Connection, paths: PathTable, rows: Iterable[tuple[int, Metadata]]) -> None:
    """Take the filter entries of rows away."""
    found = [(paths.number(name), kind, value, row) for row, name, kind, value in _entries(rows)]
    for path, kind, value, row in found:
        paths.count(path, entry_hash(kind, value), -1, -row)
    connection.executemany("DELETE FROM field WHERE path = ? AND kind = ? AND value = ? AND row = ?", sorted(found))


def move(connection: sqlite3.Connection, paths: PathTable, heads: Sequence[Head], numbers: Sequence[int]) -> None:
    """Give rows, as :func:`check_head` takes them, other numbers."""
    pairs = list(zip(heads, numbers, strict=True))
    connection.executemany(
        "UPDATE row SET row = ?, crc32 = ? WHERE row = ?",
        ((new, row_crc(new, *head[1:5]), head[0]) for head, new in pairs),
    )
    changed = [
        (paths.number(name), kind, value, head[0], new)
        for head, new in pairs
        for name, kind, value in entries(json.loads(head[2]))
    ]
    for path, kind, value, old, new in changed:
        paths.count(path, entry_hash(kind, value), 0, new - old)
    connection.executemany(
        "UPDATE field SET row = ? WHERE path = ? AND kind = ? AND value = ? AND row = ?",
        ((new, path, kind, value, old) for path, kind, value, old, new in sorted(changed)),
    )


def check_head(head: Head) -> None:
    """Hold a row, without its document, to its checksum.

    Raises:
        CorruptionError: it is not as it was written.
    """
    try:
        sound = row_crc(*head[:5]) == head[5]
    except (AttributeError, TypeError, UnicodeEncodeError):  # not even text
        sound = False
    if not sound:
        raise CorruptionError(
            f"row {head[0]} (id {str(head[1])[:80]!r}) is not as it was written, expected what fits its checksum: "
            f"{RESTORE}"
        )


def _entries(rows: Iterable[tuple[int, Metadata]]) -> Iterator[tuple[int, str, int, Scalar]]:
    for row, metadata in rows:
        for entry in entries(metadata):
            yield row, *entry
