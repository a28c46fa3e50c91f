"""The compiled loops that scan lists of 4-bit codes: every block read ahead, the best of its documents kept.

Bit for bit what ``reference.py`` computes, and without the interpreter's lock.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.kernels.compiling import compiled
from mrl_retrieval.kernels.selecting import ANY_DROP, _keep_near
from mrl_retrieval.kernels.simd import LANES, append, prefetch, scan4
from mrl_retrieval.matryoshka import FloatArray

__all__: list[str] = []

IntArray = npt.NDArray[Any]

_HALF = np.float32(7.5)
_NOTHING = np.float32(-np.inf)
# Blocks that are asked for ahead, over the ends of lists: 8 to 16 KB, as measured.
_AHEAD = 8
# With so many candidates for each rank down to the anchor, it is worth finding out which of them are too far below it.
_EARLY = 6


@compiled
def _room_for(limit: int) -> tuple[FloatArray, IntArray]:
    """Where a scan keeps the scores and places of at least the best ``limit``, and those it has not compared yet."""
    room = 2 * limit + 9 * LANES
    return np.empty(room, np.float32), np.empty(room, np.int32)


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
def _scan_lists(
    chosen: IntArray,
    probed: int | np.int64,
    list_scores: FloatArray,
    query: int,
    unit: np.float32,
    total: np.int64,
    lists: tuple[IntArray, IntArray, IntArray, npt.NDArray[Any], IntArray],
    allowed: npt.NDArray[np.bool_],
    limit: int,
    anchor: int,
    drop: np.float32,
    kept_scores: FloatArray,
    kept: IntArray,
) -> tuple[int, int]:
    """Scan the first ``probed`` of the ``chosen`` lists, and keep the best ``limit`` of the allowed documents: of these
    those that score above that of rank ``anchor``, less ``drop``. ``query`` is the address of its bytes, ``unit`` and
    ``total`` are theirs; ``lists`` are first and following blocks, codes, scales and places.

    Returns how many are kept, and how many blocks were scanned.
    """
    first, following, codes, scales, places = lists
    groups = codes.shape[1]
    code_address, scale_address, place_address = codes.ctypes.data, scales.ctypes.data, places.ctypes.data
    block_scores = np.empty(LANES, np.float32)
    shift = -(_HALF * np.float32(total) * unit)
    soon, soon_block = -1, -1
    for _ in range(_AHEAD):
        soon, soon_block = _ask(
            chosen, probed, soon, soon_block, first, following, code_address, scale_address, place_address, groups
        )
    n, threshold, scanned = 0, _NOTHING, 0
    room = len(kept) - 2 * LANES
    enough = room if drop >= ANY_DROP else min(_EARLY * anchor, room)
    for rank in range(probed):
        base = list_scores[chosen[rank]]
        block = first[chosen[rank]]
        while block >= 0:
            scanned += 1
            after = following[block]
            soon, soon_block = _ask(
                chosen, probed, soon, soon_block, first, following, code_address, scale_address, place_address, groups
            )
            n = _scan_block(
                code_address + block * groups * 64,
                scale_address + block * 2 * LANES,
                groups,
                query,
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
            if n > enough:
                n, threshold = _keep_near(kept_scores, kept, n, limit, anchor, drop)
                enough = max(enough, min(max(_EARLY * anchor, 2 * n), room))
            block = after
    n, _ = _keep_near(kept_scores, kept, n, limit, anchor, drop)
    return n, scanned
