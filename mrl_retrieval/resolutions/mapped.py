"""A vector file in memory by mapping: what is read is compared with its checksums first, a block at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.errors import CorruptionError
from mrl_retrieval.storage.files import os_errors

from .block_sums import BLOCK, BlockSums
from .contents import HEADER_BYTES, npy_header

__all__ = ["MappedRows"]

HalfArray = npt.NDArray[np.float16]


class MappedRows:
    """The float16 rows of one file. A block is compared with its checksum when it is first read.

    Args:
        path: the file.
        rows, dim: what it must hold.
        sums: of its bytes after the header.
        finished: whether its header is written yet.

    Raises:
        CorruptionError: it is not there, or has another size or header.
    """

    def __init__(self, path: Path, rows: int, dim: int, sums: BlockSums, *, finished: bool = True) -> None:
        self._path, self._sums, self.shape = path, sums, (rows, dim)
        self._row_bytes = 2 * dim
        with os_errors(f"reading {path}"):
            try:
                size = path.stat().st_size
            except FileNotFoundError as error:
                raise _damaged(path, "it is not there") from error
            if size < HEADER_BYTES + sums.length or (finished and size > HEADER_BYTES + sums.length):
                raise _damaged(path, f"it has {size:,} bytes, expected {HEADER_BYTES + sums.length:,}")
            with path.open("rb") as file:
                if finished and file.read(HEADER_BYTES) != npy_header(rows, dim):
                    raise _damaged(path, f"its header does not say ({rows}, {dim}) float16")
            # An empty file cannot be mapped.
            self._bytes = (
                np.memmap(path, dtype=np.uint8, mode="r", offset=HEADER_BYTES, shape=(sums.length,))
                if sums.length
                else np.empty(0, dtype=np.uint8)
            )
        self._rows: HalfArray = self._bytes.view("<f2").reshape(rows, dim)
        self._checked = np.zeros(len(sums.sums), dtype=np.bool_)

    def part(self, start: int, stop: int) -> HalfArray:
        """Rows ``start`` to ``stop``, a view of the file.

        Raises:
            CorruptionError: a block of them is not as it was written.
        """
        if stop > start:
            self._check(start * self._row_bytes // BLOCK, (stop * self._row_bytes - 1) // BLOCK + 1)
        return self._rows[start:stop]

    def take(self, numbers: npt.NDArray[np.int64]) -> HalfArray:
        """Rows by number, each in range: ``(n, dim)``.

        Raises:
            CorruptionError: a block of them is not as it was written.
        """
        first = numbers * self._row_bytes // BLOCK
        last = (numbers * self._row_bytes + self._row_bytes - 1) // BLOCK
        for block in np.unique(np.concatenate([first, last])):
            self._check(int(block), int(block) + 1)
        for a, b in zip(first[last > first + 1], last[last > first + 1], strict=True):  # rows longer than a block
            self._check(int(a), int(b))
        taken: HalfArray = self._rows[numbers]
        return taken

    def verify(self) -> None:
        """Compare everything with its checksums once more.

        Raises:
            CorruptionError: something is not as it was written.
        """
        self._checked[:] = False
        self._check(0, len(self._checked))

    def _check(self, first: int, end: int) -> None:
        for number in range(first, end):
            if not self._checked[number]:
                if not self._sums.fits(number, self._bytes[number * BLOCK : (number + 1) * BLOCK]):
                    row = number * BLOCK // self._row_bytes
                    raise _damaged(self._path, f"the block of 1 MiB that begins in row {row:,} fails its checksum")
                self._checked[number] = True


def _damaged(path: Path, what: Any) -> CorruptionError:
    return CorruptionError(f"{path} is damaged: {what}; restore it from a backup, or write the vectors again")
