"""The SQLite side of a collection: its schema, its connections, and where SQLite's errors become ours."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from mrl_retrieval.errors import (
    BackendError,
    CollectionNotFound,
    CorruptionError,
    LockTimeout,
    MRLError,
    NewerFormatError,
    NotACollection,
)

from .access import Opening, address, look, not_allowed, status

__all__ = [
    "APPLICATION_ID",
    "RESTORE",
    "SCHEMA",
    "SCHEMA_VERSION",
    "Connections",
    "Lease",
    "schema_version",
    "sqlite_errors",
    "unmapped",
]

APPLICATION_ID = 0x4D524C31  # "MRL1"
SCHEMA_VERSION = 2
# Of the database file this much is read where it lies in the system's cache, instead of page by page into our own: ten
# rows of a million take 32 instead of 46 µs. No more, since mapped pages count as memory of the process.
_MAPPED_BYTES = 2**30
RESTORE = "restore the collection from a backup, or repair it"

# Vectors have the row numbers 0, 1, 2, …; rows without a vector have -1, -2, …. Neither is ever used twice.
# The document is the last column: reading the rest of a row then does not touch its pages.
ROW_TABLE = (
    "CREATE TABLE row (row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, metadata TEXT NOT NULL, "
    "crc32 INTEGER NOT NULL, vector_sum INTEGER, document_crc32 INTEGER, document TEXT)"
)
STATE_TABLE = (
    "CREATE TABLE state (one INTEGER PRIMARY KEY CHECK (one = 1), generation INTEGER NOT NULL, "
    "vectors INTEGER NOT NULL, bare INTEGER NOT NULL, rows INTEGER NOT NULL, coarse_dims INTEGER NOT NULL, "
    "collection_id TEXT NOT NULL, first INTEGER NOT NULL, first_bare INTEGER NOT NULL, clean_to INTEGER NOT NULL, "
    "numbers INTEGER NOT NULL, paths INTEGER NOT NULL, bare_rows INTEGER NOT NULL, crc32 INTEGER NOT NULL)"
)
PATH_TABLE = "CREATE TABLE path (path INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, digest INTEGER NOT NULL)"
BATCH_TABLE = (
    "CREATE TABLE batch (first INTEGER PRIMARY KEY, rows INTEGER NOT NULL, sums BLOB NOT NULL, "
    "lineage TEXT NOT NULL, crc32 INTEGER NOT NULL)"
)
SEGMENT_TABLE = "CREATE TABLE segment (number INTEGER PRIMARY KEY, first INTEGER NOT NULL)"
SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    STATE_TABLE,
    ROW_TABLE,
    PATH_TABLE,
    "CREATE TABLE field (path INTEGER NOT NULL, kind INTEGER NOT NULL, value NOT NULL, row INTEGER NOT NULL, "
    "PRIMARY KEY (path, kind, value, row)) WITHOUT ROWID",
    BATCH_TABLE,
    SEGMENT_TABLE,
    "CREATE TABLE tombstone (generation INTEGER NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (generation, row)) "
    "WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)


_TABLES = {statement for statement in SCHEMA if statement.startswith("CREATE TABLE")}


def schema_version(connection: sqlite3.Connection, path: Path) -> int:
    """The format version in the connection's transaction.

    Raises:
        NewerFormatError: a newer version of this library wrote it.
        CorruptionError: there has never been such a version.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise NewerFormatError(
            f"{path} has schema version {version}, this library reads up to {SCHEMA_VERSION}: upgrade mrl-retrieval"
        )
    if version < 1:
        raise CorruptionError(f"{path} has schema version {version}, expected 1 to {SCHEMA_VERSION}: {RESTORE}")
    return int(version)


class Lease:
    """A connection that one thread has for the length of a ``with``, where SQLite's errors become ours.

    A class, and not a generator with the errors in another, because that costs every search several microseconds.
    """

    __slots__ = ("_connection", "_create", "_opening", "_pool")

    def __init__(self, pool: Connections, create: bool) -> None:
        self._pool = pool
        self._create = create

    def __enter__(self) -> sqlite3.Connection:
        try:
            self._connection, self._opening = self._pool.take(self._create)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise _translated(self._pool.path, error) from error
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if self._opening.unchanged is not None and (error is None or isinstance(error, Exception)):
                # What looks like damage, or like a row that is not there, may be a file that changed underneath.
                self._opening.check_unchanged(self._pool.path, failed=error is not None)
        finally:
            self._pool.give_back(self._connection, self._opening)
        if isinstance(error, (sqlite3.Error, UnicodeDecodeError)):
            raise _translated(self._pool.path, error) from error


