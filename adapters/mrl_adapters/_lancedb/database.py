"""How the LanceDB adapter reaches LanceDB: in a folder or in memory; its writer locks, and what its errors mean.

Two processes whose commits LanceDB lets through at the same moment may leave an id twice (seen with 0.40: two
``merge_insert`` of the same new key are both taken for mere additions). So our writers take turns, by a lock that
goes with a process that is killed. Readers take none: every read moves its handle to the newest version of the table
first (:class:`Handles`), and stays with that version.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mrl_retrieval.address import Address
from mrl_retrieval.errors import AddressError, BackendError, BackendUnavailable, LockTimeout, NotACollection
from mrl_retrieval.storage import WriterLock

from .._rust import translated
from .package import lancedb

__all__ = ["Database", "Handles", "table_is_gone"]

# The process that has used LanceDB. Its children by fork inherit a runtime whose threads are gone: seen with 0.40, a
# child that writes dies of a segmentation fault in one of three cases, so they are refused instead.
_users: list[int] = []

_TABLE = ".lance"
_LOCK = ".mrl-"
# What Rust's errors say of the system's, of which LanceDB makes one kind of exception.
_GONE = ("was not found", "Not found:", "No such file or directory", "not found at path")
_FULL = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122")
_REFUSED = ("Permission denied", "os error 13", "Read-only file system", "os error 30")


def table_is_gone(error: BaseException) -> bool:
    """Whether LanceDB says that a table, a version or a file of it is not there."""
    words = str(error)
    return any(word in words for word in _GONE)


class Database:
    """One place: opened by the first use, closed once."""

    def __init__(self, address: Address, lock_timeout: float) -> None:
        if address.url or "://" in address.path:
            raise AddressError(f"{address}: the lancedb backend takes a folder, 'lancedb:./folder', or 'lancedb:'")
        self.address = address
        self.folder = None if address.in_memory else Path(os.path.realpath(address.folder))
        """The folder; None in memory."""
        self._lock_timeout = min(lock_timeout, threading.TIMEOUT_MAX)
        self._opening = threading.Lock()
        self._db: Any = None
        self._closed = False
        self._locks: dict[str, Any] = {}
        self._is_there()

    def _is_there(self) -> bool:
        """Whether there is anything to read; raises where something else is in the folder."""
        if self.folder is None:
            return True
        with self.errors("looking into the folder"):
            try:
                names = [path.name for path in self.folder.iterdir() if not path.name.startswith(_LOCK)]
            except FileNotFoundError:
                return False
            except NotADirectoryError as error:
                raise NotACollection(
                    f"{self.folder} is a file, or in one; a LanceDB database is a folder: choose another path"
                ) from error
        if names and not any(name.endswith(_TABLE) for name in names):
            raise NotACollection(
                f"{self.folder} is not empty and is no LanceDB database (nothing in it ends in {_TABLE}); choose "
                "another folder"
            )
        return bool(names)

    def reader(self) -> Any | None:
        """The connection, or None where there is no database yet; creates nothing on disk."""
        return self.connection() if self._db is not None or self._closed or self._is_there() else None

    def connection(self) -> Any:
        """The connection; creates the folder where there is none."""
        self._refuse_after_fork()
        with self._opening:
            if self._closed:
                raise BackendError(f"the connection to {self.address} is closed; open the collection again")
            if self._db is None:
                with self.errors("connecting"):
                    _users[:] = [os.getpid()]
                    place = "memory://" if self.folder is None else str(self.folder)
                    self._db = lancedb.connect(place, read_consistency_interval=None)
            return self._db

    @contextlib.contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Hold the lock of a collection, or of the catalogue, among all threads and processes.

        Raises:
            LockTimeout: somebody else held it for longer than ``lock_timeout``.
        """
        self._refuse_after_fork()
        lock = self._lock(what)
        if self.folder is None:
            if not lock.acquire(timeout=self._lock_timeout):
                raise LockTimeout(
                    f"another thread has been writing to {self.address} for longer than lock_timeout="
                    f"{self._lock_timeout:g} s: wait for it, or give a longer lock_timeout"
                )
            try:
                yield
            finally:
                lock.release()
            return
        with self.errors("making the folder"):
            self.folder.mkdir(parents=True, exist_ok=True)
        with lock.held():
            yield

    def _lock(self, what: str) -> Any:
        with self._opening:
            if what not in self._locks:
                path = None if self.folder is None else self.folder / f"{_LOCK}{what}.lock"
                self._locks[what] = threading.Lock() if path is None else WriterLock(path, self._lock_timeout)
            return self._locks[what]

    def table_names(self) -> list[str]:
        """All tables at this place, ours and others', sorted; ``[]`` where the place does not exist yet."""
        db = self.reader()
        if db is None:
            return []
        names: list[str] = []
        with self.errors("listing tables"):
            page = None
            while True:
                answer = db.list_tables(page_token=page, limit=1000)
                names += answer.tables
                page = answer.page_token
                if not page:
                    return sorted(names)

    def open_table(self, name: str) -> Any | None:
        """A table at its newest version, with which it stays; or None where it is not there."""
        db = self.reader()
        if db is None:
            return None
        try:
            with self.errors("opening a table"):
                return db.open_table(name)
        except BackendError as error:
            if table_is_gone(error):
                return None
            raise

    def close(self) -> None:
        """Let go of the connection; a second call is no error."""
        with self._opening:
            self._db, self._closed = None, True

    def errors(self, doing: str) -> contextlib.AbstractContextManager[None]:
        """Turn whatever LanceDB raises into this library's errors: the one place where that is done."""
        self._refuse_after_fork()
        return translated(partial(self._translated, doing))

    def _refuse_after_fork(self) -> None:
        if _users and _users[0] != os.getpid():
            raise BackendError(
                f"LanceDB was used in process {_users[0]} before this one ({os.getpid()}) was forked from it, and does "
                "not survive that; start processes by 'spawn' or 'forkserver', or fork before the first use"
            )

    @property
    def _where(self) -> str:
        return str(self.folder or "in memory")

    def _translated(self, doing: str, error: BaseException) -> BackendError:
        if not isinstance(error, Exception):
            return BackendError(
                f"{doing}: LanceDB failed inside ({error}) at {self._where}; open the collection again, and repeat"
            )
        words = str(error) or type(error).__name__
        start = f"{doing}: LanceDB at {self._where} failed: {type(error).__name__}: {words}"
        if any(word in words for word in _FULL):
            return BackendError(f"{start}; the disk is full: make room, then repeat the call")
        if isinstance(error, PermissionError) or any(word in words for word in _REFUSED):
            return BackendError(f"{start}; give this process the right to read and write the folder")
        if isinstance(error, TimeoutError):
            return BackendUnavailable(f"{start}; repeat the call")
        return BackendError(start)


class Handles:
    """Of one table. They are used again, since a new one has to read first what an older one knows."""

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name
        self._free: list[Any] = []

    @contextlib.contextmanager
    def newest(self) -> Iterator[Any | None]:
        """A handle at the newest version, where it stays while nobody else has it; None where the table is gone."""
        try:
            # Taken off the list: somebody else's look for a newer version would move this one too.
            table = self._free.pop()
        except IndexError:
            table = self._database.open_table(self._name)
        else:
            table = table if self._refreshed(table) else None
        yield table
        # Not where something failed: whoever comes next had better open the table anew.
        if table is not None:
            self._free.append(table)

    def _refreshed(self, table: Any) -> bool:
        try:
            with self._database.errors("looking for the newest version"):
                table.checkout_latest()
        except BackendError as error:
            if table_is_gone(error):
                return False
            raise
        return True
