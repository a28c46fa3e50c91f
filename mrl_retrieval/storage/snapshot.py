"""What a reader sees: the collection as one commit left it, whatever is written meanwhile."""

from __future__ import annotations

import hashlib
import itertools
import json
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import CorruptionError, ManifestError
from mrl_retrieval.filters import And, Filter, IdIn, Not, Or
from mrl_retrieval.manifest import Manifest

from .query import CHUNK, FilterQuery, Mask, in_chunks, writable
from .segments import FineView, PositionArray

__all__ = ["MaskCache", "Snapshot", "State", "read_manifest"]

_STATE = "SELECT generation, vectors, bare, rows, coarse_dims, collection_id FROM state"
_ROW = "SELECT row, id, document, metadata FROM row WHERE row = ?"
_PLACES = ",".join("?" * CHUNK)
_ROWS = f"SELECT row, id, document, metadata FROM row WHERE row IN ({_PLACES})"  # noqa: S608 - only question marks
_IDS = f"SELECT row, id FROM row WHERE row IN ({_PLACES})"  # noqa: S608 - only question marks
_BY_ID = f"SELECT id, row FROM row WHERE id IN ({_PLACES})"  # noqa: S608 - only question marks
_PAGE = "SELECT row, id, document, metadata FROM row WHERE row > ? ORDER BY row LIMIT ?"
_PAGE_WITHOUT = "SELECT row, id, NULL, metadata FROM row WHERE row > ? ORDER BY row LIMIT ?"
_FEW = 50
_RESTORE = "restore the collection from a backup, or index it again"

StoredRow = tuple[int, str, str | None, str]


@dataclass(frozen=True, slots=True)
class State:
    """The counters of a collection after a commit."""

    generation: int
    """Goes up with every commit."""
    vectors: int
    """Vectors ever written: the end of the segments, and of the row numbers from 0."""
    bare: int
    """Rows without a vector ever written: the end of the row numbers from -1 downwards."""
    rows: int
    """Rows that are there."""
    coarse_dims: int
    collection_id: str

    @classmethod
    def read(cls, connection: sqlite3.Connection) -> State:
        """The state in the connection's transaction."""
        found = connection.execute(_STATE).fetchone()
        if found is None:
            raise CorruptionError(f"the database has no row in its table 'state', expected one: {_RESTORE}")
        return cls(*found)


def read_manifest(connection: sqlite3.Connection) -> Manifest:
    """The stored manifest in the connection's transaction."""
    found = connection.execute("SELECT value FROM meta WHERE key = 'manifest'").fetchone()
    if found is None:
        raise ManifestError(f"the database has no manifest, expected one: {_RESTORE}")
    return Manifest.loads(found[0])


class MaskCache:
    """The bitmaps of the filters used last, for one generation. Bounded in bytes."""

    def __init__(self, limit_bytes: int = 64 * 2**20) -> None:
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._of: tuple[str, int] = ("", -1)
        self._masks: OrderedDict[str, Mask] = OrderedDict()
        self._bytes = 0

    def get(self, state: State, key: str) -> Mask | None:
        """The mask of a filter in this state, if it is known."""
        with self._lock:
            if self._of != (state.collection_id, state.generation) or key not in self._masks:
                return None
            self._masks.move_to_end(key)
            return self._masks[key]

    def put(self, state: State, key: str, mask: Mask) -> None:
        """Keep a mask, and forget those of other generations."""
        with self._lock:
            if self._of != (state.collection_id, state.generation):
                self._of = (state.collection_id, state.generation)
                self._masks.clear()
                self._bytes = 0
            if key not in self._masks and mask.nbytes <= self._limit // 4:
                self._masks[key] = mask
                self._bytes += mask.nbytes
            while self._bytes > self._limit:
                self._bytes -= self._masks.popitem(last=False)[1].nbytes


