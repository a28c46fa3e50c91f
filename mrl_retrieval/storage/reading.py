"""How a reader gets its snapshot: without generators, and without reading again what no commit has changed."""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple, Protocol

from .database import Lease
from .query import CheckedPaths
from .segments import FineView
from .snapshot import Snapshot
from .state import State

__all__ = ["Known", "Reading"]

# What tells one state from another, by format version: each commit, also one that changes the format, has a generation
# of its own, and the checksum is of all counters and the collection's id. Version 1 has none, so there it is the row.
_STAMP = {1: "SELECT * FROM state", 2: "SELECT generation, collection_id, crc32 FROM state"}


class Known(NamedTuple):
    """What was read and checked of the last commit that was seen, good until the next one."""

    stamp: tuple[Any, ...]
    version: int
    """The format version."""
    state: State
    fine: FineView
    paths: CheckedPaths | None

    @staticmethod
    def stamp_of(connection: sqlite3.Connection, version: int) -> tuple[Any, ...]:
        """The stamp of the commit that the connection's transaction sees."""
        found: tuple[Any, ...] = connection.execute(_STAMP[version]).fetchone()
        return found

    def is_of(self, connection: sqlite3.Connection) -> bool:
        """Whether the connection's transaction sees the same commit."""
        try:
            found: object = connection.execute(_STAMP[self.version]).fetchone()
            return found == self.stamp
        except sqlite3.OperationalError:  # it has the columns of another version
            return False


class Begins(Protocol):
    """What :class:`Reading` needs of a collection."""

    def noted(self) -> tuple[str, int] | None:
        """The last commit as noted beside the database, to be read before the transaction begins."""

    def begin(self, connection: sqlite3.Connection, noted: tuple[str, int] | None, *, of_any: bool) -> Snapshot:
        """Begin a read transaction."""


class Reading:
    """A snapshot for the length of a ``with``."""

    __slots__ = ("_collection", "_lease", "_of_any")

    def __init__(self, collection: Begins, lease: Lease, *, of_any: bool) -> None:
        self._collection = collection
        self._lease = lease
        self._of_any = of_any

    def __enter__(self) -> Snapshot:
        noted = self._collection.noted()
        connection = self._lease.__enter__()
        try:
            return self._collection.begin(connection, noted, of_any=self._of_any)
        except BaseException as error:
            self._lease.__exit__(type(error), error, error.__traceback__)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._lease.__exit__(kind, error, trace)
