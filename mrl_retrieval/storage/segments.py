"""Fine vectors in append-only files of bounded size, read through memory maps and held to their checksums.

Vectors have numbers that only go up. A segment file holds those from its span's ``first`` on, at the offset
``64 + (number - first) * row_bytes``; the database has the list of spans, and says which numbers count: what lies
beyond the last is the leftover of a writer that was killed, and is overwritten by the next one.
"""

from __future__ import annotations

import mmap
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mrl_retrieval.errors import CorruptionError
from mrl_retrieval.matryoshka import FloatArray

from .access import not_allowed
from .checks import Sums, vector_sums
from .files import os_errors, segment_name, sync_folder
from .records import HEADER_BYTES, Records, SegmentFormat, Span

__all__ = ["SEGMENT_BYTES", "FineView", "Part", "PositionArray", "Segments", "damaged"]

PositionArray = npt.NDArray[np.int64]

SEGMENT_BYTES = 256 * 2**20
_BLOCK = 8192


@dataclass(frozen=True, slots=True)
class Part:
    """The mapped vectors of one segment."""

    span: Span
    records: Records
    mapped: mmap.mmap
    path: Path


@dataclass(frozen=True, slots=True)
class FineView:
    """The stored vectors with the numbers ``first`` to ``vectors``, mapped for reading. Stays valid whatever is
    written, compacted or dropped meanwhile."""

    layout: SegmentFormat
    first: int
    vectors: int
    parts: tuple[Part, ...]
    starts: PositionArray
    """Where each part begins."""
    addresses: PositionArray
    """Where that is in memory."""
    sums: Sums | None
    """(vectors - first,) checksums; None in a collection of format version 1, which has none."""

    def gather(self, numbers: PositionArray) -> FloatArray:
        """The vectors with these numbers (n,), decoded: ``(n, dims)`` float32.

        Raises:
            CorruptionError: one is not as it was written.
        """
        return self.layout.decode(self.records(numbers))

    def records(self, numbers: PositionArray) -> Records:
        """The same, as they are stored."""
        if len(self.parts) == 1:
            part = self.parts[0]
            out: Records = np.take(part.records, numbers - part.span.first, axis=0)
        else:
            out = np.empty((len(numbers), self.layout.row_bytes), dtype=np.uint8)
            which = np.searchsorted(self.starts, numbers, side="right") - 1
            for i in np.unique(which):
                part, chosen = self.parts[i], np.flatnonzero(which == i)
                out[chosen] = np.take(part.records, numbers[chosen] - part.span.first, axis=0)
        if self.sums is not None:
            wrong = vector_sums(out) != self.sums[numbers - self.first]
            if wrong.any():
                raise self.wrong(int(numbers[np.flatnonzero(wrong)[0]]))
        return out

    def read(self, start: int, stop: int) -> FloatArray:
        """The vectors ``start`` to ``stop``, decoded: ``(stop - start, dims)`` float32.

        Raises:
            CorruptionError: one is not as it was written.
        """
        pieces = []
        for records, number in self.pieces(start, stop):
            for wrong in self.wrong_in(records, number):
                raise self.wrong(wrong)
            pieces.append(self.layout.decode(records))
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty((0, self.layout.dims), dtype=np.float32)

    def wrong_in(self, records: Records, number: int) -> list[int]:
        """The numbers of those of consecutive vectors, from ``number`` on, that are not as they were written."""
        if self.sums is None:
            return []
        wrong: list[int] = []
        for start in range(0, len(records), _BLOCK):
            block = records[start : start + _BLOCK]
            at = number + start - self.first
            differing = np.flatnonzero(vector_sums(block) != self.sums[at : at + len(block)])
            wrong += (differing + number + start).tolist()
        return wrong

    def crc32(self, start: int, stop: int) -> int:
        """CRC-32 of the stored bytes of the vectors ``start`` to ``stop``; what format version 1 has for a batch."""
        crc = 0
        for records, _ in self.pieces(start, stop):
            crc = zlib.crc32(np.ascontiguousarray(records).data, crc)
        return crc

    def pieces(self, start: int, stop: int) -> Iterator[tuple[Records, int]]:
        """The stored bytes of the vectors ``start`` to ``stop`` where they lie, and the number each piece begins at."""
        for part in self.parts:
            a, b = max(start, part.span.first), min(stop, part.span.first + len(part.records))
            if a < b:
                yield part.records[a - part.span.first : b - part.span.first], a

    def check_sizes(self) -> None:
        """Hold the mapped files to their sizes: reading a page beyond the end of a file kills the process.

        Raises:
            CorruptionError: somebody cut one off.
        """
        for part in self.parts:
            least = HEADER_BYTES + part.records.size
            if (size := part.mapped.size()) < least:
                raise damaged(part.path, f"has {size} bytes", f"at least {least}")

    def wrong(self, number: int) -> CorruptionError:
        """The error that says that a vector is not as it was written."""
        part = self.parts[int(np.searchsorted(self.starts, number, side="right")) - 1]
        at = HEADER_BYTES + (number - part.span.first) * self.layout.row_bytes
        return damaged(part.path, f"has another vector than was written at byte {at}", "one that fits its checksum")