class Snapshot:
    """One commit of a collection, for reading. Made by :meth:`Store.snapshot`, valid within its ``with``."""

    def __init__(self, connection: sqlite3.Connection, state: State, fine: FineView, masks: MaskCache) -> None:
        self.state = state
        self.fine = fine
        """The stored vectors. May hold more than ``state.vectors``."""
        self._connection = connection
        self._masks = masks

    def manifest(self) -> Manifest:
        """The manifest of this commit.

        Raises:
            ManifestError: it is damaged.
        """
        return read_manifest(self._connection)

    # -- which rows ----------------------------------------------------------------------------------------

    def mask(self, filter: Filter | None) -> Mask:
        """Which rows match: ``(bare + vectors,)`` bool, read-only; place ``i`` is row number ``i - bare``.

        ``filter`` must be one that :func:`~mrl_retrieval.storage.query.can_query` accepts.

        Raises:
            FilterError: an order operator meets a stored value of another type.
        """
        # Not by the filter itself: as dataclasses, the filters for 1 and for True are equal.
        key = "" if _has_ids(filter) else repr(filter)
        mask = self._masks.get(self.state, key) if key else None
        if mask is None:
            mask = FilterQuery(self._connection, self.state.bare, self.state.vectors).mask(filter)
            mask.flags.writeable = False
            if key:
                self._masks.put(self.state, key, mask)
        return mask

    def tombstones(self, after_generation: int) -> PositionArray:
        """Row numbers removed after a generation, of rows with a vector."""
        found = self._connection.execute(
            "SELECT row FROM tombstone WHERE generation > ? AND row >= 0", (after_generation,)
        )
        return np.fromiter(itertools.chain.from_iterable(found), dtype=np.int64)

    def rows_of_ids(self, ids: Sequence[str]) -> dict[str, int]:
        """Row numbers of those ids that are there."""
        try:
            return dict(self._chunked(_BY_ID, ids))
        except UnicodeEncodeError:
            return dict(self._chunked(_BY_ID, list(writable(ids))))

    def lineage(self, vectors: int) -> str:
        """A digest of how the first ``vectors`` vectors were written: equal only for the same vectors."""
        digest = hashlib.blake2b(self.state.collection_id.encode(), digest_size=16)
        for batch in self._connection.execute(
            "SELECT first, rows, crc32 FROM batch WHERE first < ? ORDER BY first", (vectors,)
        ):
            digest.update(b"%d %d %d\n" % batch)
        return digest.hexdigest()

    # -- what is in them -----------------------------------------------------------------------------------

    def ids(self, rows: PositionArray) -> list[str]:
        """Ids of existing rows, parallel to their numbers."""
        found = dict(self._chunked(_IDS, rows.tolist()))
        return [found[row] for row in rows.tolist()]

    def stored(self, rows: PositionArray) -> dict[int, StoredRow]:
        """Number, id, document and metadata (JSON) of existing rows, by number."""
        numbers = rows.tolist()
        if len(numbers) <= _FEW:
            each = (self._connection.execute(_ROW, (row,)).fetchone() for row in numbers)
            return {found[0]: found for found in each if found is not None}
        return {found[0]: found for found in self._chunked(_ROWS, numbers)}

    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        """Rows in the asked order, None where unknown."""
        numbers = self.rows_of_ids(list(dict.fromkeys(ids)))
        unique = np.fromiter(numbers.values(), dtype=np.int64, count=len(numbers))
        stored = self.stored(unique)
        matrix, at = self._vectors_of(unique) if vectors else (None, {})
        out: list[Row | None] = []
        for asked in ids:
            row = numbers.get(asked)
            if row is None:
                out.append(None)
                continue
            _, _, document, metadata = stored[row]
            vector = matrix[at[row]].copy() if matrix is not None and row in at else None
            out.append(Row(asked, document, json.loads(metadata), vector))
        return out

    def batches(self, filter: Filter | None, *, vectors: bool, documents: bool, batch_size: int) -> Iterator[RowBatch]:
        """Every row that matches, once each, by row number."""
        for stored in self._pages(filter, documents, batch_size):
            numbers = np.array([row[0] for row in stored], dtype=np.int64)
            matrix = None
            if vectors:
                matrix = np.zeros((len(stored), self.fine.layout.dims), dtype=np.float32)
                there = np.flatnonzero(numbers >= 0)
                if len(there):
                    matrix[there] = self.fine.gather(numbers[there])
            yield RowBatch(
                ids=[row[1] for row in stored],
                documents=[row[2] for row in stored],
                metadatas=[json.loads(row[3]) for row in stored],
                vectors=matrix,
                has_vector=numbers >= 0,
            )

    def verify(self) -> int:
        """Compare everything with its checksums; see :meth:`Store.verify`."""
        problems = [text for (text,) in self._connection.execute("PRAGMA integrity_check(3)") if text != "ok"]
        if problems:
            raise CorruptionError(f"SQLite finds the database damaged ({problems[0]}), expected 'ok': {_RESTORE}")
        end = 0
        for first, rows, expected in self._connection.execute("SELECT first, rows, crc32 FROM batch ORDER BY first"):
            if first != end:
                raise CorruptionError(f"a batch of vectors begins at {first}, expected {end}: {_RESTORE}")
            end = first + rows
            if end <= self.state.vectors and (found := self.fine.crc32(first, end)) != expected:
                raise CorruptionError(
                    f"vectors {first} to {end - 1} have checksum {found:#010x}, expected {expected:#010x}: {_RESTORE}"
                )
        if end != self.state.vectors:
            raise CorruptionError(f"the batches hold {end} vectors, expected {self.state.vectors}: {_RESTORE}")
        (rows,) = self._connection.execute("SELECT count(*) FROM row").fetchone()
        alive = int(np.count_nonzero(self.mask(None)))
        if not rows == alive == self.state.rows:
            raise CorruptionError(
                f"there are {rows} rows, and {alive} without a tombstone, expected {self.state.rows}: {_RESTORE}"
            )
        return end

    def _pages(self, filter: Filter | None, documents: bool, batch_size: int) -> Iterator[list[StoredRow]]:
        if filter is None:
            last, statement = -self.state.bare - 1, _PAGE if documents else _PAGE_WITHOUT
            while page := self._connection.execute(statement, (last, batch_size)).fetchall():
                yield page
                last = page[-1][0]
            return
        rows = np.flatnonzero(self.mask(filter)) - self.state.bare
        for start in range(0, len(rows), batch_size):
            found = self.stored(rows[start : start + batch_size])
            yield [found[row] for row in sorted(found)]

    def _vectors_of(self, rows: PositionArray) -> tuple[npt.NDArray[np.float32], dict[int, int]]:
        positions = rows[rows >= 0]
        if not len(positions):
            return np.empty((0, self.fine.layout.dims), dtype=np.float32), {}
        return self.fine.gather(positions), {row: i for i, row in enumerate(positions.tolist())}

    def _chunked(self, statement: str, values: Sequence[str] | Sequence[int]) -> Iterator[tuple[Any, ...]]:
        for chunk in in_chunks(values):
            yield from self._connection.execute(statement, chunk).fetchall()


def _has_ids(filter: Filter | None) -> bool:
    """Whether an allow-list of ids is in the tree: those are made for one search and long."""
    if isinstance(filter, (And, Or)):
        return any(map(_has_ids, filter.parts))
    return _has_ids(filter.part) if isinstance(filter, Not) else isinstance(filter, IdIn)