@contextlib.contextmanager
def unmapped(connection: sqlite3.Connection) -> Iterator[None]:
    """Reads within the ``with`` do not go through a mapping of the file: for what is read once and lies all over it.
    Each page that is touched through a mapping brings fifteen others into this process's memory, and they stay."""
    (size,) = connection.execute("PRAGMA mmap_size").fetchone() or (0,)
    connection.execute("PRAGMA mmap_size = 0")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA mmap_size = {int(size)}")


class Connections:
    """A pool of connections to one database file that notices when the file is replaced, and when the process forks.

    A connection is used by one thread at a time but may move between them.
    """

    def __init__(self, path: Path, busy_timeout: float, other_file: Callable[[], None]) -> None:
        self.path = path
        self._other_file = other_file
        self._file = os.fspath(path)
        self._busy_timeout = busy_timeout
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._in_use: list[sqlite3.Connection] = []
        self._opening: Opening | None = None
        self._size = 0
        """The size that the file had at the last look."""
        self._closed = False

    def connection(self, *, create: bool = False) -> Lease:
        """A connection to the file that is at the path now, for the length of a ``with``.

        Raises:
            CollectionNotFound: there is no file, or nothing in it, and ``create`` is False.
            NotACollection: the file is another program's.
            NewerFormatError: a newer version of this library made it.
            BackendError: this process may not read it.
            BackendUnavailable: it may not write beside it, and somebody else wrote meanwhile.
        """
        return Lease(self, create)

    def close(self) -> None:
        """Close every connection: those in use when they are given back. A second call is no error."""
        with self._lock:
            self._closed = True
            self._discard_idle()

    def reset(self) -> None:
        """Close every connection, those in use when they are given back; the next one is opened anew."""
        with self._lock:
            self._discard_idle()

    def after_fork(self) -> None:
        """Let go of the parent's connections without closing them: they are the parent's, and its locks with them."""
        _LEFT_TO_THE_PARENT.extend(self._idle + self._in_use)
        self._lock = threading.Lock()
        self._idle, self._in_use, self._opening, self._size = [], [], None, 0

    def take(self, create: bool) -> tuple[sqlite3.Connection, Opening]:
        """An idle connection, or a new one, and how it was opened; errors as of :meth:`connection`, untranslated."""
        with self._lock:
            if self._closed:
                raise BackendError(f"the collection at {self.path.parent} was closed; open it again")
            opening = self._look()
            if opening is None or opening != self._opening:
                # Dropped, and perhaps made again. An open file keeps its number, so equal numbers mean the same file.
                if self._opening is not None and (opening is None or opening.file != self._opening.file):
                    self._other_file()
                self._discard_idle()
            elif self._idle:
                self._in_use.append(self._idle.pop())
                return self._in_use[-1], self._opening
            if opening is None and not create:
                raise self._not_found()
            while True:
                connection = self._connect(opening, create)
                after = self._look()
                if connection is not None and after is not None and (opening is None or after == opening):
                    break
                if connection is not None:
                    connection.close()
                if after is None and not create:
                    raise self._not_found()
                opening = after
            self._in_use.append(connection)
            if self._opening is None:
                self._opening = after
                self._look()
            return connection, self._opening or after

    def _look(self) -> Opening | None:
        known = self._opening
        if known is None or known.mode != "rw":
            return look(self.path)
        found = status(self._file)
        if found is None or (found.st_dev, found.st_ino) != known.file:
            return look(self.path)
        if found.st_size < self._size:
            # Cut off. Where a connection has mapped more than there is, the next touch would kill the process.
            self._discard_idle()
            return look(self.path)
        self._size = found.st_size
        return known

    def _not_found(self) -> CollectionNotFound:
        return CollectionNotFound(f"there is no collection at {self.path.parent}; index something first")

    def give_back(self, connection: sqlite3.Connection, opening: Opening) -> None:
        """What :meth:`take` gave. A transaction that is still open is rolled back."""
        with self._lock:
            if connection not in self._in_use:
                return  # it is the parent's: this process was forked meanwhile
            self._in_use.remove(connection)
            if connection.in_transaction:
                try:  # noqa: SIM105 - contextlib.suppress would cost every search a microsecond
                    connection.execute("ROLLBACK")
                except sqlite3.Error:
                    pass
            if self._closed or opening is not self._opening:
                connection.close()
            else:
                self._idle.append(connection)

    def _discard_idle(self) -> None:
        # Those in use are left alone: closing one under a running statement is not safe, and whoever has it still
        # sees the files as they were.
        for connection in self._idle:
            connection.close()
        self._idle, self._opening, self._size = [], None, 0

    def _connect(self, opening: Opening | None, create: bool) -> sqlite3.Connection | None:
        """A connection; None where a writer's files were there, and are gone by now."""
        uri = address(self.path, "rwc" if create or opening is None else opening.mode)
        connection = None
        try:
            connection = sqlite3.connect(
                uri, uri=True, timeout=self._busy_timeout, isolation_level=None, check_same_thread=False
            )
            self._prepare(connection, create)
            if create or opening is None or opening.mode == "rw":
                connection.execute(f"PRAGMA mmap_size = {_MAPPED_BYTES}")
        except BaseException as error:
            if connection is not None:
                connection.close()
            beside = opening is not None and opening.mode == "ro"
            if beside and isinstance(error, sqlite3.OperationalError) and self._look() != opening:
                return None
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection, create: bool) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application != APPLICATION_ID and (application or tables):
            raise NotACollection(
                f"{self.path} is a database with application id {application:#x}, expected {APPLICATION_ID:#x}: "
                "another program made it; choose another folder"
            )
        if tables:
            if schema_version(connection, self.path) == SCHEMA_VERSION:
                self._check_schema(connection)
        elif not create:
            raise CollectionNotFound(f"there is no collection at {self.path.parent}; index something first")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -8000")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.create_function("mrl_casefold", 1, str.casefold, deterministic=True)

    def _check_schema(self, connection: sqlite3.Connection) -> None:
        """Hold the tables' definitions to ours: a damaged one lets SQLite read the same bytes as something else."""
        found = {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
        if found != _TABLES:
            wrong = sorted(found ^ _TABLES)[0]
            raise CorruptionError(f"{self.path} has other tables than it should ({wrong[:80]!r}): {RESTORE}")


# Connections that came into this process by a fork stay referenced: closing them here could harm the parent's.
_LEFT_TO_THE_PARENT: list[sqlite3.Connection] = []


@contextlib.contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise _translated(path, error) from error


def _translated(path: Path, error: sqlite3.Error | UnicodeDecodeError) -> MRLError:
    """Our error for one of SQLite's: the one place where that is decided."""
    if isinstance(error, UnicodeDecodeError):
        return CorruptionError(f"{path}: SQLite says what is not UTF-8 ({error}), expected text: {RESTORE}")
    name = getattr(error, "sqlite_errorname", "") or type(error).__name__
    said = f"{path}: SQLite says {error} ({name})"
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return CorruptionError(f"{said}, expected a sound database: {RESTORE}")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return LockTimeout(f"{said}: another program holds the database; end it, or try again")
    if name.startswith("SQLITE_FULL"):
        return BackendError(f"{said}: make room on the disk and repeat; nothing of this batch was kept")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return BackendError(f"{said}. {not_allowed(f'opening {path}', path)}")
    if name.startswith("SQLITE_IOERR"):
        return BackendError(f"{said}: check the disk")
    if "Could not decode" in str(error) or name in ("SQLITE_MISMATCH", "SQLITE_TOOBIG"):
        return CorruptionError(f"{said}, expected text: {RESTORE}")
    if name == "SQLITE_ERROR" and ("no such" in str(error) or "malformed" in str(error)):
        return CorruptionError(f"{said}, expected the tables of schema version {SCHEMA_VERSION}: {RESTORE}")
    return BackendError(said)
