"""The compiled loops of the coarse index that read: searching blocks of 4-bit codes. ``encode_kernels.py`` makes them.

Each equals its namesake in ``reference.py`` bit for bit, and releases the interpreter's lock. The layout that they work
on is described in ``lists.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.kernels.compiling import compiled
from mrl_retrieval.kernels.simd import LANES, prefetch, scan4, sums8
from mrl_retrieval.matryoshka import FloatArray

from .encode_kernels import _rotate as _rotate
from .encode_kernels import _to_bytes as _to_bytes
from .encode_kernels import assign, encode, put, rotate

__all__ = ["assign", "encode", "put", "rotate", "search", "search_slots"]

IntArray = npt.NDArray[Any]

_HALF = np.float32(7.5)
_NOTHING = np.float32(-np.inf)
_GROUPS_A_PROBE = 4
# Blocks that are asked for ahead, over the ends of lists: 8 to 16 KB, as measured.
_AHEAD = 8


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
        n += int(not scores[i] < bound)  # so that a NaN leaves enough of them, whichever these are
    _select(chosen_scores, chosen, n, probed)
    order = np.argsort(-chosen_scores[:probed])
    chosen_scores[:probed] = chosen_scores[order]
    chosen[:probed] = chosen[order]


@compiled
def _ask(
    chosen: IntArray,
    probed: int | np.int64,
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
def _scan_block(
    codes: int,
    scales: int,
    groups: int,
    query: int,
    unit: np.float32,
    shift: np.float32,
    base: np.float32,
    threshold: np.float32,
    places: IntArray,
    allowed: npt.NDArray[np.bool_],
    scores: FloatArray,
    kept_scores: FloatArray,
    kept: IntArray,
    n: int,
) -> int:
    """Add to ``n`` candidates the allowed documents of a block that score above ``threshold``; how many there are then.

    ``codes``, ``scales`` and ``query`` are addresses; ``places`` are those of the block, ``scores`` room for its 16.
    """
    above = scan4(codes, groups, query, scales, unit, shift, base, threshold, scores.ctypes.data)
    while above:
        lane = _lowest(above)
        above &= above - 1
        place = places[lane]
        if place >= 0 and allowed[place]:
            kept_scores[n] = scores[lane]
            kept[n] = place
            n += 1
    return n


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
    query_address = query.ctypes.data
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
                n = _scan_block(
                    code_address + block * groups * 64,
                    scale_address + block * 2 * LANES,
                    groups,
                    query_address,
                    unit,
                    shift,
                    base,
                    threshold,
                    places[block],
                    allowed,
                    block_scores,
                    kept_scores,
                    kept,
                    n,
                )
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
