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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mrl_retrieval.matryoshka import FloatArray

from .embedding_file import Unusable, cost, make_room, opened, remove, transaction

__all__ = ["EmbeddingStore"]

logger = logging.getLogger(__name__)

_AT_ONCE = 500  # keys in one query
_TOUCHES = 10_000  # uses remembered before they are written down
# A table that is missing counts as damage too.
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR)

T = TypeVar("T")


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
        _stores.add(self)
        self.close = weakref.finalize(self, _close, self._state)

    def get(self, keys: Sequence[bytes], dim: int) -> dict[bytes, FloatArray]:
        """The vectors ``(dim,)`` that are there; one that fails its checksum is dropped and is not."""

        def read(db: sqlite3.Connection) -> tuple[dict[bytes, FloatArray], list[bytes]]:
            found: dict[bytes, FloatArray] = {}
            damaged: list[bytes] = []
            for start in range(0, len(keys), _AT_ONCE):
                part = keys[start : start + _AT_ONCE]
                places = ",".join("?" * len(part))
                query = f"SELECT key, value, checksum FROM vectors WHERE key IN ({places})"  # noqa: S608 - question marks
                for key, value, checksum in db.execute(query, part):
                    if isinstance(value, bytes) and len(value) == 4 * dim and _checksum(key, value) == checksum:
                        found[key] = np.frombuffer(value, dtype="<f4").astype(np.float32)
                    else:
                        damaged.append(key)
            return found, damaged

        nothing: tuple[dict[bytes, FloatArray], list[bytes]] = ({}, [])
        found, damaged = self._do(read, nothing, "read")
        if damaged:
            logger.warning("%s: %d embeddings are damaged and are made again", self.path, len(damaged))
        if not self._state.read_only:
            with self._lock:
                self._state.touched.update(dict.fromkeys(found, time.time_ns()))
            if damaged or len(self._state.touched) > _TOUCHES:
                self._do(lambda db: _tidy(db, self._state, damaged), None, "write")  # apart: found stays if it fails
        return found

    def put(self, encoder: bytes, vectors: Mapping[bytes, FloatArray]) -> None:
        """Keep vectors, all of them or none; what makes the file too large is freed first."""
        now = time.time_ns()
        rows, room = [], self._max
        for key, vector in vectors.items():
            value = vector.astype("<f4").tobytes()
            room -= cost(len(value))
            if room < 0:
                break
            rows.append((key, encoder, value, _checksum(key, value), now))

        def write(db: sqlite3.Connection) -> None:
            with transaction(db):
                _write_touches(db, self._state)
                make_room(db, sum(cost(len(row[2])) for row in rows), self._max)
                db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?, ?)", rows)

        if rows and not self._state.read_only:
            self._do(write, None, "write")

    def forget(self, encoder: bytes) -> None:
        """Drop all vectors of one encoder."""

        def drop(db: sqlite3.Connection) -> None:
            with transaction(db):
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
                except (OSError, Unusable) as error:
                    self._switch_off(error)
                    return otherwise
            return otherwise

    def _connection(self) -> sqlite3.Connection:
        state = self._state
        if state.db is None or state.pid != os.getpid():
            state.inherited = state.db  # a connection must be neither used nor closed across a fork
            state.db, state.pid = opened(self.path), os.getpid()
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
            remove(self.path)
        except OSError as problem:
            self._switch_off(problem)
            return False
        return again


_stores: weakref.WeakSet[EmbeddingStore] = weakref.WeakSet()
_forking = threading.RLock()
_held: list[Any] = []  # locks, by the thread that forks


def _before_fork() -> None:
    """Let every call end: in the child nobody would release its locks, ours and SQLite's."""
    _forking.acquire()
    for store in list(_stores):
        store._lock.acquire()
        _held.append(store._lock)


def _after_fork() -> None:
    while _held:
        _held.pop().release()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


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
            with transaction(state.db):
                _write_touches(state.db, state)
        with contextlib.suppress(sqlite3.Error):
            state.db.close()
    state.db = None


def _tidy(db: sqlite3.Connection, state: _State, damaged: Sequence[bytes]) -> None:
    with transaction(db):
        _write_touches(db, state)
        db.executemany("DELETE FROM vectors WHERE key = ?", [(key,) for key in damaged])


def _write_touches(db: sqlite3.Connection, state: _State) -> None:
    """Write down when vectors were last used; another process may have used them later still."""
    touched, state.touched = state.touched, {}
    db.executemany(
        "UPDATE vectors SET used = max(used, ?) WHERE key = ?", [(used, key) for key, used in touched.items()]
    )


def _checksum(key: bytes, value: bytes) -> bytes:
    return hashlib.blake2b(value, key=key, digest_size=8).digest()
