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
from .selecting import _least, _select
from .simd import byte_at, float_at, prefetch

__all__ = ["FLOAT16", "FLOAT32", "INT8", "KINDS", "best_rows", "row_cosines"]

IntArray = npt.NDArray[Any]

FLOAT16, FLOAT32, INT8 = 0, 1, 2
KINDS = {"float16": FLOAT16, "float32": FLOAT32, "int8": INT8}

_WIDTH = 64
# Rows that are asked for ahead: a row of 1536 bytes takes about as long to arrive as three to be scored.
_AHEAD = 4
# Rows whose pages are looked up at once: a processor remembers some thousands of them.
_AT_ONCE = 1024


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
def _touch(
    numbers: IntArray,
    first: int,
    last: int,
    starts: IntArray,
    bases: IntArray,
    row_bytes: int,
    sums_at: int,
    rows: IntArray,
) -> None:
    """Find the addresses of some vectors, and ask for the beginning of each: the processor then looks up many of their
    pages at once, which takes longer than reading them. ``sums_at``: of the first one's checksum; 0: there are none."""
    for i in range(first, last):
        part = 0
        while part + 1 < len(starts) and starts[part + 1] <= numbers[i]:
            part += 1
        rows[i - first] = bases[part] + (numbers[i] - starts[part]) * row_bytes
        prefetch(rows[i - first])
        if sums_at:
            prefetch(sums_at + 8 * numbers[i])


@compiled
def _square(query: FloatArray, lanes: FloatArray) -> np.float32:
    """``<query, query>``, added up as the products with rows are."""
    for j in range(_WIDTH):
        lanes[j] = np.float32(0)
    for start in range(0, len(query), _WIDTH):
        for j in range(_WIDTH):
            lanes[j] += query[start + j] * query[start + j]
    return _folded(lanes, 0)


@compiled
def row_cosines(
    numbers: IntArray,
    n: int,
    starts: IntArray,
    bases: IntArray,
    row_bytes: int,
    kind: int,
    dims: int,
    full_dims: int,
    query: FloatArray,
    multipliers: IntArray,
    sums: IntArray,
    sums_from: int,
    out: FloatArray,
) -> int:
    """Scores of the vectors with the first ``n`` of ``numbers`` over ``dims`` components, to ``out``.

    Args:
        numbers: ascending or not.
        n: how many of them.
        starts: the number of the first vector of each mapped part.
        bases: the addresses of those.
        row_bytes: of a vector.
        kind: FLOAT16, FLOAT32 or INT8.
        dims: to score over.
        full_dims: of a stored vector.
        query: float32, zeros after ``dims`` up to a multiple of 64.
        multipliers: of the checksum, one a 32-bit word.
        sums: checksums that the rows must have; empty: they have none.
        sums_from: the number of the vector with the first of them.
        out: room for n.

    Returns:
        The place in ``numbers`` of the first row that is not as it was written; -1: none.
    """
    lanes = np.empty(2 * _WIDTH, np.float32)
    more = np.empty(2 * _WIDTH, np.float32)
    item = 2 if kind == FLOAT16 else 4
    whole = 0 if kind == INT8 else dims // _WIDTH * _WIDTH
    padded = len(query)
    decoded = np.zeros(max(padded - whole, 1) if kind != INT8 else max(padded, full_dims), np.float32)
    rows = np.empty(min(n, _AT_ONCE), np.int64)
    sums_at = sums.ctypes.data - 8 * sums_from if len(sums) else 0
    query_square = _square(query, lanes)
    lanes_at, query_at = lanes.ctypes.data, query.ctypes.data
    for begin in range(0, n, _AT_ONCE):
        count = min(n - begin, _AT_ONCE)
        _touch(numbers, begin, begin + count, starts, bases, row_bytes, sums_at, rows)
        for i in range(min(_AHEAD, count)):
            for line in range(0, row_bytes, 64):
                prefetch(rows[i] + line)
        for i in range(count):
            if i + _AHEAD < count:
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
                if found != sums[numbers[begin + i] - sums_from]:
                    return begin + i
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
            out[begin + i] = dot / length if length > 0 else np.float32(0)
    return -1


@compiled
def best_rows(
    numbers: IntArray,
    counts: IntArray,
    starts: IntArray,
    bases: IntArray,
    row_bytes: int,
    kind: int,
    dims: int,
    full_dims: int,
    queries: FloatArray,
    multipliers: IntArray,
    sums: IntArray,
    sums_from: int,
    k: int,
    out: FloatArray,
) -> int:
    """Of each query's vectors, the first ``counts`` (Q,) of ``numbers`` (Q, n), the best ``k`` and what ties with the
    last of them: their numbers, in the order in which they were, come to the front, their scores to ``out`` (Q, n), and
    how many they are to ``counts``. The rest is as :func:`row_cosines` has it.

    Returns:
        The number of the first vector that is not as it was written; -1: none.
    """
    scores, order = np.empty(numbers.shape[1], np.float32), np.empty(numbers.shape[1], np.int32)
    for q in range(len(queries)):
        n = counts[q]
        wrong = row_cosines(
            numbers[q],
            n,
            starts,
            bases,
            row_bytes,
            kind,
            dims,
            full_dims,
            queries[q],
            multipliers,
            sums,
            sums_from,
            out[q],
        )
        if wrong >= 0:
            return int(numbers[q, wrong])
        if n <= k:
            continue
        scores[:n] = out[q, :n]
        _select(scores, order, n, k)
        least = _least(scores, k)
        kept = 0
        for i in range(n):
            if out[q, i] >= least:
                out[q, kept], numbers[q, kept] = out[q, i], numbers[q, i]
                kept += 1
        counts[q] = kept
    return -1