class Segments:
    """The segment files of one collection."""

    def __init__(self, folder: Path, layout: SegmentFormat) -> None:
        self.layout = layout
        self._folder = folder
        self._lock = threading.Lock()
        self._view: FineView | None = None

    def path(self, number: int) -> Path:
        """The file of segment ``number``, from 1."""
        return self._folder / segment_name(number)

    def after_fork(self) -> None:
        """Forget a lock that a thread of the parent process held."""
        self._lock = threading.Lock()

    @property
    def latest(self) -> FineView | None:
        """The view made last."""
        return self._view

    def view(self, first: int, vectors: int, spans: Sequence[Span], sums: Sums | None) -> FineView:
        """Map the vectors ``first`` to ``vectors``, of which ``spans`` says where they are and ``sums`` what.

        Raises:
            CorruptionError: a file is missing, too short, or not what it should be.
        """
        with self._lock:
            known = {} if self._view is None else {part.span: part for part in self._view.parts}
            parts = []
            for i, span in enumerate(spans):
                stop = spans[i + 1].first if i + 1 < len(spans) else vectors
                if stop <= first or stop == span.first:
                    continue
                part = known.get(span)
                if part is None or len(part.records) != stop - span.first:
                    part = self._map(span, stop - span.first)
                parts.append(part)
            if first < vectors and (not parts or parts[0].span.first > first):
                raise CorruptionError(
                    f"the database lists no segment for vector {first}, expected one: restore the collection from a "
                    "backup, or repair it"
                )
            starts = np.array([part.span.first for part in parts], dtype=np.int64)
            addresses = np.array([part.records.ctypes.data for part in parts], dtype=np.int64)
            self._view = view = FineView(self.layout, first, vectors, tuple(parts), starts, addresses, sums)
            return view

    def append(self, last: Span | None, first: int, records: Records) -> list[Span]:
        """Write stored rows as the vectors from ``first`` on, which is the committed end, and make them durable.

        Whatever lay beyond the end is lost. Only the holder of the writer lock may call it.

        Args:
            last: the segment written to last.
            first: the number of the first of ``records``.
            records: what :meth:`SegmentFormat.encode` gives.

        Returns:
            The segments that were begun; the caller puts them on the list.
        """
        begun: list[Span] = []
        with os_errors(f"writing vectors to {self._folder}"):
            while len(records):
                if last is None or first - last.first >= self.layout.rows_per_segment:
                    last = self.begin(last, first)
                    begun.append(last)
                room = self.layout.rows_per_segment - (first - last.first)
                self._append(last, first - last.first, records[:room])
                first, records = first + room, records[room:]
        return begun

    def begin(self, last: Span | None, first: int) -> Span:
        """Make the file of a new segment, empty and durable."""
        span = Span(1 if last is None else last.number + 1, first)
        path = self.path(span.number)
        with os_errors(f"creating {path}"):
            if not self._folder.is_dir():
                self._folder.mkdir()
                sync_folder(self._folder.parent)
            # Never cut a file short that a reader may have mapped: a new one takes its name.
            path.unlink(missing_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                _write(fd, self.layout.header(span), 0)
                os.fsync(fd)
            finally:
                os.close(fd)
            sync_folder(self._folder)
        return span

    def remove_before(self, number: int) -> int:
        """Delete the files of segments below ``number``; those who have them mapped keep them. Returns the bytes."""
        freed = 0
        with os_errors(f"removing segments of {self._folder}"):
            for path in self._folder.glob("*.seg"):
                if path.stem.isdigit() and int(path.stem) < number:
                    freed += path.stat().st_size
                    path.unlink()
        return freed

    def _append(self, span: Span, offset: int, records: Records) -> None:
        path, end = self.path(span.number), HEADER_BYTES + offset * self.layout.row_bytes
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise damaged(path, "is missing", f"a segment of {offset} vectors") from error
        try:
            if (size := os.fstat(fd).st_size) < end:
                raise damaged(path, f"has {size} bytes", f"at least {end}")
            if size > end:
                os.ftruncate(fd, end)
            _write(fd, np.ascontiguousarray(records).data.cast("B"), end)
            os.fsync(fd)
        finally:
            os.close(fd)

    def _map(self, span: Span, rows: int) -> Part:
        path = self.path(span.number)
        try:
            with path.open("rb") as file:
                header = file.read(HEADER_BYTES)
                size = os.fstat(file.fileno()).st_size
                self._check_header(path, span, header)
                # Checked before mapping: touching a page beyond the end of a file kills the process.
                least = HEADER_BYTES + rows * self.layout.row_bytes
                if size < least:
                    raise damaged(path, f"has {size} bytes", f"at least {least} for its {rows} vectors")
                mapped = mmap.mmap(file.fileno(), least, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise damaged(path, "is missing", f"a segment with {rows} vectors") from error
        except PermissionError as error:
            raise not_allowed(f"reading {path}", path) from error
        except OSError as error:
            raise CorruptionError(f"{path} cannot be read: {error}; restore the collection from a backup") from error
        records = np.frombuffer(mapped, dtype=np.uint8, offset=HEADER_BYTES).reshape(rows, self.layout.row_bytes)
        return Part(span, records, mapped, path)

    def _check_header(self, path: Path, span: Span, header: bytes) -> None:
        difference = self.layout.difference(span, header)
        if difference is not None:
            raise damaged(path, *difference)


def damaged(path: Path, found: str, expected: str) -> CorruptionError:
    """The error for a segment file."""
    return CorruptionError(
        f"{path} {found}, expected {expected}: repair the collection, which keeps every document, or restore it from "
        "a backup"
    )


def _write(fd: int, content: bytes | memoryview, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
