"""The counters of a collection after a commit, and the lists that say which vectors it has: read, checked, written."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrl_retrieval.errors import CorruptionError, ManifestError
from mrl_retrieval.manifest import Manifest

from .checks import Sums
from .database import RESTORE, unmapped
from .records import Span

__all__ = ["State", "add_batch", "last_lineage", "load_spans", "load_sums", "path_crc", "read_manifest"]

_STATE_1 = "SELECT * FROM state"
_STATE_2 = (
    "SELECT generation, vectors, bare, rows, coarse_dims, collection_id, first, first_bare, clean_to, numbers, paths, "
    "bare_rows, crc32 FROM state"
)
_BATCHES = (
    "SELECT first, rows, sums, lineage, crc32 FROM batch "
    "WHERE first >= coalesce((SELECT max(first) FROM batch WHERE first <= ?), 0) ORDER BY first"
)
_WRITE = "INSERT OR REPLACE INTO state VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class State:
    """The counters of a collection after a commit."""

    generation: int
    """Goes up with every commit."""
    vectors: int
    """The end of the numbers of vectors: one more than the last that was given out."""
    bare: int
    """Numbers given out to rows without a vector: -1 to -bare."""
    rows: int
    """Rows that are there."""
    coarse_dims: int
    collection_id: str
    first: int = 0
    """Below it there are no vectors any more."""
    first_bare: int = 0
    """From -first_bare upwards there are no rows without a vector any more."""
    clean_to: int = 0
    """Where the compaction that is under way ends; not above ``first``: none is."""
    numbers: int = 0
    """The sum of the numbers of all rows that are there."""
    paths: int = 0
    """The sum of the CRC-32s of all metadata paths; see :func:`path_crc`."""
    bare_rows: int = 0
    """Rows that are there and have no vector. Not counted in format version 1."""

    @property
    def window(self) -> int:
        """Row numbers that may be in use, of rows with and without a vector."""
        return self.bare_window + self.vectors - self.first

    @property
    def dead(self) -> int:
        """Vectors that are stored, but belong to no row any more."""
        return self.vectors - self.first - (self.rows - self.bare_rows)

    @property
    def bare_window(self) -> int:
        """Row numbers that may be in use, of rows without a vector."""
        return self.bare - self.first_bare

    @classmethod
    def read(cls, connection: sqlite3.Connection, version: int) -> State:
        """The state in the connection's transaction; errors as of :meth:`checked`."""
        return cls.checked(cls.fetch(connection, version), version)

    @staticmethod
    def fetch(connection: sqlite3.Connection, version: int) -> tuple[Any, ...] | None:
        """The same as it is stored, unchecked."""
        found: tuple[Any, ...] | None = connection.execute(_STATE_1 if version == 1 else _STATE_2).fetchone()
        return found

    @classmethod
    def checked(cls, found: tuple[Any, ...] | None, version: int) -> State:
        """The state from what :meth:`fetch` gave.

        Raises:
            CorruptionError: it is not there, or fails its checksum.
        """
        if found is None:
            raise CorruptionError(f"the database has no row in its table 'state', expected one: {RESTORE}")
        if version == 1:
            if len(found) != 7:
                raise CorruptionError(
                    f"the database says it has format version 1, its table 'state' has not: {RESTORE}"
                )
            found = (*found[1:], 0, 0, 0, 0, 0, 0)
        state = cls(*found[:12])
        if not all(type(value) is (str if i == 5 else int) for i, value in enumerate(found[:12])):
            raise CorruptionError(f"the database's table 'state' holds {found}, expected numbers: {RESTORE}")
        if version > 1 and found[12] != state.crc32:
            raise CorruptionError(
                f"the database's table 'state' has checksum {found[12]}, expected {state.crc32}: {RESTORE}"
            )
        return state

    @property
    def crc32(self) -> int:
        """CRC-32 of the values, as text, joined by spaces."""
        return zlib.crc32(" ".join(map(str, self.values())).encode())

    def values(self) -> tuple[int | str, ...]:
        """The values, in the order of the fields."""
        return tuple(getattr(self, name) for name in self.__slots__)

    def write(self, connection: sqlite3.Connection) -> None:
        """Put it in the place of the stored one."""
        connection.execute(_WRITE, (*self.values(), self.crc32))


def path_crc(path: int, name: str) -> int:
    """CRC-32 of a path's number and name."""
    return zlib.crc32(f"{path} {name}".encode())


