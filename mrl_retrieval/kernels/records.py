"""Records of rows, with their texts, gathered from a mapped file: found, held to their checksums and put one after the
other, several on their way at once. ``mrl_retrieval/storage/row_copy.py`` says what a record is."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .compiling import compiled
from .row_simd import word_sum
from .simd import prefetch

__all__ = ["ABSENT", "HEAD_BYTES", "gather", "sign"]

IntArray = npt.NDArray[Any]

HEAD_BYTES = 40
"""Checksum, row number, checksum of the vector: 8 bytes each; then how long the id, the metadata and the document are
in characters (the last -1 for none), and all three together in bytes: 4 bytes each. Texts follow, to a multiple of 8
bytes."""

ABSENT = -(2**62)

_STEP = np.uint64(0x9E3779B97F4A7C15)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
# Of a record so much is asked for ahead; the rest of a longer one comes as it is read.
_AHEAD_BYTES = 512


@compiled
def _sum(address: int, words: int, multipliers: IntArray) -> np.uint64:
    """The checksum of 32-bit words: each times its own odd number, in blocks of as many as there are of these; after
    each block the sum so far is multiplied too, so that blocks cannot change places."""
    total = np.uint64(0)
    while words > 0:
        count = min(words, len(multipliers))
        total = (total + word_sum(address, count, multipliers.ctypes.data)) * _STEP
        address += 4 * count
        words -= count
    return total


@compiled
def sign(data: IntArray, bounds: IntArray, multipliers: IntArray) -> None:
    """Put the checksums of records into ``data`` (uint8), which begin at ``bounds[:-1]`` and end at ``bounds[1:]``."""
    for i in range(len(bounds) - 1):
        start, stop = int(bounds[i]), int(bounds[i + 1])
        total = _sum(data.ctypes.data + start + 8, (stop - start - 8) // 4, multipliers)
        data[start : start + 8].view(np.uint64)[0] = total


@compiled
def gather(
    data: IntArray,
    bounds: IntArray,
    first: int,
    numbers: IntArray,
    sums: IntArray,
    sums_from: int,
    multipliers: IntArray,
    out: IntArray,
    places: IntArray,
) -> int:
    """The texts of rows, one after the other, to ``out``.

    Args:
        data: uint8, records.
        bounds: uint64, where each record begins; the last one: where the last one ends.
        first: the number of the row with the first record.
        numbers: int64, of the rows.
        sums: uint64, the checksums that the rows' vectors must have.
        sums_from: the number of the vector with the first of them.
        multipliers: of the checksum.
        out: uint8, room for the texts.
        places: (n, 4) int64; becomes where, in characters, the id of each row begins and where id, metadata and
            document end, which follow each other; -1 for the last where there is no document.

    Returns:
        How many bytes there are; if that is more than there is room for, nothing was written. -1 - i: record i is not
        as it was written. :data:`ABSENT`: one is empty, or has no place here.
    """
    base, size, n = data.ctypes.data, np.uint64(len(data)), len(numbers)
    for i in range(n):
        if not first <= numbers[i] < first + len(bounds) - 1 or not 0 <= numbers[i] - sums_from < len(sums):
            return ABSENT
        prefetch(bounds.ctypes.data + 8 * (numbers[i] - first))
    wanted = 0
    # Kept, since a file that somebody writes over while it is read may say something else the second time.
    spans = np.empty((n, 2), np.int64)
    for i in range(n):
        place = numbers[i] - first
        start, stop = bounds[place], bounds[place + 1]
        if start == stop:
            return ABSENT
        if stop > size or start > stop or stop - start < np.uint64(HEAD_BYTES) or start % np.uint64(8) != 0:
            return -1 - i
        spans[i, 0], spans[i, 1] = int(start), int(stop)
        wanted += int(stop - start) - HEAD_BYTES
        for line in range(0, min(int(stop - start), _AHEAD_BYTES), 64):
            prefetch(base + int(start) + line)
        prefetch(sums.ctypes.data + 8 * (numbers[i] - sums_from))
    if wanted > len(out):
        return wanted
    end = at = 0
    for i in range(n):
        start, stop = spans[i, 0], spans[i, 1]
        head = data[start : start + HEAD_BYTES].view(np.uint64)
        total = _sum(base + start + 8, (stop - start - 8) // 4, multipliers)
        if total != head[0] or np.int64(head[1]) != numbers[i] or head[2] != sums[numbers[i] - sums_from]:
            return -1 - i
        texts = int(head[4] >> _HALF)
        if texts > stop - start - HEAD_BYTES or end + texts > len(out):
            return -1 - i
        places[i, 0] = at
        places[i, 1] = at + np.int64(head[3] & _LOW)
        places[i, 2] = places[i, 1] + np.int64(head[3] >> _HALF)
        characters = np.int64(np.int32(head[4] & _LOW))
        places[i, 3] = -1 if characters < 0 else places[i, 2] + characters
        at = max(places[i, 2], places[i, 3])
        out[end : end + texts] = data[start + HEAD_BYTES : start + HEAD_BYTES + texts]
        end += texts
    return end
