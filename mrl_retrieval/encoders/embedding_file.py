"""The SQLite file of the embedding cache: opening, its size, and getting it out of the way where it is damaged."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Unusable", "cost", "make_room", "opened", "remove", "transaction"]

_MAGIC = b"SQLite format 3\x00"
_APPLICATION = 0x4D524C65  # "MRLe", at byte 68 of the file
_VERSION = 1
_WAIT = 10.0  # seconds for another writer
_SLACK = 0.1  # of the limit is freed at a time, so that not every write has to

_SCHEMA = f"""
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS vectors (
    key BLOB NOT NULL UNIQUE, encoder BLOB NOT NULL, value BLOB NOT NULL, checksum BLOB NOT NULL, used INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS vectors_by_use ON vectors (used);
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
COMMIT;
"""


class Unusable(Exception):
    """The file is not ours, or of a newer version."""


def opened(path: Path) -> sqlite3.Connection:
    """A connection to the file, which is made where it is missing, for its owner alone.

    Raises:
        Unusable: it is of another program, or of a newer version.
        sqlite3.Error, OSError: it cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError, PermissionError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))  # texts can be guessed from their vectors
    header = _header(path)
    if header.startswith(_MAGIC) and int.from_bytes(header[68:72], "big") not in (0, _APPLICATION):
        raise Unusable("it is a database of another program; name another file")
    db = sqlite3.connect(path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA cell_size_check = ON")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise Unusable(f"its version is {version}, this library knows {_VERSION}; upgrade, or name another file")
        if version < _VERSION:
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise Unusable("it is a database of another program; name another file")
            db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100)


def remove(path: Path) -> None:
    """Remove a damaged file of ours; one that does not look like ours is moved aside: it may be somebody's work."""
    for end in ("-wal", "-shm"):  # first, so that no new file meets an old log
        path.with_name(path.name + end).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        header = _header(path)
        if header.startswith(_MAGIC) and int.from_bytes(header[68:72], "big") == _APPLICATION:
            path.unlink()
        else:
            path.replace(path.with_name(path.name + ".damaged"))


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing; holds the write lock from its beginning."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def make_room(db: sqlite3.Connection, coming: int, most: int) -> None:
    """Delete what was not used for longest until ``coming`` bytes more stay within the limit."""

    def pages(what: str) -> int:
        return int(db.execute(f"PRAGMA {what}").fetchone()[0])

    size = pages("page_size")
    if (pages("page_count") - pages("freelist_count")) * size + coming <= most:
        return
    goal = most - coming - int(_SLACK * most)
    while (pages("page_count") - pages("freelist_count")) * size > max(goal, 0):
        gone = db.execute(
            "DELETE FROM vectors WHERE rowid IN (SELECT rowid FROM vectors ORDER BY used, rowid LIMIT 20)"
        ).rowcount
        if not gone:
            break
    if pages("page_count") * size > most:
        db.execute("PRAGMA incremental_vacuum").fetchall()


def cost(value: int) -> int:
    """Bytes that a row takes in the file at most: pages are half full at worst, keys are there twice."""
    return 2 * value + 500
