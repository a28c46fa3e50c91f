"""What a reader sees: the collection as one commit left it, whatever is written meanwhile."""

from __future__ import annotations

import hashlib
import itertools
import json
import mmap
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.documents import Metadata, Row, RowBatch
from mrl_retrieval.errors import CorruptionError
from mrl_retrieval.filters import Filter
from mrl_retrieval.manifest import Manifest

from . import attachments
from .checks import are_sound
from .database import RESTORE, unmapped
from .masks import MaskCache, mask_key
from .query import CHUNK, CheckedPaths, FilterQuery, Mask, in_chunks, writable
from .row_copy import CopyInUse, RowTexts
from .segments import FineView, PositionArray
from .state import State, read_manifest

__all__ = ["NotAtHand", "Snapshot", "StoredRow", "all_decoded", "decoded"]

_PLACES = ",".join("?" * CHUNK)
_BY_ID = f"SELECT id, row FROM row WHERE id IN ({_PLACES})"  # noqa: S608 - only question marks
_WHOLE = "row, id, document, metadata, vector_sum, document_crc32, crc32"
_HEAD = "row, id, NULL, metadata, vector_sum, document_crc32, crc32"
_WHOLE_1 = "row, id, document, metadata, NULL, NULL, NULL"
_HEAD_1 = "row, id, NULL, metadata, NULL, NULL, NULL"
_FEW = 50
_FEW_MISSING = 200
"""One search in twenty is done again for its ten hits where this part of all rows is missing in the copy."""
_RAW_DECODE = json.JSONDecoder().raw_decode

StoredRow = tuple[int, str, str | None, str, int | None, int | None, int]
"""Number, id, document, metadata (JSON); then the checksums of vector and document, and that of all these."""


class _Statements:
    """The statements that read rows, for one selection of columns."""

    def __init__(self, columns: str) -> None:
        self.few = [
            f"SELECT {columns} FROM row WHERE row IN ({','.join('?' * count)})"  # noqa: S608 - fixed names
            for count in range(_FEW + 1)
        ]
        self.some = f"SELECT {columns} FROM row WHERE row IN ({_PLACES})"  # noqa: S608 - fixed names, question marks
        self.page = f"SELECT {columns} FROM row WHERE row > ? ORDER BY row LIMIT ?"  # noqa: S608 - fixed names


# By format version: whole rows, and rows without their document.
_READ = {1: (_Statements(_WHOLE_1), _Statements(_HEAD_1)), 2: (_Statements(_WHOLE), _Statements(_HEAD))}


class NotAtHand(Exception):
    """What was asked of a snapshot without a database is in the database. Begin a transaction, and ask again."""


