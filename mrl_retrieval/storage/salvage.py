"""Reading what can still be read of a damaged collection: rows past broken pages, vectors that fit their checksums."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrl_retrieval.errors import CorruptionError, MRLError
from mrl_retrieval.manifest import Manifest

from .attachments import SETTINGS, is_attachment
from .checks import row_crc, text_crc, vector_sums
from .database import SCHEMA_VERSION
from .files import CollectionFiles
from .marker import load_copy
from .records import HEADER_BYTES, SegmentFormat, Span
from .state import State

__all__ = ["SalvagedRow", "VectorFiles", "layout_of", "read_meta", "read_state", "rows", "rows_by_id"]

_ROWS_1 = "SELECT row, id, metadata, NULL, NULL, NULL, document FROM row"
_ROWS_2 = "SELECT row, id, metadata, vector_sum, document_crc32, crc32, document FROM row"
_PAGE_1 = f"{_ROWS_1} WHERE row > ? ORDER BY row LIMIT ?"
_PAGE_2 = f"{_ROWS_2} WHERE row > ? ORDER BY row LIMIT ?"
_PAGE_ROWS = 256


@dataclass(frozen=True, slots=True)
class SalvagedRow:
    """A row as it was read; ``sound`` where it fits its checksums."""

    row: int
    id: Any
    metadata: Any
    document: Any
    vector_sum: int | None
    sound: bool


def read_meta(connection: sqlite3.Connection, files: CollectionFiles) -> dict[str, str]:
    """What the collection is: from the database, or from the copy of it.

    Raises:
        CorruptionError: neither can be read.
    """
    with contextlib.suppress(sqlite3.Error, MRLError, KeyError, ValueError, TypeError):
        meta = dict(connection.execute(SETTINGS).fetchall())
        layout_of(meta, Manifest.loads(meta["manifest"]))
        return meta
    copy = load_copy(files.copy)
    if copy is not None:
        with contextlib.suppress(MRLError, KeyError, ValueError):
            layout_of(copy, Manifest.loads(copy["manifest"]))
            return {key: value for key, value in copy.items() if not is_attachment(key)}
    raise CorruptionError(
        f"{files.database} does not say any more what the collection is, nor does {files.copy}, expected one of them "
        "to. It cannot be repaired: restore it from a backup"
    )


def layout_of(meta: dict[str, str], manifest: Manifest) -> SegmentFormat:
    """How vectors are stored. Raises ValueError or KeyError where it is not said."""
    dtype, dims, each = meta["fine_dtype"], int(meta["fine_dims"]), int(meta["rows_per_segment"])
    layout = SegmentFormat(dtype, dims, each, manifest.collection_id)
    if dims != manifest.fine_dims or each < 1 or layout.row_bytes < 1:
        raise ValueError(f"{layout} does not fit the manifest")
    return layout


def read_state(connection: sqlite3.Connection) -> tuple[int, State | None]:
    """The format version, and the counters where they can be read."""
    version = SCHEMA_VERSION
    with contextlib.suppress(sqlite3.Error):
        columns = {name for _, name, *_ in connection.execute("PRAGMA table_info(row)")}
        version = SCHEMA_VERSION if "crc32" in columns else 1
    with contextlib.suppress(sqlite3.Error, MRLError):
        return version, State.read(connection, version)
    return version, None


def rows(connection: sqlite3.Connection, version: int, lowest: int, end: int) -> Iterator[SalvagedRow]:
    """Every row that can be read, once each, past pages that cannot.

    Args:
        connection: of which nobody else changes anything.
        version: of the format.
        lowest, end: between which the row numbers are.
    """
    seen: set[int] = set()
    for found in _readable(connection, version, lowest, end):
        if isinstance(found[0], int) and found[0] not in seen:
            seen.add(found[0])
            yield _judged(found, version)


def _readable(connection: sqlite3.Connection, version: int, lowest: int, end: int) -> Iterator[tuple[Any, ...]]:
    # In the order of the pages first: row numbers that were damaged are no guide.
    cursor = connection.execute(_ROWS_1 if version == 1 else _ROWS_2)
    try:
        while page := cursor.fetchmany(_PAGE_ROWS):
            yield from page
        return
    except sqlite3.Error:
        pass
    last, limit = lowest - 1, _PAGE_ROWS
    while last < end:
        try:
            page = connection.execute(_PAGE_1 if version == 1 else _PAGE_2, (last, limit)).fetchall()
        except sqlite3.Error:
            if limit == 1:
                last += 1
            limit = 1
            continue
        if not page:
            return
        yield from page
        last, limit = max(last + 1, min(page[-1][0], end)), min(2 * limit, _PAGE_ROWS)


def _judged(found: tuple[Any, ...], version: int) -> SalvagedRow:
    row, id, metadata, vector_sum, document_crc, crc, document = found
    try:
        sound = isinstance(id, str) and isinstance(json.loads(metadata), dict)
        sound = sound and (document is None or isinstance(document, str))
        if version > 1:
            sound = sound and row_crc(row, id, metadata, vector_sum, document_crc) == crc
            sound = sound and text_crc(document) == document_crc
    except (AttributeError, TypeError, ValueError):
        sound = False
    return SalvagedRow(row, id, metadata, document, vector_sum if sound else None, sound)


def rows_by_id(connection: sqlite3.Connection) -> dict[str, int]:
    """Row numbers by id, as far as the index of ids can be read: tells which rows are lost."""
    found: dict[str, int] = {}
    with contextlib.suppress(sqlite3.Error):
        for id, row in connection.execute("SELECT id, row FROM row INDEXED BY sqlite_autoindex_row_1"):
            found |= {id: row} if isinstance(id, str) and isinstance(row, int) and abs(row) < 2**40 else {}
    return found


class VectorFiles:
    """The segment files of a collection, read vector by vector, whatever is the matter with them."""

    def __init__(self, files: CollectionFiles, layout: SegmentFormat, connection: sqlite3.Connection) -> None:
        self.layout = layout
        self.last_number = 0
        """The highest number of a file."""
        self._open: dict[int, int] = {}
        spans: dict[int, int] = {}
        with contextlib.suppress(sqlite3.Error, TypeError):
            spans |= dict(connection.execute("SELECT number, first FROM segment").fetchall())
        for path in sorted(files.segments.glob("*.seg")) if files.segments.is_dir() else []:
            if not path.stem.isdigit():
                continue
            number = int(path.stem)
            self.last_number = max(self.last_number, number)
            with contextlib.suppress(OSError):
                self._open[number] = fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                if (span := layout.span_of(os.pread(fd, HEADER_BYTES, 0))) is not None and span.number == number:
                    spans[number] = span.first
                elif number not in spans:
                    spans[number] = (number - 1) * layout.rows_per_segment  # as in format version 1
        self._spans = [Span(number, spans[number]) for number in sorted(spans) if number in self._open]

    def close(self) -> None:
        """Close the files."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    @property
    def end(self) -> int:
        """Beyond every vector that was ever written, committed or not."""
        return max((span.first + self._room(span) for span in self._spans), default=0)

    def record(self, number: int) -> bytes | None:
        """A vector as it is stored, if there is one at all."""
        for span in reversed(self._spans):
            if span.first <= number < span.first + self._room(span):
                size, at = self.layout.row_bytes, HEADER_BYTES + (number - span.first) * self.layout.row_bytes
                with contextlib.suppress(OSError):
                    found = os.pread(self._open[span.number], size, at)
                    return found if len(found) == size else None
        return None

    def sound(self, number: int, expected: int | None) -> bytes | None:
        """The same, if it fits its checksum (signed; None: there is none to fit) and is finite."""
        record = self.record(number)
        if record is None:
            return None
        row = np.frombuffer(record, dtype=np.uint8)[None, :]
        if expected is not None and int(vector_sums(row).view(np.int64)[0]) != expected:
            return None
        return record if self.layout.finite(row)[0] else None

    def _room(self, span: Span) -> int:
        size = os.fstat(self._open[span.number]).st_size - HEADER_BYTES
        return min(max(0, size) // self.layout.row_bytes, self.layout.rows_per_segment)


def batches_1(connection: sqlite3.Connection, vectors: VectorFiles) -> set[int]:
    """The numbers of vectors of format version 1 that belong to a batch that fits its checksum."""
    sound: set[int] = set()
    with contextlib.suppress(sqlite3.Error):
        for first, count, expected in connection.execute("SELECT first, rows, crc32 FROM batch").fetchall():
            crc = 0
            for number in range(first, first + count):
                crc = zlib.crc32(vectors.record(number) or b"", crc)
            if crc == expected:
                sound.update(range(first, first + count))
    return sound


def folder_for(quarantine: Path) -> Path:
    """A new folder in the quarantine."""
    number = 1
    while (quarantine / f"{number:03d}").exists():
        number += 1
    return quarantine / f"{number:03d}"
