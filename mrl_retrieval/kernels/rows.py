"""Cosines of stored vectors where they lie: read, held to their checksum and scored in one go, several on their way.

``mrl_retrieval/storage/scan.py`` has the same in NumPy, bit for bit: components are added in 64 lanes, and the lanes
in halves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.matryoshka import FloatArray

from .compiling import compiled
from .row_simd import float_sums, half_sums, halves, word_sum
from .simd import byte_at, float_at, prefetch

__all__ = ["FLOAT16", "FLOAT32", "INT8", "KINDS", "row_cosines"]

IntArray = npt.NDArray[Any]

FLOAT16, FLOAT32, INT8 = 0, 1, 2
KINDS = {"float16": FLOAT16, "float32": FLOAT32, "int8": INT8}

_WIDTH = 64
# Rows that are asked for ahead: a row of 1536 bytes takes about as long to arrive as three to be scored.
_AHEAD = 4


@compiled
def _whole_row(row: int, kind: int, dims: int, decoded: FloatArray) -> None:
    """Decode what the fast loops cannot: all of an int8 row, or the components beyond the last 64 of another."""
    decoded[:] = np.float32(0)
    if kind == INT8:
        scale = float_at(row + dims + (-dims) % 4)
        for i in range(dims):
            byte = byte_at(row + i)
            decoded[i] = np.float32(byte - 256 if byte > 127 else byte) * scale
    elif kind == FLOAT16:
        halves(row, dims, decoded.ctypes.data)
    else:
        for i in range(dims):
            decoded[i] = float_at(row + 4 * i)


@compiled
def _folded(lanes: FloatArray, start: int) -> np.float32:
    """The sum of 64 lanes, halved six times."""
    width = _WIDTH
    while width > 1:
        width //= 2
        for i in range(width):
            lanes[start + i] += lanes[start + i + width]
    return np.float32(lanes[start])


@compiled
def row_cosines(
    numbers: IntArray,
    starts: IntArray,
    bases: IntArray,
    row_bytes: int,
    kind: int,
    dims: int,
    full_dims: int,
    query: FloatArray,
    query_square: np.float32,
    multipliers: IntArray,
    sums: IntArray,
    out: FloatArray,
) -> int:
    """Scores of the vectors with these ``numbers`` (n,) over ``dims`` components, to ``out``.

    Args:
        numbers: ascending or not.
        starts: the number of the first vector of each mapped part.
        bases: the addresses of those.
        row_bytes: of a vector.
        kind: FLOAT16, FLOAT32 or INT8.
        dims: to score over.
        full_dims: of a stored vector.
        query: float32, zeros after ``dims`` up to a multiple of 64.
        query_square: ``<query, query>``.
        multipliers: of the checksum, one a 32-bit word.
        sums: (n,) checksums that the rows must have; empty: they have none.

    Returns:
        The place in ``numbers`` of the first row that is not as it was written; -1: none.
    """
    n = len(numbers)
    lanes = np.empty(2 * _WIDTH, np.float32)
    more = np.empty(2 * _WIDTH, np.float32)
    item = 2 if kind == FLOAT16 else 4
    whole = 0 if kind == INT8 else dims // _WIDTH * _WIDTH
    padded = len(query)
    decoded = np.zeros(max(padded - whole, 1) if kind != INT8 else max(padded, full_dims), np.float32)
    rows = np.empty(n, np.int64)
    for i in range(n):
        part = 0
        while part + 1 < len(starts) and starts[part + 1] <= numbers[i]:
            part += 1
        rows[i] = bases[part] + (numbers[i] - starts[part]) * row_bytes
    for i in range(min(_AHEAD, n)):
        for line in range(0, row_bytes, 64):
            prefetch(rows[i] + line)
    lanes_at, query_at = lanes.ctypes.data, query.ctypes.data
    for i in range(n):
        if i + _AHEAD < n:
            for line in range(0, row_bytes, 64):
                prefetch(rows[i + _AHEAD] + line)
        row = rows[i]
        if len(sums):
            found = word_sum(row, row_bytes // 4, multipliers.ctypes.data)
            if row_bytes % 4:
                last = np.uint64(0)
                for byte in range(row_bytes % 4):
                    last |= np.uint64(byte_at(row + row_bytes // 4 * 4 + byte)) << np.uint64(8 * byte)
                found += last * multipliers[row_bytes // 4]
            if found != sums[i]:
                return i
        if kind == FLOAT16:
            half_sums(row, whole, query_at, lanes_at)
        else:
            float_sums(row, whole, query_at, lanes_at)
        if whole < padded:
            if kind == INT8:
                _whole_row(row, kind, full_dims, decoded)
            else:
                _whole_row(row + whole * item, kind, dims - whole, decoded)
            for start in range(0, padded - whole, _WIDTH):
                for j in range(_WIDTH):
                    x = decoded[start + j]
                    lanes[j] += x * query[whole + start + j]
                    more[j] = x * x if whole + start + j < dims else np.float32(0)
                for j in range(_WIDTH):
                    lanes[_WIDTH + j] += more[j]
        dot, square = _folded(lanes, 0), _folded(lanes, _WIDTH)
        length = np.sqrt(square * query_square)
        out[i] = dot / length if length > 0 else np.float32(0)
    return -1
