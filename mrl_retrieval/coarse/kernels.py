"""The compiled loops of the coarse index: assigning, encoding and searching blocks of 4-bit codes.

Each equals its namesake in ``reference.py`` bit for bit, and releases the interpreter's lock. The layout that they work
on is described in ``lists.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.kernels.compiling import compiled
from mrl_retrieval.kernels.simd import FOUR, LANES, level_sums, nearest8, prefetch, scan4, sums8
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["assign", "encode", "put", "rotate", "search", "search_slots"]

IntArray = npt.NDArray[Any]

_HALF = np.float32(7.5)
_NOTHING = np.float32(-np.inf)
_RANGES = 8
# Residuals that are nowhere larger count as zero: float16 has no scale for them.
_TINY = np.float32(1e-12)
_GROUPS_A_PROBE = 4
# Blocks that are asked for ahead, over the ends of lists: 8 to 16 KB, as measured.
_AHEAD = 8


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
def _centroid_scores(
    query: IntArray,
    unit: np.float32,
    total: np.int64,
    centroid_codes: IntArray,
    centroid_scales: FloatArray,
    sums: IntArray,
    out: FloatArray,
) -> None:
    """Scores of all centroids (8-bit codes, blocks of 16) for a query in bytes."""
    groups = centroid_codes.shape[1]
    offset = np.int32(128 * total)
    for block in range(centroid_codes.shape[0]):
        sums8(centroid_codes[block].ctypes.data, groups, query.ctypes.data, sums.ctypes.data)
        for lane in range(LANES):
            i = block * LANES + lane
            out[i] = np.float32(sums[lane] - offset) * unit * centroid_scales[i]


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


@compiled
def _lowest(bits: int) -> int:
    """The position of the lowest of 16 bits, one of which is set."""
    at = 0
    low = bits & -bits
    if low & 0xFF00:
        at += 8
    if low & 0xF0F0:
        at += 4
    if low & 0xCCCC:
        at += 2
    if low & 0xAAAA:
        at += 1
    return at


@compiled
def _select(scores: FloatArray, places: IntArray, n: int, k: int) -> None:
    """Bring the best ``k`` of the first ``n`` to the front (Hoare's quickselect)."""
    low, high = 0, n - 1
    while low < high:
        pivot = scores[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while scores[i] > pivot:
                i += 1
            while scores[j] < pivot:
                j -= 1
            if i <= j:
                scores[i], scores[j] = scores[j], scores[i]
                places[i], places[j] = places[j], places[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            return


@compiled
def _keep(scores: FloatArray, places: IntArray, n: int, limit: int) -> tuple[int, np.float32]:
    """Reduce ``n`` candidates to the best ``limit``; returns how many there are, and the least of their scores."""
    if n > limit:
        _select(scores, places, n, limit)
        n = limit
    least = scores[0]
    for i in range(n):
        least = min(least, scores[i])
    return n, least


@compiled
def _nearest_lists(scores: FloatArray, lists: int, probed: int, chosen_scores: FloatArray, chosen: IntArray) -> None:
    """Bring the ``probed`` best of the first ``lists`` scores to the front of ``chosen_scores``, the best first, and
    their lists to that of ``chosen``. Both have room for all."""
    groups = _GROUPS_A_PROBE * probed
    bound = _NOTHING
    if groups < lists:
        # The best of so many groups are cheap to find, and the least of them keeps out nearly all that is not wanted.
        chosen_scores[:groups] = scores[:groups]
        for start in range(groups, lists, groups):
            for i in range(min(groups, lists - start)):
                chosen_scores[i] = max(chosen_scores[i], scores[start + i])
        _select(chosen_scores, chosen, groups, probed)
        bound = chosen_scores[0]
        for i in range(probed):
            bound = min(bound, chosen_scores[i])
    n = 0
    for i in range(lists):
        chosen_scores[n] = scores[i]
        chosen[n] = i
        n += int(scores[i] >= bound)
    _select(chosen_scores, chosen, n, probed)
    order = np.argsort(-chosen_scores[:probed])
    chosen_scores[:probed] = chosen_scores[order]
    chosen[:probed] = chosen[order]


@compiled
def _ask(
    chosen: IntArray,
    probed: int,
    rank: int,
    block: int,
    first: IntArray,
    following: IntArray,
    codes: int,
    scales: int,
    groups: int,
) -> tuple[int, int]:
    """Ask for a block that will be read soon: ``block`` of list ``chosen[rank]``, or, if it is none, the first of the
    next list that has one. ``codes`` and ``scales`` are addresses. Returns the rank and the block that come after."""
    while block < 0:
        if rank + 1 >= probed:
            return rank, block
        rank += 1
        block = first[chosen[rank]]
    for line in range(groups):
        prefetch(codes + (block * groups + line) * 64)
    prefetch(scales + block * 2 * LANES)
    return rank, following[block]


@compiled
def search(
    queries: FloatArray,
    rotation: FloatArray,
    centroid_codes: IntArray,
    centroid_scales: FloatArray,
    first: IntArray,
    following: IntArray,
    codes: IntArray,
    scales: npt.NDArray[Any],
    places: IntArray,
    allowed: npt.NDArray[np.bool_],
    probes: int,
    limit: int,
    out_scores: FloatArray,
    out_places: IntArray,
    out_counts: IntArray,
) -> None:
    """The best ``limit`` of the allowed documents in the ``probes`` lists nearest to each of ``queries`` (Q, d).

    Written to the rows of ``out_scores`` and ``out_places`` (Q, limit), in no order; their number to ``out_counts``.
    """
    lists, groups, width = len(first), codes.shape[1], rotation.shape[1]
    rotated = np.empty(width, np.float32)
    query = np.empty(width, np.int8)
    sums = np.empty(LANES, np.int32)
    list_scores = np.zeros(max(len(centroid_scales), 1), np.float32)
    chosen_scores, chosen = np.empty(lists, np.float32), np.empty(lists, np.int64)
    block_scores = np.empty(LANES, np.float32)
    room = 2 * limit + 8 * LANES
    kept_scores, kept = np.empty(room, np.float32), np.empty(room, np.int64)
    code_address, scale_address = codes.ctypes.data, scales.ctypes.data
    query_address, score_address = query.ctypes.data, block_scores.ctypes.data
    for q in range(len(queries)):
        _rotate(queries[q], rotation, rotated)
        unit, total = _to_bytes(rotated, query)
        shift = -(_HALF * np.float32(total) * unit)
        if lists > 1:
            _centroid_scores(query, unit, total, centroid_codes, centroid_scales, sums, list_scores)
        probed = min(probes, lists)
        _nearest_lists(list_scores, lists, probed, chosen_scores, chosen)
        soon, soon_block = -1, -1
        for _ in range(_AHEAD):
            soon, soon_block = _ask(
                chosen, probed, soon, soon_block, first, following, code_address, scale_address, groups
            )
        n, threshold = 0, _NOTHING
        for rank in range(probed):
            base = chosen_scores[rank]
            block = first[chosen[rank]]
            while block >= 0:
                after = following[block]
                soon, soon_block = _ask(
                    chosen, probed, soon, soon_block, first, following, code_address, scale_address, groups
                )
                above = scan4(
                    code_address + block * groups * 64,
                    groups,
                    query_address,
                    scale_address + block * 2 * LANES,
                    unit,
                    shift,
                    base,
                    threshold,
                    score_address,
                )
                while above:
                    lane = _lowest(above)
                    above &= above - 1
                    place = places[block, lane]
                    if place >= 0 and allowed[place]:
                        kept_scores[n] = block_scores[lane]
                        kept[n] = place
                        n += 1
                if n > room - LANES:
                    n, threshold = _keep(kept_scores, kept, n, limit)
                block = after
        n, _ = _keep(kept_scores, kept, n, limit)
        out_counts[q] = n
        for i in range(n):
            out_scores[q, i] = kept_scores[i]
            out_places[q, i] = kept[i]


@compiled
def search_slots(
    queries: FloatArray,
    rotation: FloatArray,
    centroid_codes: IntArray,
    centroid_scales: FloatArray,
    owner: IntArray,
    codes: IntArray,
    scales: npt.NDArray[Any],
    places: IntArray,
    slots: IntArray,
    limit: int,
    out_scores: FloatArray,
    out_places: IntArray,
    out_counts: IntArray,
) -> None:
    """The same for the documents in ``slots`` (ascending), whichever lists they are in."""
    groups, width = codes.shape[1], rotation.shape[1]
    rotated = np.empty(width, np.float32)
    query = np.empty(width, np.int8)
    sums = np.empty(LANES, np.int32)
    list_scores = np.zeros(max(len(centroid_scales), 1), np.float32)
    block_scores = np.empty(LANES, np.float32)
    room = 2 * limit + 8 * LANES
    kept_scores, kept = np.empty(room, np.float32), np.empty(room, np.int64)
    block_bytes = groups * 64
    for q in range(len(queries)):
        _rotate(queries[q], rotation, rotated)
        unit, total = _to_bytes(rotated, query)
        shift = -(_HALF * np.float32(total) * unit)
        if len(centroid_scales):
            _centroid_scores(query, unit, total, centroid_codes, centroid_scales, sums, list_scores)
        n, threshold, last = 0, _NOTHING, -1
        for i in range(len(slots)):
            block = slots[i] >> 4
            if block != last:
                if i + 4 < len(slots):
                    ahead = codes.ctypes.data + (slots[i + 4] >> 4) * block_bytes
                    for line in range(groups):
                        prefetch(ahead + 64 * line)
                scan4(
                    codes.ctypes.data + block * block_bytes,
                    groups,
                    query.ctypes.data,
                    scales.ctypes.data + block * 2 * LANES,
                    unit,
                    shift,
                    list_scores[owner[block]],
                    threshold,
                    block_scores.ctypes.data,
                )
                last = block
            lane = slots[i] & 15
            if block_scores[lane] > threshold:
                kept_scores[n] = block_scores[lane]
                kept[n] = places[block, lane]
                n += 1
                if n == room:
                    n, threshold = _keep(kept_scores, kept, n, limit)
        n, _ = _keep(kept_scores, kept, n, limit)
        out_counts[q] = n
        for i in range(n):
            out_scores[q, i] = kept_scores[i]
            out_places[q, i] = kept[i]
