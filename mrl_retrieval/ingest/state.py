"""What a collection holds of which file: read once from the rows' metadata, kept in a private temporary database.

A database and not a dict, so that a collection of ten million rows does not have to fit in memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType

from .target import StoredMetadata

__all__ = ["BOOKKEEPING", "Owner", "StoredRows"]

BOOKKEEPING = "mrl"
"""The metadata key under which a row says which record it is a piece of, and of which version of it."""

_SCHEMA = """
CREATE TABLE stored (
    id TEXT PRIMARY KEY, source TEXT, record TEXT, digest TEXT, chunks INTEGER, kept INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX by_record ON stored (source, record);
CREATE TABLE expected (source TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (source, record)) WITHOUT ROWID;
CREATE TABLE lines (key TEXT PRIMARY KEY, line INTEGER NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a stored row is."""

    source: str | None
    """The file it came from; None: it was not made from a file."""
    record: str | None
    """The record that it is a piece of."""
    kept: bool
    """Whether this run has found it there again, or written it."""


class StoredRows:
    """Rows of a collection, the files that they came from, and which of them this run keeps."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # "": a temporary file that SQLite removes itself
        self._db.executescript(_SCHEMA)
        self._db.execute("BEGIN")

    def load(self, backend: StoredMetadata) -> None:
        """Read the metadata of every row."""
        for batch in backend.scan(documents=False):
            self._db.executemany(
                "INSERT OR REPLACE INTO stored (id, source, record, digest, chunks) VALUES (?, ?, ?, ?, ?)",
                (_stored(*pair) for pair in zip(batch.ids, batch.metadatas, strict=True)),
            )

    def start_file(self) -> None:
        """Forget the records of the file before."""
        self._db.execute("DELETE FROM lines")

    def first_line(self, key: str, line: int) -> int:
        """The line on which this record was first met in this file: ``line`` itself if that is now."""
        self._db.execute("INSERT OR IGNORE INTO lines VALUES (?, ?)", (key, line))
        found: tuple[int] = self._db.execute("SELECT line FROM lines WHERE key = ?", (key,)).fetchone()
        return found[0]

    def ambiguous_key(self) -> tuple[str, int] | None:
        """A record of this file whose id looks like a chunk of another of its records, with its line."""
        query = "SELECT key, line FROM lines WHERE key GLOB '*#[0-9]*' ORDER BY line"
        for key, line in self._db.execute(query):
            base, _, number = key.rpartition("#")
            if number.isdecimal() and self._db.execute("SELECT 1 FROM lines WHERE key = ?", (base,)).fetchone():
                return key, line
        return None

    def owner(self, id: str) -> Owner | None:
        """Whose the row with this id is; None where there is none."""
        found = self._db.execute("SELECT source, record, kept FROM stored WHERE id = ?", (id,)).fetchone()
        return None if found is None else Owner(found[0], found[1], bool(found[2]))

    def is_contested(self, source: str, key: str) -> bool:
        """Whether any row that is not a piece of this record has a name that a piece may get: ``KEY``, ``KEY#…``."""
        # "$" is the character after "#", so that between the two are all the names that begin with "KEY#".
        query = """SELECT 1 FROM stored
            WHERE (id = ? OR (id > ? AND id < ?)) AND (source, record) IS NOT (?, ?) LIMIT 1"""
        return self._db.execute(query, (key, f"{key}#", f"{key}$", source, key)).fetchone() is not None

    def expect(self, source: str, records: Iterable[str]) -> None:
        """Remember which records a file has that is yet to be read."""
        rows = ((source, record) for record in records)
        self._db.executemany("INSERT OR IGNORE INTO expected VALUES (?, ?)", rows)

    def is_expected(self, source: str, record: str) -> bool:
        """Whether :meth:`expect` was told of this record."""
        query = "SELECT 1 FROM expected WHERE source = ? AND record = ?"
        return self._db.execute(query, (source, record)).fetchone() is not None

    def status(self, source: str, record: str, digest: str) -> str:
        """``"new"``, ``"changed"`` (or incomplete, after an interrupted run) or ``"unchanged"``."""
        rows = self._db.execute(
            "SELECT digest, chunks FROM stored WHERE source = ? AND record = ?", (source, record)
        ).fetchall()
        if not rows:
            return "new"
        return "unchanged" if len(rows) == rows[0][1] and set(rows) == {(digest, len(rows))} else "changed"

    def keep(self, source: str, record: str) -> None:
        """The rows of an unchanged record stay."""
        self._db.execute("UPDATE stored SET kept = 1 WHERE source = ? AND record = ?", (source, record))

    def claim(self, id: str, source: str, record: str, digest: str, chunks: int) -> None:
        """A row that this run writes, and so keeps; whichever file it came from, it is this one's now."""
        row = (id, source, record, digest, chunks)
        self._db.execute("INSERT OR REPLACE INTO stored VALUES (?, ?, ?, ?, ?, 1)", row)

    def stale(self, source: str) -> tuple[list[str], int]:
        """Ids of a file's rows that this run does not keep, and how many records vanish with them."""
        ids = [row[0] for row in self._db.execute("SELECT id FROM stored WHERE source = ? AND kept = 0", (source,))]
        (gone,) = self._db.execute(
            "SELECT count(*) FROM (SELECT record FROM stored WHERE source = ? GROUP BY record HAVING max(kept) = 0)",
            (source,),
        ).fetchone()
        return ids, gone

    def forget(self, ids: Iterable[str]) -> None:
        """Rows that were deleted."""
        self._db.executemany("DELETE FROM stored WHERE id = ?", ((id,) for id in ids))

    def sources(self) -> Iterator[str]:
        """The files that have rows."""
        query = "SELECT DISTINCT source FROM stored WHERE source IS NOT NULL ORDER BY source"
        yield from [row[0] for row in self._db.execute(query)]

    def close(self) -> None:
        """Remove the temporary database."""
        self._db.close()

    def __enter__(self) -> StoredRows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _stored(id: str, metadata: dict[str, object]) -> tuple[str, str | None, str | None, str | None, int | None]:
    """What a row says of itself; nothing, if it was not made from a file."""
    source, own = metadata.get("source"), metadata.get(BOOKKEEPING)
    if isinstance(source, str) and isinstance(own, dict):
        record, digest, chunks = own.get("record"), own.get("digest"), own.get("chunks")
        if isinstance(record, str) and isinstance(digest, str) and isinstance(chunks, int):
            return id, source, record, digest, chunks
    return id, None, None, None, None
