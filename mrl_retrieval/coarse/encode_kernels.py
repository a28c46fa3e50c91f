"""The compiled loops of the coarse index that write: rotating, assigning to lists and encoding.

Each equals its namesake in ``reference.py`` bit for bit, and releases the interpreter's lock.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.kernels.compiling import compiled
from mrl_retrieval.kernels.simd import LANES, level_sums
from mrl_retrieval.kernels.simd8 import FOUR, nearest8
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["assign", "encode", "put", "rotate"]

IntArray = npt.NDArray[Any]

_HALF = np.float32(7.5)
_NOTHING = np.float32(-np.inf)
_RANGES = 8
# Residuals that are nowhere larger count as zero: float16 has no scale for them.
_TINY = np.float32(1e-12)


@compiled
def _rotate(vector: FloatArray, rotation: FloatArray, out: FloatArray) -> None:
    """``vector @ rotation``, one row of the rotation after the other, each in single precision."""
    out[:] = np.float32(0)
    for i in range(len(vector)):
        for j in range(len(out)):
            out[j] += vector[i] * rotation[i, j]


@compiled
def rotate(vectors: FloatArray, rotation: FloatArray, out: FloatArray) -> None:
    """``vectors @ rotation``, (n, d) to (n, width), each row the same whatever the others are."""
    for i in range(len(vectors)):
        _rotate(vectors[i], rotation, out[i])


@compiled
def _to_bytes(vector: FloatArray, out: IntArray) -> tuple[np.float32, np.int64]:
    """The vector as signed bytes; returns their unit, and their sum."""
    largest = np.float32(0)
    for j in range(len(vector)):
        largest = max(largest, abs(vector[j]))
    unit = largest / np.float32(127)
    total = np.int64(0)
    for j in range(len(vector)):
        value = np.rint(vector[j] / unit) if unit > 0 else np.float32(0)
        out[j] = np.int8(value)
        total += np.int64(value)
    return unit, total


@compiled
def assign(
    vectors: FloatArray,
    centroid_codes: IntArray,
    centroid_scales: FloatArray,
    half_squares: FloatArray,
    out: IntArray,
) -> None:
    """The nearest centroid of each of the rotated ``vectors`` (n, d): to ``out`` (n,)."""
    n, blocks, groups = len(vectors), centroid_codes.shape[0], centroid_codes.shape[1]
    queries = np.zeros((FOUR, vectors.shape[1]), np.int8)
    units, offsets = np.zeros(FOUR, np.float32), np.zeros(FOUR, np.int32)
    best, where = np.empty((FOUR, LANES), np.float32), np.empty((FOUR, LANES), np.int32)
    # Lanes without a centroid win nothing.
    penalties = np.full(blocks * LANES, np.float32(np.inf))
    penalties[: len(half_squares)] = half_squares
    for start in range(0, n, FOUR):
        count = min(FOUR, n - start)
        for q in range(count):
            unit, total = _to_bytes(vectors[start + q], queries[q])
            units[q], offsets[q] = unit, 128 * total
        best[:] = _NOTHING
        where[:] = 0
        for block in range(blocks):
            nearest8(
                centroid_codes.ctypes.data + block * groups * 64,
                groups,
                queries.ctypes.data,
                offsets.ctypes.data,
                units.ctypes.data,
                centroid_scales.ctypes.data + block * LANES * 4,
                penalties.ctypes.data + block * LANES * 4,
                block,
                best.ctypes.data,
                where.ctypes.data,
            )
        for q in range(count):
            score, nearest = _NOTHING, np.int64(0)
            for lane in range(LANES):
                i = np.int64(where[q, lane]) * LANES + lane
                if best[q, lane] > score or (best[q, lane] == score and i < nearest):
                    score, nearest = best[q, lane], i
            out[start + q] = nearest


@compiled
def encode(residuals: FloatArray, codes: IntArray, scales: FloatArray) -> None:
    """4-bit codes (n, d) and scales (n,) of residuals (n, d); see ``codes.py``."""
    n, d = residuals.shape
    sums = np.empty((3, 8), np.float32)
    for i in range(n):
        row = residuals[i]
        largest = np.float32(0)
        for j in range(d):
            largest = max(largest, abs(row[j]))
        if largest < _TINY:
            codes[i, :] = 8
            scales[i] = 0
            continue
        best, best_range = np.float32(-1), np.float32(1)
        for step in range(_RANGES):
            part = np.float32(1.0) - np.float32(0.07) * np.float32(step)
            dot, norm, _ = _fit(row, _HALF / (largest * part), sums)
            cosine = dot / np.sqrt(norm)
            if cosine > best:
                best, best_range = cosine, part
        inverse = _HALF / (largest * best_range)
        dot, _, square = _fit(row, inverse, sums)
        for j in range(d):
            level = np.floor(row[j] * inverse + np.float32(8.0))
            codes[i, j] = np.uint8(min(max(level, np.float32(0)), np.float32(15)))
        scales[i] = square / dot


@compiled
def _fit(row: FloatArray, inverse: np.float32, sums: FloatArray) -> tuple[np.float32, np.float32, np.float32]:
    """The products of the row's levels with it, and of each of the two with itself: in 8 lanes, which are then added in
    halves. ``sums``: (3, 8), overwritten."""
    level_sums(row.ctypes.data, len(row) // 8, inverse, sums.ctypes.data)
    for width in (4, 2, 1):
        for k in range(3):
            for i in range(width):
                sums[k, i] += sums[k, i + width]
    return sums[0, 0], sums[1, 0], sums[2, 0]


@compiled
def put(codes: IntArray, slots: IntArray, pool: IntArray) -> None:
    """Write codes (n, d) into their slots of the pool (blocks, d / 8, 64)."""
    for i in range(len(slots)):
        block, lane = slots[i] >> 4, slots[i] & 15
        for group in range(pool.shape[1]):
            for byte in range(4):
                low, high = codes[i, 8 * group + byte], codes[i, 8 * group + 4 + byte]
                pool[block, group, 4 * lane + byte] = low | (high << 4)