class Snapshot:
    """One commit of a collection, for reading. Made by :meth:`Store.snapshot`, valid within its ``with``."""

    def __init__(
        self,
        connection: sqlite3.Connection | None,
        version: int,
        state: State,
        fine: FineView,
        masks: MaskCache,
        paths: CheckedPaths | None,
        copy: CopyInUse,
        epoch: int,
    ) -> None:
        self.version = version
        """The format version of the database; 1 has no checksums of rows."""
        self.state = state
        self.fine = fine
        """The stored vectors."""
        self._open = connection
        self._masks = masks
        self._paths = paths
        self._copy = copy
        self.epoch = epoch
        """Goes up when another file is found where the database was: equal generations may then be other commits."""
        self._whole, self._head = _READ[version]

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._open is None:
            raise NotAtHand
        return self._open

    def without_database(self) -> Snapshot:
        """The same for ever, as far as it can be had without the database: what else is asked of it raises
        :class:`NotAtHand`."""
        return Snapshot(None, self.version, self.state, self.fine, self._masks, self._paths, self._copy, self.epoch)

    def manifest(self) -> Manifest:
        """The manifest of this commit.

        Raises:
            ManifestError: it is damaged.
        """
        return read_manifest(self._connection)

    def attachment(self, name: str) -> str | None:
        """An attachment as it is stored in this commit, unchecked; None where there is none of this name."""
        return attachments.read(self._connection, name)

    # -- which rows ----------------------------------------------------------------------------------------

    def mask(self, filter: Filter | None) -> Mask:
        """Which rows match: ``(state.window,)`` bool, read-only: first the places of rows without a vector, then those
        of the vectors from ``state.first`` on.

        ``filter`` must be one that :func:`~mrl_retrieval.storage.query.can_query` accepts.

        Raises:
            FilterError: an order operator meets a stored value of another type.
            CorruptionError: the index that answers filters is damaged.
        """
        key = mask_key(filter)
        mask = None if key is None else self._masks.get(self.state, key)
        if mask is None:
            mask = FilterQuery(self._connection, self.state, self._paths).mask(filter)
            mask.flags.writeable = False
            if key is not None:
                self._masks.put(self.state, key, mask)
        return mask

    def vector_mask(self, filter: Filter | None) -> Mask:
        """The part of :meth:`mask` for vectors: ``(state.vectors - state.first,)``; place ``i`` is the vector
        ``state.first + i``."""
        return self.mask(filter)[self.state.bare_window :]

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

    def numbers_of(self, ids: Sequence[str]) -> dict[str, int]:
        """The same, each held to its row's checksum."""
        numbers = self.rows_of_ids(ids)
        stored = self._by_number(list(numbers.values()), documents=False)
        self._check_ids(numbers, stored)
        return numbers

    def lineage(self, vectors: int) -> str | None:
        """A digest of how the vectors below a number were written: equal only for the same vectors. None where no
        batch ends there."""
        if self.version == 1:
            return lineage_1(self._connection, self.state.collection_id, vectors)
        found = self._connection.execute(
            "SELECT lineage FROM batch WHERE first < ? AND first + rows = ? ORDER BY first DESC LIMIT 1",
            (vectors, vectors),
        ).fetchone()
        return None if found is None else str(found[0])

    # -- what is in them -----------------------------------------------------------------------------------

    def ids(self, rows: PositionArray) -> list[str]:
        """Ids of existing rows, parallel to their numbers."""
        numbers = rows.tolist()
        found = self._by_number(numbers, documents=False)
        return [found[number][1] for number in numbers]

    def texts(self, numbers: npt.ArrayLike) -> RowTexts:
        """What existing rows say, parallel to their numbers (n,).

        Raises:
            CorruptionError: one is not there, or not as it was written.
        """
        wanted: PositionArray = np.asarray(numbers, dtype=np.int64)
        found = self._copy.texts(self, wanted)
        if found is not None:
            return found
        at_hand = self._copy.covered(self, wanted)
        some = self._copy.texts(self, at_hand)
        by_number = {} if some is None else dict(zip(at_hand.tolist(), zip(*some, strict=True), strict=True))
        asked = wanted.tolist()
        missing = [number for number in asked if number not in by_number]
        by_number |= {row[0]: row[1:4] for row in self._rows(missing, documents=True)}
        rows = [by_number[number] for number in asked]
        return RowTexts([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])

    def has_all_texts(self) -> bool:
        """Whether :meth:`texts` needs no database for rows that have a vector, but for very few of them."""
        copy = None if self.version == 1 else self._copy.of(self)
        if copy is None or copy.first > self.state.first:
            return False
        return (self.state.vectors - copy.end) * _FEW_MISSING <= self.state.rows

    def mapped_files(self) -> list[mmap.mmap]:
        """The files that searches read where they lie: of the vectors, and of the copy of the rows."""
        copy = self._copy.of(self)
        return [part.mapped for part in self.fine.parts] + ([] if copy is None else [copy.mapped])

    def pages(self, most_rows: int, about_bytes: int) -> Iterator[list[StoredRow]]:
        """The rows that have a vector, by number, so many at a time, and about so many bytes.

        Raises:
            CorruptionError: one is not as it was written.
        """
        last, rows = self.state.first - 1, 1
        with unmapped(self._connection):
            while page := self._connection.execute(self._whole.page, (last, rows)).fetchall():
                self._check(page, documents=True)
                yield page
                last = page[-1][0]
                # The next rows are taken to be as long as these.
                held = sum(len(row[2] or "") + len(row[3]) for row in page) // len(page)
                rows = max(1, min(most_rows, 2 * rows, about_bytes // (held + 100)))

    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        """Rows in the asked order, None where unknown."""
        numbers = self.rows_of_ids(list(dict.fromkeys(ids)))
        unique = np.fromiter(numbers.values(), dtype=np.int64, count=len(numbers))
        stored = self._by_number(unique.tolist(), documents=True)
        self._check_ids(numbers, stored)
        matrix, at = self._vectors_of(unique) if vectors else (None, {})
        out: list[Row | None] = []
        for asked in ids:
            row = numbers.get(asked)
            if row is None:
                out.append(None)
                continue
            document, metadata = stored[row][2:4]
            vector = matrix[at[row]].copy() if matrix is not None and row in at else None
            out.append(Row(asked, document, decoded(metadata), vector))
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
                metadatas=[decoded(row[3]) for row in stored],
                vectors=matrix,
                has_vector=numbers >= 0,
            )

    def _pages(self, filter: Filter | None, documents: bool, batch_size: int) -> Iterator[list[StoredRow]]:
        if filter is None:
            last, read = -self.state.bare - 1, self._whole if documents else self._head
            count = 0
            while page := self._connection.execute(read.page, (last, batch_size)).fetchall():
                self._check(page, documents)
                yield page
                last = page[-1][0]
                count += len(page)
            if count != self.state.rows:
                raise CorruptionError(f"the database holds {count} rows, expected {self.state.rows}: {RESTORE}")
            return
        rows = self.numbers_at(np.flatnonzero(self.mask(filter)))
        for start in range(0, len(rows), batch_size):
            yield sorted(self._rows(rows[start : start + batch_size].tolist(), documents=documents))

    def numbers_at(self, places: npt.NDArray[np.intp]) -> PositionArray:
        """The row numbers at places of a :meth:`mask`."""
        state = self.state
        shift = np.where(places < state.bare_window, state.bare, state.bare_window - state.first)
        numbers: PositionArray = places - shift
        return numbers

    def _by_number(self, numbers: Sequence[int], *, documents: bool) -> dict[int, StoredRow]:
        return {row[0]: row for row in self._rows(numbers, documents=documents)}

    def _rows(self, numbers: Sequence[int], *, documents: bool) -> list[StoredRow]:
        read = self._whole if documents else self._head
        if len(numbers) <= _FEW:
            found = self._connection.execute(read.few[len(numbers)], numbers).fetchall()
        else:
            found = list(self._chunked(read.some, numbers))
        self._check(found, documents)
        if len(found) != len(numbers) and (missing := sorted(set(numbers) - {row[0] for row in found})):
            raise CorruptionError(f"the database has no row {missing[0]}, expected one: {RESTORE}")
        return found

    def _check(self, rows: Sequence[StoredRow], documents: bool) -> None:
        """Hold rows as they were read to their checksums."""
        if self.version > 1 and not are_sound(rows, self.fine.sums, self.fine.first, documents=documents):
            for row in rows:
                if not are_sound([row], self.fine.sums, self.fine.first, documents=documents):
                    raise CorruptionError(
                        f"row {row[0]} (id {str(row[1])[:80]!r}) is not as it was written, expected what fits its "
                        f"checksum: {RESTORE}"
                    )

    def _check_ids(self, numbers: dict[str, int], stored: dict[int, StoredRow]) -> None:
        for id, number in numbers.items():
            if stored[number][1] != id:
                raise CorruptionError(
                    f"the index of ids leads from {id[:80]!r} to {stored[number][1][:80]!r}: {RESTORE}"
                )

    def _vectors_of(self, rows: PositionArray) -> tuple[npt.NDArray[np.float32], dict[int, int]]:
        positions = rows[rows >= 0]
        if not len(positions):
            return np.empty((0, self.fine.layout.dims), dtype=np.float32), {}
        return self.fine.gather(positions), {row: i for i, row in enumerate(positions.tolist())}

    def _chunked(self, statement: str, values: Sequence[str] | Sequence[int]) -> Iterator[tuple[Any, ...]]:
        for chunk in in_chunks(values):
            yield from self._connection.execute(statement, chunk).fetchall()


def decoded(metadata: str) -> Metadata:
    """Metadata from their JSON, which is ours: `json.loads` takes three times as long for so short a text."""
    value, end = _RAW_DECODE(metadata)
    found: Metadata = value if end == len(metadata) else json.loads(metadata)
    return found


def all_decoded(metadatas: Sequence[str]) -> list[Metadata]:
    """The same of several at once, as one JSON list: two thirds of the time."""
    try:
        found: list[Metadata] = _RAW_DECODE(f"[{','.join(metadatas)}]")[0]
    except ValueError:
        found = []
    return found if len(found) == len(metadatas) else [decoded(metadata) for metadata in metadatas]


def lineage_1(connection: sqlite3.Connection, collection_id: str, vectors: int) -> str:
    """The lineage as format version 1 has it: a digest over the batches below a number."""
    digest = hashlib.blake2b(collection_id.encode(), digest_size=16)
    for batch in connection.execute("SELECT first, rows, crc32 FROM batch WHERE first < ? ORDER BY first", (vectors,)):
        digest.update(b"%d %d %d\n" % batch)
    return digest.hexdigest()
