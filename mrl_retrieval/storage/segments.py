"""Fine vectors in append-only files of bounded size, read through memory maps.

Vector number ``p`` lies in file ``p // rows_per_segment + 1``, at offset ``64 + (p % rows_per_segment) * row_bytes``,
and never moves or changes. How many vectors count is for the database to say: what lies beyond is the leftover of
a writer that was killed, and is overwritten by the next one.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.errors import CorruptionError, NewerFormatError
from mrl_retrieval.matryoshka import FloatArray

from .files import os_errors, sync_folder

__all__ = ["DTYPES", "FineView", "SegmentFormat", "Segments"]

PositionArray = npt.NDArray[np.int64]

DTYPES = {"float16": "<f2", "float32": "<f4"}
SEGMENT_BYTES = 256 * 2**20
_MAGIC = b"MRLSEG\r\n"
_VERSION = 1
# magic, version, dtype, dims, segment number, rows per segment, collection fingerprint
_FIELDS = struct.Struct("<8sI4sIIQ16s")
_HEADER_BYTES = 64


@dataclass(frozen=True, slots=True)
class SegmentFormat:
    """What every segment of a collection has in common."""

    dtype: str
    """``"float16"`` or ``"float32"``."""
    dims: int
    rows_per_segment: int
    collection_id: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one vector."""
        return self.dims * np.dtype(DTYPES[self.dtype]).itemsize

    def header(self, number: int) -> bytes:
        """The first 64 bytes of segment ``number`` (from 1)."""
        fingerprint = hashlib.blake2b(self.collection_id.encode(), digest_size=16).digest()
        fields = _FIELDS.pack(
            _MAGIC, _VERSION, DTYPES[self.dtype].encode(), self.dims, number, self.rows_per_segment, fingerprint
        )
        body = fields.ljust(_HEADER_BYTES - 4, b"\0")
        return body + struct.pack("<I", zlib.crc32(body))

    def encode(self, vectors: FloatArray) -> npt.NDArray[Any]:
        """The rows as they are stored."""
        return np.ascontiguousarray(vectors, dtype=DTYPES[self.dtype])


@dataclass(frozen=True, slots=True)
class FineView:
    """The first ``vectors`` stored vectors, mapped for reading. Stays valid while the store grows."""

    layout: SegmentFormat
    vectors: int
    parts: tuple[npt.NDArray[Any], ...]

    def gather(self, positions: PositionArray) -> FloatArray:
        """The vectors at ``positions`` (n,), decoded: ``(n, dims)`` float32."""
        if len(self.parts) == 1:
            return np.take(self.parts[0], positions, axis=0).astype(np.float32)
        number, offset = np.divmod(positions, self.layout.rows_per_segment)
        out = np.empty((len(positions), self.layout.dims), dtype=np.float32)
        for part in np.unique(number):
            chosen = np.flatnonzero(number == part)
            out[chosen] = np.take(self.parts[part], offset[chosen], axis=0)
        return out

    def read(self, start: int, stop: int) -> FloatArray:
        """The vectors ``start`` to ``stop``, decoded: ``(stop - start, dims)`` float32."""
        pieces = [part[a:b] for part, a, b in self._pieces(start, stop)]
        if len(pieces) == 1:
            return pieces[0].astype(np.float32)
        out = np.empty((stop - start, self.layout.dims), dtype=np.float32)
        return np.concatenate(pieces, out=out, casting="same_kind") if pieces else out

    def crc32(self, start: int, stop: int) -> int:
        """CRC-32 of the stored bytes of the vectors ``start`` to ``stop``."""
        crc = 0
        for part, a, b in self._pieces(start, stop):
            crc = zlib.crc32(np.ascontiguousarray(part[a:b]).data, crc)
        return crc

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[npt.NDArray[Any], int, int]]:
        each = self.layout.rows_per_segment
        while start < stop:
            number, offset = divmod(start, each)
            rows = min(each - offset, stop - start)
            yield self.parts[number], offset, offset + rows
            start += rows


