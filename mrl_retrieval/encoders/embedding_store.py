"""The file behind the embedding cache: vectors by key in SQLite, bounded in size, the least recently used go first.

A cache may lose anything and must stop nobody: what cannot be read is a miss, what cannot be written is not kept. A
damaged file is thrown away and begun anew; a file of another program is left alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from mrl_retrieval.matryoshka import FloatArray

__all__ = ["EmbeddingStore"]

logger = logging.getLogger(__name__)

_MAGIC = b"SQLite format 3\x00"
_APPLICATION = 0x4D524C65  # "MRLe", at byte 68 of the file
_VERSION = 1
_AT_ONCE = 500  # keys in one query
_WAIT = 10.0  # seconds for another writer
_TOUCHES = 10_000  # uses remembered before they are written down
# A table that is missing counts as damage too.
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR)
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

T = TypeVar("T")


class _Unusable(Exception):
    """The file is not ours, or of a newer version."""


class EmbeddingStore:
    """Vectors by key, shared by threads and processes. Its methods raise nothing.

    Opened on first use. Reads write nothing: when a vector was last used is written down with the next write, or when
    the store is closed.

    Args:
        path: the file; its folder is made where it is missing.
        max_bytes: size of the file at most, without SQLite's log beside it (some megabytes).
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path, self._max = path, max_bytes
        self._lock = threading.RLock()
        self._state = _State()
        self.close = weakref.finalize(self, _close, self._state)

    def get(self, keys: Sequence[bytes], dim: int) -> dict[bytes, FloatArray]:
        """The vectors ``(dim,)`` that are there; one that fails its checksum is dropped and is not."""

        def read(db: sqlite3.Connection) -> dict[bytes, FloatArray]:
            found, damaged = {}, []
            for start in range(0, len(keys), _AT_ONCE):
                part = keys[start : start + _AT_ONCE]
                places = ",".join("?" * len(part))
                query = f"SELECT key, value, checksum FROM vectors WHERE key IN ({places})"  # noqa: S608 - question marks
                for key, value, checksum in db.execute(query, part):
                    if isinstance(value, bytes) and len(value) == 4 * dim and _checksum(key, value) == checksum:
                        found[key] = np.frombuffer(value, dtype="<f4").astype(np.float32)
                    else:
                        damaged.append(key)
            if damaged:
                logger.warning("%s: %d embeddings are damaged and are made again", self.path, len(damaged))
                with _transaction(db):
                    db.executemany("DELETE FROM vectors WHERE key = ?", [(key,) for key in damaged])
            now = time.time_ns()
            self._state.touched.update(dict.fromkeys(found, now))
            if len(self._state.touched) > _TOUCHES:
                with _transaction(db):
                    _write_touches(db, self._state)
            return found

        return self._do(read, {}, "read")

    def put(self, encoder: bytes, vectors: Mapping[bytes, FloatArray]) -> None:
        """Keep vectors, all of them or none; what makes the file too large is freed first."""
        now = time.time_ns()
        rows, room = [], self._max
        for key, vector in vectors.items():
            value = vector.astype("<f4").tobytes()
            room -= _cost(len(value))
            if room < 0:
                break
            rows.append((key, encoder, value, _checksum(key, value), now))

        def write(db: sqlite3.Connection) -> None:
            with _transaction(db):
                _write_touches(db, self._state)
                _make_room(db, sum(_cost(len(row[2])) for row in rows), self._max)
                db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?, ?)", rows)

        if rows and not self._state.read_only:
            self._do(write, None, "write")

    def forget(self, encoder: bytes) -> None:
        """Drop all vectors of one encoder."""

        def drop(db: sqlite3.Connection) -> None:
            with _transaction(db):
                db.execute("DELETE FROM vectors WHERE encoder = ?", (encoder,))

        self._do(drop, None, "write")

    def _do(self, work: Callable[[sqlite3.Connection], T], otherwise: T, verb: str) -> T:
        with self._lock:
            for attempt in range(2):
                if self._state.off:
                    return otherwise
                try:
                    return work(self._connection())
                except sqlite3.Error as error:
                    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                    if code not in _DAMAGED:
                        self._failed(error, code, verb)
                        return otherwise
                    if not self._thrown_away(error, again=attempt == 0):
                        return otherwise
                except (OSError, _Unusable) as error:
                    self._switch_off(error)
                    return otherwise
            return otherwise

    def _connection(self) -> sqlite3.Connection:
        state = self._state
        if state.db is None or state.pid != os.getpid():
            state.inherited = state.db  # a connection must be neither used nor closed across a fork
            state.db, state.pid = _opened(self.path), os.getpid()
        return state.db

    def _failed(self, error: sqlite3.Error, code: int, verb: str) -> None:
        """Busy, full, read-only, or not to be opened."""
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            logger.debug("%s: others are writing, this time without the cache: %s", self.path, error)
        elif verb == "read" and code != sqlite3.SQLITE_READONLY:
            self._switch_off(error)
        elif not self._state.read_only:
            self._state.read_only = True
            logger.warning("no more embeddings are kept in %s: %s", self.path, error)

    def _switch_off(self, error: Exception) -> None:
        self._state.off = True
        logger.warning("working without the embedding cache %s: %s", self.path, error)

    def _thrown_away(self, error: Exception, *, again: bool) -> bool:
        """Get the damaged file out of the way; whether another attempt is worth it."""
        logger.warning("the embedding cache %s is damaged (%s) and is begun anew", self.path, error)
        with contextlib.suppress(sqlite3.Error):
            if self._state.db is not None:
                self._state.db.close()
        self._state.db = None
        self._state.touched.clear()
        try:
            _remove(self.path)
        except OSError as problem:
            self._switch_off(problem)
            return False
        return again


class _State:
    """What closing needs to know; apart from the store, so that closing does not keep the store alive."""

    def __init__(self) -> None:
        self.db: sqlite3.Connection | None = None
        self.inherited: sqlite3.Connection | None = None
        self.pid = 0
        self.touched: dict[bytes, int] = {}
        self.off = self.read_only = False


def _close(state: _State) -> None:
    if state.db is not None and state.pid == os.getpid():
        with contextlib.suppress(sqlite3.Error):
            state.db.execute("PRAGMA busy_timeout = 200")
            with _transaction(state.db):
                _write_touches(state.db, state)
        with contextlib.suppress(sqlite3.Error):
            state.db.close()
    state.db = None


def _opened(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError, PermissionError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))  # texts can be guessed from their vectors
    header = _header(path)
    if header.startswith(_MAGIC) and int.from_bytes(header[68:72], "big") not in (0, _APPLICATION):
        raise _Unusable("it is a database of another program; name another file")
    db = sqlite3.connect(path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA cell_size_check = ON")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise _Unusable(f"its version is {version}, this library knows {_VERSION}; upgrade, or name another file")
        if version < _VERSION:
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise _Unusable("it is a database of another program; name another file")
            db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100)


def _remove(path: Path) -> None:
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
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _write_touches(db: sqlite3.Connection, state: _State) -> None:
    touched, state.touched = state.touched, {}
    db.executemany("UPDATE vectors SET used = ? WHERE key = ?", [(used, key) for key, used in touched.items()])


def _make_room(db: sqlite3.Connection, coming: int, most: int) -> None:
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


def _cost(value: int) -> int:
    """Bytes that a row takes in the file at most: pages are half full at worst, keys are there twice."""
    return 2 * value + 500


def _checksum(key: bytes, value: bytes) -> bytes:
    return hashlib.blake2b(value, key=key, digest_size=8).digest()
