"""The two passes over codes as compiled loops that hold no lock; the same numbers as :mod:`.reference`, bit for bit.

Needs numba (extra ``fast``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mrl_retrieval.kernels.compiling import compiled
from mrl_retrieval.kernels.simd import prefetch, short_at
from mrl_retrieval.matryoshka import FloatArray

from .layout import CHUNK
from .simd import (
    block_bounds,
    block_sums,
    block_sums_again,
    block_sums_of_two,
    block_sums_of_two_again,
    row_sum,
)

__all__ = ["refine", "scan"]

_BLOCKS = CHUNK // 16
_ROWS_AHEAD = 6

Addresses = npt.NDArray[np.int64]


@compiled
def _raise_least(heap: FloatArray, value: float) -> None:
    """Put ``value`` in the place of the smallest, which is the first of a heap."""
    at, size = 0, len(heap)
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = value


@compiled
def _drop(found: Addresses, scores: FloatArray, margins: FloatArray, count: int, least: float) -> int:
    """Keep those of the first ``count`` that may still score ``least``; returns how many."""
    kept = 0
    for i in range(count):
        if scores[i] + margins[i] >= least:
            found[kept], scores[kept], margins[kept] = found[i], scores[i], margins[i]
            kept += 1
    return kept


@compiled
def scan(
    chunks: Addresses,
    masks: npt.NDArray[np.uint16],
    start: int,
    stop: int,
    sizes: tuple[int, int, int],
    planes: npt.NDArray[np.int8],
    offsets: npt.NDArray[np.int32],
    numbers: FloatArray,
    heaps: FloatArray,
    found: Addresses,
    scores: FloatArray,
    margins: FloatArray,
    counts: Addresses,
) -> int:
    """Of the blocks ``start`` to ``stop``, for each query (Q) the documents that may be among its best k.

    Args:
        chunks: where each chunk lies.
        masks: of each block, as bits, the documents that take part.
        start: first block.
        stop: last block, and one.
        sizes: bytes of a block, groups of the head, groups of the tail.
        planes: as in :class:`~.bounds.QueryCodes`, like the next two.
        offsets: (Q, 2).
        numbers: (Q, 8).
        heaps: (Q, k), all of them a number that k documents are known to reach, or -inf; filled with the k largest
            lower bounds where these are larger, the least first.
        found: (Q, room), filled with the places of documents. All whose upper bound is not below the heap's first are
            there, others may be.
        scores: (Q, room), filled, like ``margins``: bounds are the sum and the difference.
        margins: (Q, room).
        counts: (Q,) how many were found; negative: ``room`` was too little, and the first so many are only some.

    Returns:
        How many blocks were read.
    """
    queries, width, room = planes.shape[0], planes.shape[2], found.shape[1]
    block_bytes, heads, tails = sizes
    factors = 64 * (heads + tails)
    sums, bounds = np.empty((4, 2, 16), dtype=np.int32), np.empty((2, 16), dtype=np.float32)
    at_sums, at_bounds = sums.ctypes.data, bounds.ctypes.data
    at_planes, at_offsets, at_numbers = planes.ctypes.data, offsets.ctypes.data, numbers.ctypes.data
    read = 0
    for block in range(start, stop):
        mask = np.int64(masks[block])
        if mask == 0:
            continue
        read += 1
        here = chunks[block // _BLOCKS] + block % _BLOCKS * block_bytes
        for q in range(queries):
            if q % 2 == 0:
                these = at_planes + q * 2 * width
                if q == 0 and queries == 1:
                    block_sums(here, heads, tails, these, width, at_sums)
                elif q == 0:
                    block_sums_of_two(here, heads, tails, these, width, at_sums)
                elif q + 1 < queries:
                    block_sums_of_two_again(here, heads, tails, these, width, at_sums)
                else:
                    block_sums_again(here, heads, tails, these, width, at_sums)
            if counts[q] < 0:
                continue
            least = heaps[q, 0]
            these = at_sums + q % 2 * 256
            may = mask & block_bounds(these, here + factors, at_offsets + 8 * q, at_numbers + 32 * q, least, at_bounds)
            lane = 0
            while may:
                if may & 1 and bounds[0, lane] + bounds[1, lane] >= heaps[q, 0]:
                    if counts[q] == room:
                        counts[q] = _drop(found[q], scores[q], margins[q], room, heaps[q, 0])
                        if counts[q] > room - room // 4:
                            counts[q] = -counts[q]
                            break
                    n = counts[q]
                    found[q, n], scores[q, n], margins[q, n] = block * 16 + lane, bounds[0, lane], bounds[1, lane]
                    counts[q] = n + 1
                    lower = bounds[0, lane] - bounds[1, lane]
                    if lower > heaps[q, 0]:
                        _raise_least(heaps[q], lower)
                may >>= 1
                lane += 1
    return read


@compiled
def refine(
    rows: Addresses,
    row_bytes: int,
    query: npt.NDArray[np.int16],
    numbers: FloatArray,
    found: Addresses,
    scores: FloatArray,
    margins: FloatArray,
) -> None:
    """Scores and margins (n,) of documents, made better by the low halves of their codes, in place.

    Args:
        rows: where the rows of each chunk lie.
        row_bytes: of one.
        query: (tail,) integers.
        numbers: (8,) of this query.
        found: (n,) places of the documents.
        scores: by high halves.
        margins: overwritten.
    """
    half, at_query = len(query) // 2, query.ctypes.data
    for i in range(len(found)):
        if i + _ROWS_AHEAD < len(found):
            place = found[i + _ROWS_AHEAD]
            soon = rows[place // CHUNK] + place % CHUNK * row_bytes
            for line in range(0, row_bytes, 64):
                prefetch(soon + line)
        row = rows[found[i] // CHUNK] + found[i] % CHUNK * row_bytes
        low = np.float32(row_sum(row, half, at_query)) * numbers[7] - numbers[3]
        scores[i] += low * short_at(row + half)
        margins[i] = (short_at(row + half + 2) * numbers[4] + short_at(row + half + 4) * numbers[5]) + numbers[6]
