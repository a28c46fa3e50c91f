"""A copy of the rows, with their documents, in a file that is read where it lies: for the hits of searches.

Ten rows of a million take SQLite 30 to 40 µs, mostly to find them; here each has its place. It is a cache, and nothing
is believed of it that does not fit the store: a row keeps its number for life and never changes, so a record with the
right number and checksum is the row. Rows without a vector are not in it, since no search finds them.

``rows.copy`` has a header of 128 bytes; the records, each at a multiple of 8 bytes (see
:data:`~mrl_retrieval.kernels.records.HEAD_BYTES`); and where each begins, for all numbers from ``first`` to ``end``,
those of no row included, whose records are empty.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from mrl_retrieval.kernels import available

from .checks import Sums, multipliers
from .files import CollectionFiles, os_errors, publish, temporary
from .segments import PositionArray

if TYPE_CHECKING:
    from .snapshot import Snapshot, StoredRow

__all__ = ["CopyInUse", "RowCopy", "RowTexts", "save"]

logger = logging.getLogger(__name__)

_MAGIC = b"MRLROWS\n"
_VERSION = 1
# Magic, version, collection, lineage of the vectors that are covered, the first number, the end, bytes of records.
_HEADER = struct.Struct("<8sI16s32sqqQ")
_HEADER_BYTES = 128
_HEAD = struct.Struct("<QqqIIiI")
_WORDS = 1024
_ROOM = 1 << 16
_PAGE_ROWS, _PAGE_BYTES = 500, 4 * 2**20
_LOOK_SECONDS = 1.0


class RowTexts(NamedTuple):
    """What some rows say."""

    ids: list[str]
    documents: list[str | None]
    metadatas: list[str]
    """JSON."""


class DamagedCopy(Exception):
    """The file is not as it was written. Nobody outside sees this: the rows come from the database then."""


@dataclass(frozen=True, slots=True)
class RowCopy:
    """The rows with the numbers ``first`` to ``end``."""

    first: int
    end: int
    rows: int
    """How many of the numbers had a row."""
    mapped: mmap.mmap
    _records: npt.NDArray[np.uint8]
    _bounds: npt.NDArray[np.uint64]

    def texts(self, numbers: PositionArray, sums: Sums, sums_from: int) -> RowTexts | None:
        """Rows in the asked order; None: one of them is not covered, or was gone when the file was written.

        Args:
            numbers: (n,) of the rows.
            sums: the checksums of the vectors from the number ``sums_from`` on.
            sums_from: see there.

        Raises:
            DamagedCopy: one of them is not as it was written.
        """
        from mrl_retrieval.kernels.records import ABSENT, gather

        if self.mapped.size() < len(self.mapped):  # touching what is not there would kill the process
            raise DamagedCopy(f"somebody cut it off at {self.mapped.size()} of {len(self.mapped)} bytes")
        room = _ROOM
        places = np.empty((len(numbers), 4), dtype=np.int64)
        where = self._records, self._bounds, self.first, numbers, sums, sums_from, multipliers(_WORDS)
        while True:
            out = np.empty(room, dtype=np.uint8)
            end = gather(*where, out, places)
            if end <= room:
                break
            room = end
        if end == ABSENT:
            return None
        if end < 0:
            raise DamagedCopy(f"the record of row {numbers[-1 - end]} is not as it was written")
        text, at = out[:end].tobytes().decode(), places.tolist()
        return RowTexts(
            [text[a:b] for a, b, _, _ in at],
            [text[c:d] if d >= 0 else None for _, _, c, d in at],
            [text[b:c] for _, b, c, _ in at],
        )

    @staticmethod
    def load(snapshot: Snapshot, files: CollectionFiles) -> RowCopy | None:
        """The copy in the file; None where there is none, or one that is of no use for this snapshot.

        Raises:
            DamagedCopy: the file is damaged, or does not belong to the store.
        """
        state = snapshot.state
        try:
            with files.row_copy.open("rb") as file:
                header = file.read(_HEADER_BYTES)
                size = os.fstat(file.fileno()).st_size
                found = _told(header)
                if found is None:
                    raise DamagedCopy("its header is damaged, or of another version")
                collection, lineage, first, end, record_bytes = found
                if collection != _fingerprint(state.collection_id):
                    raise DamagedCopy("it is of another collection")
                if end <= state.first or end > state.vectors:
                    return None  # all that it covers was compacted away, or it is newer than this snapshot
                if lineage != _lineage(snapshot, end):
                    raise DamagedCopy(f"the rows up to {end} had another history than those stored")
                at = _HEADER_BYTES + record_bytes
                if size != at + 8 * (end - first + 1):
                    raise DamagedCopy(f"it has {size} bytes, expected {at + 8 * (end - first + 1)}")
                mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DamagedCopy(f"it cannot be read: {error}") from error
        content = np.frombuffer(mapped, dtype=np.uint8)
        bounds = content[at:].view("<u8")
        rows = int(np.count_nonzero(bounds[1:] != bounds[:-1]))
        return RowCopy(first, end, rows, mapped, content[_HEADER_BYTES:at], bounds)


class _Found(NamedTuple):
    """What the last look found."""

    key: tuple[int, str, int] | None = None
    """Epoch, collection and generation of the snapshot that was asked for."""
    file: _FileIdentity | None = None
    copy: RowCopy | None = None
    """Of that file, as far as it is of use for that snapshot."""
    refused: _FileIdentity | None = None
    """A file that no snapshot of this collection can use."""
    looked: float = 0.0


class CopyInUse:
    """The copy that searches of one collection read. Thread-safe."""

    def __init__(self, files: CollectionFiles) -> None:
        self._files = files
        self._found = _Found()

    def of(self, snapshot: Snapshot) -> RowCopy | None:
        """The copy for a snapshot; None: there is none that can be used. Looks for another file after each commit, and
        once a second as long as there is none, or one that lacks rows."""
        found, state = self._found, snapshot.state
        key = (snapshot.epoch, state.collection_id, state.generation)
        copy = found.copy
        if key == found.key:
            is_whole = copy is not None and copy.end >= state.vectors
            if is_whole or time.monotonic() < found.looked + _LOOK_SECONDS:
                return copy
        file = _identity(self._files.row_copy)
        kept = found if found.key is not None and key[:2] == found.key[:2] else _Found()
        refused = kept.refused
        if file is None or file == refused or not available() or snapshot.version == 1:
            copy = None
        elif file != kept.file or kept.copy is None:
            try:
                copy = RowCopy.load(snapshot, self._files)
            except DamagedCopy as error:
                copy, refused = None, file
                self._say(error)
        self._found = _Found(key, file, copy, refused, time.monotonic())
        return copy

    def look_again(self) -> None:
        """A file was written, or this object is not used any more: let go of what is mapped."""
        self._found = _Found()

    def covered(self, snapshot: Snapshot, numbers: PositionArray) -> PositionArray:
        """Those of some row numbers that the copy has a place for."""
        copy = self.of(snapshot)
        return numbers[:0] if copy is None else numbers[(numbers >= copy.first) & (numbers < copy.end)]

    def texts(self, snapshot: Snapshot, numbers: PositionArray) -> RowTexts | None:
        """Rows in the asked order; None: they are not all to be had."""
        copy, sums = self.of(snapshot), snapshot.fine.sums
        if copy is None or sums is None:
            return None
        try:
            return copy.texts(numbers, sums, snapshot.fine.first)
        except DamagedCopy as error:
            found = self._found
            if found.copy is copy:  # else somebody has found another one meanwhile
                self._found = found._replace(copy=None, refused=found.file)
                self._say(error)
            return None

    def _say(self, why: DamagedCopy) -> None:
        logger.warning(
            "%s is not used, %s; rows come from the database until it is made again", self._files.row_copy, why
        )


_FileIdentity = tuple[int, int, int]


def _identity(path: Path) -> _FileIdentity | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def save(snapshot: Snapshot, files: CollectionFiles, pause: Callable[[], None]) -> None:
    """Write the file, whole, in place of the one that is there. Others may write to the collection meanwhile.

    Args:
        snapshot: of the collection, of format version 2.
        files: where it lies.
        pause: called after each few rows; what it raises gives the work up.

    Raises:
        BackendError: the disk is full, or fails, or a writer has swept the unfinished file away; the file is as it was.
        CorruptionError: a row is not as it was written.
    """
    from mrl_retrieval.kernels.records import sign

    state = snapshot.state
    lengths = np.zeros(state.vectors - state.first + 1, dtype="<u8")
    written = temporary(files.row_copy)
    with os_errors(f"writing {files.row_copy}"):
        try:
            with written.open("xb") as file:
                file.write(bytes(_HEADER_BYTES))
                for page in snapshot.pages(_PAGE_ROWS, _PAGE_BYTES):
                    records = [_record(row) for row in page]
                    sizes = np.array([0, *map(len, records)], dtype=np.uint64)
                    data = np.frombuffer(b"".join(records), dtype=np.uint8).copy()
                    sign(data, np.cumsum(sizes), multipliers(_WORDS))
                    file.write(data.data)
                    lengths[np.array([row[0] for row in page]) - state.first + 1] = sizes[1:]
                    pause()
                _finish(file, snapshot, np.cumsum(lengths, dtype="<u8"))
            publish(written, files.row_copy)
        finally:
            written.unlink(missing_ok=True)


def _record(row: StoredRow) -> bytes:
    number, id, document, metadata, vector_sum, *_ = row
    texts = f"{id}{metadata}{document or ''}".encode()
    characters = -1 if document is None else len(document)
    head = _HEAD.pack(0, number, vector_sum or 0, len(id), len(metadata), characters, len(texts))
    return head + texts + bytes(-len(texts) % 8)


def _finish(file: IO[bytes], snapshot: Snapshot, bounds: npt.NDArray[np.uint64]) -> None:
    state = snapshot.state
    file.write(bounds.data)
    collection, lineage = _fingerprint(state.collection_id), _lineage(snapshot, state.vectors)
    told = _HEADER.pack(_MAGIC, _VERSION, collection, lineage, state.first, state.vectors, int(bounds[-1]))
    body = told.ljust(_HEADER_BYTES - 4, b"\0")
    file.seek(0)
    file.write(body + struct.pack("<I", zlib.crc32(body)))


def _told(header: bytes) -> tuple[bytes, bytes, int, int, int] | None:
    """Collection, lineage, first number, end and bytes of records, as a header has them; None: it is damaged."""
    if len(header) < _HEADER_BYTES or struct.pack("<I", zlib.crc32(header[:-4])) != header[-4:]:
        return None
    magic, version, collection, lineage, first, end, record_bytes = _HEADER.unpack_from(header)
    return (collection, lineage, first, end, record_bytes) if (magic, version) == (_MAGIC, _VERSION) else None


def _fingerprint(collection_id: str) -> bytes:
    return hashlib.blake2b(collection_id.encode(), digest_size=16).digest()


def _lineage(snapshot: Snapshot, end: int) -> bytes:
    return (snapshot.lineage(end) or "").encode().ljust(32, b"\0")