class Segments:
    """The segment files of one collection."""

    def __init__(self, folder: Path, layout: SegmentFormat) -> None:
        self.layout = layout
        self._folder = folder
        self._lock = threading.Lock()
        self._view = FineView(layout, 0, ())

    def path(self, number: int) -> Path:
        """The file of segment ``number``, from 1."""
        return self._folder / f"{number:06d}.seg"

    def after_fork(self) -> None:
        """Forget a lock that a thread of the parent process held."""
        self._lock = threading.Lock()

    def view(self, vectors: int) -> FineView:
        """Map the first ``vectors`` vectors, or more.

        Raises:
            CorruptionError: a file is missing, too short, or not what it should be.
        """
        view = self._view
        if view.vectors >= vectors:
            return view
        with self._lock:
            view, each = self._view, self.layout.rows_per_segment
            if view.vectors < vectors:
                complete = view.vectors // each  # parts that were full when they were mapped stay as they are
                mapped = (
                    self._map(number, min(each, vectors - (number - 1) * each))
                    for number in range(complete + 1, -(-vectors // each) + 1)
                )
                self._view = view = FineView(self.layout, vectors, (*view.parts[:complete], *mapped))
            return view

    def append(self, first: int, rows: npt.NDArray[Any]) -> None:
        """Write encoded ``rows`` at position ``first``, which is the committed end, and make them durable.

        Whatever lay beyond the end is lost. Only the holder of the writer lock may call it.
        """
        with os_errors(f"writing vectors to {self._folder}"):
            if not self._folder.is_dir():
                self._folder.mkdir()
                sync_folder(self._folder.parent)
            each = self.layout.rows_per_segment
            while len(rows):
                number, offset = divmod(first, each)
                self._append(number + 1, offset, rows[: each - offset])
                first, rows = first + (each - offset), rows[each - offset :]

    def _append(self, number: int, offset: int, rows: npt.NDArray[Any]) -> None:
        path, end = self.path(number), _HEADER_BYTES + offset * self.layout.row_bytes
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (0 if offset else os.O_CREAT), 0o666)
        try:
            if offset == 0:
                os.ftruncate(fd, 0)
                _write(fd, self.layout.header(number), 0)
            elif (size := os.fstat(fd).st_size) < end:
                raise self._damaged(path, f"has {size} bytes", f"at least {end}")
            else:
                os.ftruncate(fd, end)
            _write(fd, np.ascontiguousarray(rows).data.cast("B"), end)
            os.fsync(fd)
        finally:
            os.close(fd)
        if offset == 0:
            sync_folder(self._folder)

    def _map(self, number: int, rows: int) -> npt.NDArray[Any]:
        path = self.path(number)
        try:
            with path.open("rb") as file:
                header = file.read(_HEADER_BYTES)
                size = os.fstat(file.fileno()).st_size
                self._check_header(path, number, header)
                # Checked before mapping: touching a page beyond the end of a file kills the process.
                if size < (least := _HEADER_BYTES + rows * self.layout.row_bytes):
                    raise self._damaged(path, f"has {size} bytes", f"at least {least} for its {rows} vectors")
                mapped = np.memmap(
                    file,
                    dtype=DTYPES[self.layout.dtype],
                    mode="r",
                    offset=_HEADER_BYTES,
                    shape=(rows, self.layout.dims),
                )
        except FileNotFoundError as error:
            raise self._damaged(path, "is missing", f"a segment with {rows} vectors") from error
        except OSError as error:
            raise CorruptionError(f"{path} cannot be read: {error}; restore the collection from a backup") from error
        return mapped.view(np.ndarray)

    def _check_header(self, path: Path, number: int, header: bytes) -> None:
        expected = self.layout.header(number)
        if header == expected:
            return
        whole = len(header) == _HEADER_BYTES and struct.pack("<I", zlib.crc32(header[:-4])) == header[-4:]
        if not whole or header[:8] != _MAGIC:
            raise self._damaged(path, f"begins with {header[:16].hex()}", f"{expected[:16].hex()} and a valid checksum")
        found, wanted = _FIELDS.unpack_from(header), _FIELDS.unpack_from(expected)
        if found[1] > _VERSION:
            raise NewerFormatError(
                f"{path} has segment version {found[1]}, this library reads up to {_VERSION}: upgrade mrl-retrieval"
            )
        names = ("magic", "version", "dtype", "dims", "number", "rows per segment", "collection")
        name, a, b = next((n, a, b) for n, a, b in zip(names, found, wanted, strict=True) if a != b)
        raise self._damaged(path, f"is a segment with {name} {a!r}", repr(b))

    def _damaged(self, path: Path, found: str, expected: str) -> CorruptionError:
        return CorruptionError(
            f"{path} {found}, expected {expected}: restore the collection from a backup or index it again"
        )


def _write(fd: int, content: bytes | memoryview, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
