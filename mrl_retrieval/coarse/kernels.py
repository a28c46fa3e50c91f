"""The compiled loops of the coarse index that read: searching blocks of 4-bit codes. ``encode_kernels.py`` makes them.

Each equals its namesake in ``reference.py`` bit for bit, and releases the interpreter's lock. The layout that they work
on is described in ``lists.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.kernels.compiling import compiled
from mrl_retrieval.kernels.selecting import _keep
from mrl_retrieval.kernels.simd import LANES, append, prefetch, scan4
from mrl_retrieval.kernels.simd8 import FOUR
from mrl_retrieval.matryoshka import FloatArray

from .encode_kernels import assign, encode, put, rotate
from .list_kernels import _ask_lists, _nearest_lists

__all__ = ["assign", "encode", "put", "rotate", "search", "search_slots"]

IntArray = npt.NDArray[Any]

_HALF = np.float32(7.5)
_NOTHING = np.float32(-np.inf)
# Blocks that are asked for ahead, over the ends of lists: 8 to 16 KB, as measured.
_AHEAD = 8


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
def _ask(
    chosen: IntArray,
    probed: int | np.int64,
    rank: int,
    block: int,
    first: IntArray,
    following: IntArray,
    codes: int,
    scales: int,
    places: int,
    groups: int,
) -> tuple[int, int]:
    """Ask for a block that will be read soon: ``block`` of list ``chosen[rank]``, or, if it is none, the first of the
    next list that has one. ``codes``, ``scales`` and ``places`` are addresses. Returns what comes after."""
    while block < 0:
        if rank + 1 >= probed:
            return rank, block
        rank += 1
        block = first[chosen[rank]]
    for line in range(groups):
        prefetch(codes + (block * groups + line) * 64)
    prefetch(scales + block * 2 * LANES)
    prefetch(places + block * 4 * LANES)
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
    block: int,
    allowed: npt.NDArray[np.bool_],
    scores: FloatArray,
    kept_scores: FloatArray,
    kept: IntArray,
    n: int,
) -> int:
    """Add to ``n`` candidates the allowed documents of a block that score above ``threshold``; how many there are then.
    All are, if ``allowed`` is empty.

    ``codes``, ``scales`` and ``query`` are addresses, ``scores`` is room for 16.
    """
    above = scan4(codes, groups, query, scales, unit, shift, base, threshold, scores.ctypes.data)
    if above and not len(allowed):
        here = places.ctypes.data + 4 * LANES * block
        added: int = append(above, scores.ctypes.data, here, kept_scores.ctypes.data + 4 * n, kept.ctypes.data + 4 * n)
        return n + added
    while above:
        lane = _lowest(above)
        above &= above - 1
        place = places[block, lane]
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
    rotated, asked = np.empty(width, np.float32), np.zeros((FOUR, width), np.int8)
    units, totals, offsets = np.zeros(FOUR, np.float32), np.zeros(FOUR, np.int64), np.zeros(FOUR, np.int32)
    list_scores = np.zeros((FOUR, max(len(centroid_scales), 1)), np.float32)
    chosen_scores, chosen = np.empty(lists, np.float32), np.empty(lists, np.int64)
    block_scores = np.empty(LANES, np.float32)
    room = 2 * limit + 8 * LANES
    kept_scores, kept = np.empty(room + LANES, np.float32), np.empty(room + LANES, np.int32)
    code_address, scale_address, place_address = codes.ctypes.data, scales.ctypes.data, places.ctypes.data
    probed = min(probes, lists)
    for start in range(0, len(queries), FOUR):
        count = _ask_lists(
            queries,
            start,
            rotation,
            centroid_codes,
            centroid_scales,
            rotated,
            asked,
            units,
            totals,
            offsets,
            list_scores,
        )
        for q in range(count):
            unit, query_address = units[q], asked.ctypes.data + q * width
            shift = -(_HALF * np.float32(totals[q]) * unit)
            _nearest_lists(list_scores[q], lists, probed, chosen_scores, chosen)
            soon, soon_block = -1, -1
            for _ in range(_AHEAD):
                soon, soon_block = _ask(
                    chosen,
                    probed,
                    soon,
                    soon_block,
                    first,
                    following,
                    code_address,
                    scale_address,
                    place_address,
                    groups,
                )
            n, threshold = 0, _NOTHING
            for rank in range(probed):
                base = chosen_scores[rank]
                block = first[chosen[rank]]
                while block >= 0:
                    after = following[block]
                    soon, soon_block = _ask(
                        chosen,
                        probed,
                        soon,
                        soon_block,
                        first,
                        following,
                        code_address,
                        scale_address,
                        place_address,
                        groups,
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
                        places,
                        block,
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
            out_counts[start + q] = n
            for i in range(n):
                out_scores[start + q, i] = kept_scores[i]
                out_places[start + q, i] = kept[i]


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
    rotated, asked = np.empty(width, np.float32), np.zeros((FOUR, width), np.int8)
    units, totals, offsets = np.zeros(FOUR, np.float32), np.zeros(FOUR, np.int64), np.zeros(FOUR, np.int32)
    list_scores = np.zeros((FOUR, max(len(centroid_scales), 1)), np.float32)
    block_scores = np.empty(LANES, np.float32)
    room = 2 * limit + 8 * LANES
    kept_scores, kept = np.empty(room + LANES, np.float32), np.empty(room + LANES, np.int32)
    block_bytes = groups * 64
    for start in range(0, len(queries), FOUR):
        count = _ask_lists(
            queries,
            start,
            rotation,
            centroid_codes,
            centroid_scales,
            rotated,
            asked,
            units,
            totals,
            offsets,
            list_scores,
        )
        for q in range(count):
            unit, query_address = units[q], asked.ctypes.data + q * width
            shift = -(_HALF * np.float32(totals[q]) * unit)
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
                        query_address,
                        scales.ctypes.data + block * 2 * LANES,
                        unit,
                        shift,
                        list_scores[q, owner[block]],
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
            out_counts[start + q] = n
            for i in range(n):
                out_scores[start + q, i] = kept_scores[i]
                out_places[start + q, i] = kept[i]