def read_manifest(connection: sqlite3.Connection) -> Manifest:
    """The stored manifest in the connection's transaction."""
    found = connection.execute("SELECT value FROM meta WHERE key = 'manifest'").fetchone()
    if found is None:
        raise ManifestError(f"the database has no manifest, expected one: {RESTORE}")
    return Manifest.loads(found[0])


def load_spans(connection: sqlite3.Connection, version: int, state: State, rows_per_segment: int) -> list[Span]:
    """The segments, in order."""
    if version == 1:
        count = -(-state.vectors // rows_per_segment)
        return [Span(i + 1, i * rows_per_segment) for i in range(count)]
    spans = [Span(*found) for found in connection.execute("SELECT number, first FROM segment ORDER BY number")]
    for before, after in zip(spans, spans[1:], strict=False):
        if not before.first <= after.first <= state.vectors:
            raise CorruptionError(
                f"segment {after.number} begins at {after.first}, not after {before.first}: {RESTORE}"
            )
    return spans


def load_sums(connection: sqlite3.Connection, state: State, known: Sums | None, known_from: int, known_to: int) -> Sums:
    """The checksums of the vectors ``state.first`` to ``state.vectors``.

    Args:
        connection: in the transaction that ``state`` was read in; of format version 2.
        state: the counters.
        known: those of the vectors ``known_from`` to ``known_to``, which need not be read again.
        known_from: not above ``known_to``.
        known_to: not above ``state.vectors``.

    Raises:
        CorruptionError: the list has a gap or fails its own checksum.
    """
    if known is None or known_from > state.first or known_to < state.first:
        known, known_from, known_to = np.empty(0, dtype=np.uint64), state.first, state.first
    pieces = [known[state.first - known_from : known_to - known_from]]
    end = known_to
    # The first one may begin before: a batch is listed as long as one of its vectors counts.
    with unmapped(connection):
        for first, rows, blob, lineage, crc in connection.execute(_BATCHES, (end,)):
            check_batch(first, rows, blob, lineage, crc)
            if first + rows <= end:
                continue
            if first > end:
                break
            pieces.append(np.frombuffer(blob, dtype="<u8")[end - first :])
            end = first + rows
    if end != state.vectors:
        raise CorruptionError(f"the batches hold vectors up to {end}, expected {state.vectors}: {RESTORE}")
    return np.concatenate(pieces)


def check_batch(first: int, rows: int, sums: bytes, lineage: str, crc: int) -> None:
    """Hold an entry of the list of batches to its checksum."""
    found = batch_crc(first, rows, sums, lineage) if isinstance(sums, bytes) else None
    if found != crc or len(sums) != 8 * rows:
        raise CorruptionError(
            f"the batch of {rows} vectors from {first} on has checksum {found}, expected {crc}: {RESTORE}"
        )


def batch_crc(first: int, rows: int, sums: bytes, lineage: str) -> int:
    """CRC-32 of an entry of the list of batches."""
    return zlib.crc32(sums, zlib.crc32(f"{first} {rows} {lineage} ".encode()))


def last_lineage(connection: sqlite3.Connection, collection_id: str) -> str:
    """The lineage of the last batch."""
    found = connection.execute("SELECT lineage FROM batch ORDER BY first DESC LIMIT 1").fetchone()
    return collection_id if found is None else str(found[0])


def add_batch(connection: sqlite3.Connection, collection_id: str, first: int, sums: Sums) -> None:
    """List vectors that were written together."""
    blob = sums.astype("<u8").tobytes()
    before = last_lineage(connection, collection_id)
    # With chance in it: rows of the same vectors and other texts, written to a restored backup, are another history.
    lineage = hashlib.blake2b(f"{before} {first} ".encode() + blob + os.urandom(16), digest_size=16).hexdigest()
    crc = batch_crc(first, len(sums), blob, lineage)
    connection.execute("INSERT INTO batch VALUES (?, ?, ?, ?, ?)", (first, len(sums), blob, lineage, crc))


def drop_batches(connection: sqlite3.Connection, first: int) -> None:
    """Take those off the list of which no vector counts; the last one stays, for its lineage."""
    connection.execute(
        "DELETE FROM batch WHERE first < ? AND first + rows <= ? AND first < (SELECT max(first) FROM batch)",
        (first, first),
    )


def spans_to_keep(spans: Sequence[Span], first: int) -> list[Span]:
    """Those that hold a vector from ``first`` on, and the last one."""
    ends = [after.first for after in spans[1:]]
    return [span for span, end in zip(spans, ends, strict=False) if end > first] + list(spans[-1:])
