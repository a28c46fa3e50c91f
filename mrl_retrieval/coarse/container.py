"""A file of named arrays that is used where it is mapped: a line of JSON that says what is where, then the arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["read_arrays", "write_arrays"]

_ALIGNED = 64
_MAGIC = b"mrl-arrays 1\n"


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays of numbers to a new file."""
    described: list[tuple[str, str, tuple[int, ...]]] = [
        (name, array.dtype.newbyteorder("<").str, array.shape) for name, array in arrays.items()
    ]
    with path.open("xb") as file:
        file.write(_MAGIC + json.dumps(described).encode() + b"\n")
        for array in arrays.values():
            file.write(b"\0" * (-file.tell() % _ALIGNED))
            little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            file.write(little.reshape(-1).view(np.uint8).data)


def read_arrays(content: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
    """The arrays in the bytes of such a file, not copied.

    Raises:
        ValueError: it is no such file, or is cut off.
    """
    head = content[: len(_MAGIC)].tobytes()
    if head != _MAGIC:
        raise ValueError(f"it begins with {head!r}, expected {_MAGIC!r}")
    ends = np.flatnonzero(content[len(_MAGIC) : len(_MAGIC) + 65536] == ord("\n"))
    if not len(ends):
        raise ValueError("it does not say what it holds")
    at = len(_MAGIC) + int(ends[0]) + 1
    arrays = {}
    for name, dtype, shape in json.loads(content[len(_MAGIC) : at].tobytes()):
        kind = np.dtype(dtype)
        if kind.kind not in "iuf":
            raise ValueError(f"its array {name!r} is of type {dtype!r}")
        at += -at % _ALIGNED
        end = at + kind.itemsize * int(np.prod(shape, dtype=np.int64))
        if end > len(content):
            raise ValueError(f"it has {len(content)} bytes, and its array {name!r} ends at {end}")
        arrays[name] = content[at:end].view(kind).reshape(shape)
        at = end
    return arrays
