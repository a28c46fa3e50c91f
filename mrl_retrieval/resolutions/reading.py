"""Reading stored resolutions: ``load_resolution``, ``load_rows``, ``verify_resolutions``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mrl_retrieval.documents import Row
from mrl_retrieval.errors import CorruptionError, DimensionError, InvalidInput
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.settings import check_positive

from . import contents as layout
from .contents import Contents, vector_file
from .mapped import MappedRows
from .row_log import lines

__all__ = ["Resolution", "load_resolution", "load_rows", "load_verified", "verify_resolutions"]

T = TypeVar("T")


class Resolution:
    """The rows of one length, mapped into memory: what is asked for is read, checked and decoded to float32.

    ``r[3]`` is a row; ``r[10:20]``, ``r[[5, 3]]`` and ``r[mask]`` are some; ``r.array()`` or ``numpy.asarray(r)`` all.
    Rows are unit vectors up to the rounding of float16 (about 5e-4), or zero. What is published later is not seen.
    Thread-safe.
    """

    def __init__(self, mapped: MappedRows) -> None:
        self._mapped = mapped
        self.shape = mapped.shape
        self.dim = mapped.shape[1]
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> FloatArray:
        """Rows, decoded: ``(dim,)`` for a number, else ``(n, dim)``.

        Raises:
            IndexError: a number is out of range, as the protocol of sequences wants it.
            InvalidInput: it is neither a number, nor a slice, nor a list of numbers, nor a mask of all rows.
            CorruptionError: a row is not as it was written.
        """
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return self._mapped.part(start, max(start, stop)).astype(np.float32)
            index = np.arange(start, stop, step)
        numbers = np.asarray(index)
        if numbers.size == 0 and numbers.dtype.kind == "f":  # an empty list
            numbers = numbers.astype(np.int64)
        if numbers.dtype == np.bool_ and numbers.shape == (len(self),):
            numbers = np.flatnonzero(numbers)
        if numbers.dtype.kind not in "iu" or numbers.ndim > 1:
            raise InvalidInput(
                f"rows are picked by a number, a slice, a list of numbers or a mask of {len(self)}, not by {index!r}"
            )
        wrong = (numbers < -len(self)) | (numbers >= len(self))
        if wrong.any():
            raise IndexError(f"row {int(numbers[wrong][0] if numbers.ndim else numbers)} of {len(self)} rows")
        wanted = np.where(numbers < 0, numbers + len(self), numbers).astype(np.int64)
        rows: FloatArray = self._mapped.take(np.atleast_1d(wanted)).astype(np.float32)
        return rows if numbers.ndim else rows[0]

    def __iter__(self) -> Iterator[FloatArray]:
        for batch in self.batches():
            yield from batch

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("rows are decoded from float16, which makes a copy")
        return self.array() if dtype is None else self.array().astype(dtype)

    def __repr__(self) -> str:
        return f"Resolution({self.shape[0]} rows, {self.dim} dims)"

    def array(self) -> FloatArray:
        """All rows: ``(N, dim)``."""
        return self[:]

    def batches(self, size: int = 4096) -> Iterator[FloatArray]:
        """All rows, in order, at most ``size`` at a time."""
        for start in range(0, len(self), check_positive(size, "size")):
            yield self[start : start + size]

    def verify(self) -> None:
        """Compare the whole file with its checksums.

        Raises:
            CorruptionError: something is not as it was written.
        """
        self._mapped.verify()


def load_resolution(folder: str | Path, dim: int | None = None) -> Resolution:
    """The stored rows of one length; reads nothing but the manifest and a header yet.

    Args:
        folder: what :func:`save_multi_resolution` or ``mrl embed`` wrote.
        dim: one of the stored lengths; None: the full one.

    Raises:
        CollectionNotFound, NotACollection: there are no stored vectors.
        DimensionError: not of this length; the message names those that there are.
        CorruptionError, ManifestError: they are damaged.
    """

    return _current(folder, lambda contents: _resolution(folder, contents, dim))


def load_rows(folder: str | Path) -> Iterator[Row]:
    """Ids, documents and metadata in the order of the vectors, one at a time; ``row.vector`` is None.

    What is published later is not seen.

    Raises:
        CollectionNotFound, NotACollection: there are no stored vectors.
        CorruptionError, ManifestError: they are damaged.
    """
    return _current(folder, lambda contents: _rows(folder, contents))


def load_verified(folder: str | Path) -> tuple[Contents, Resolution, Iterator[Row]]:
    """Rows of full length and what stands beside them, both of one publishing, which was compared whole as
    :func:`verify_resolutions` does; the same errors."""

    def load(contents: Contents) -> tuple[Contents, Resolution, Iterator[Row]]:
        opened = _resolution(folder, contents, None), _rows(folder, contents)
        _verify(folder, contents)
        return contents, *opened

    return _current(folder, load)


def verify_resolutions(folder: str | Path) -> Contents:
    """Compare everything that is stored with its checksums; what the folder holds.

    Raises:
        CollectionNotFound, NotACollection: there are no stored vectors.
        CorruptionError, ManifestError: something is not as it was written.
    """
    return _current(folder, lambda contents: _verify(folder, contents))


def _verify(folder: str | Path, contents: Contents) -> Contents:
    for dim in contents.dims:
        _resolution(folder, contents, dim).verify()
    rows = sum(1 for _ in _rows(folder, contents))
    if rows != contents.rows:
        raise CorruptionError(f"{folder} holds {contents.rows:,} vectors and {rows:,} ids; write it again")
    return contents


def _resolution(folder: str | Path, contents: Contents, dim: int | None) -> Resolution:
    wanted = contents.dim if dim is None else dim
    if isinstance(wanted, bool) or wanted not in contents.vectors:
        there = ", ".join(map(str, contents.dims))
        raise DimensionError(f"{folder} holds no rows of {wanted!r} dims; those that it holds: {there}")
    path = Path(folder).expanduser() / contents.data / vector_file(int(wanted))
    return Resolution(MappedRows(path, contents.rows, int(wanted), contents.vectors[int(wanted)]))


def _rows(folder: str | Path, contents: Contents) -> Iterator[Row]:
    found = lines(Path(folder).expanduser() / contents.data / layout.ROWS, contents.log)
    return (entry for entry in found if isinstance(entry, Row))


def _current(folder: str | Path, use: Callable[[Contents], T]) -> T:
    """What ``use`` makes of the manifest; again where another one was published, and its files removed, meanwhile."""
    place = Path(folder).expanduser()
    contents = layout.found(place)
    while True:
        try:
            return use(contents)
        except CorruptionError:
            now = layout.found(place)
            if now.data == contents.data:
                raise
            contents = now
