"""The compiled loops of a search whose depth depends on the query: how promising lists are, and the search itself.

Each equals its namesake in ``depth_reference.py`` bit for bit. ``depth.py`` says what promise and margin are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.kernels.compiling import compiled
from mrl_retrieval.kernels.simd import LANES
from mrl_retrieval.matryoshka import FloatArray

from .kernels import _AHEAD, _HALF, _NOTHING, _ask, _centroid_scores, _rotate, _scan_block, _select, _to_bytes

__all__ = ["gaps", "search_within"]

IntArray = npt.NDArray[np.integer[Any]]

_LEADERS = 4
# With so many candidates for each rank down to the anchor, it is worth finding out which of them are too far below it.
_EARLY = 6


@compiled
def _leaders(promises: FloatArray, leaders: IntArray) -> np.float32:
    """The places of the best lists, to ``leaders`` (at most as many as there are lists); returns their mean promise."""
    n = len(leaders)
    least = _NOTHING
    held = 0
    for i in range(len(promises)):
        promise = promises[i]
        if held == n and promise <= least:
            continue
        at = min(held, n - 1)
        held = min(held + 1, n)
        while at > 0 and promises[leaders[at - 1]] < promise:
            leaders[at] = leaders[at - 1]
            at -= 1
        leaders[at] = i
        least = promises[leaders[n - 1]] if held == n else _NOTHING
    total = np.float32(0)
    for i in range(n):
        total += promises[leaders[i]]
    return total / np.float32(n)


@compiled
def gaps(
    queries: FloatArray,
    rotation: FloatArray,
    centroid_codes: IntArray,
    centroid_scales: FloatArray,
    bonuses: FloatArray,
    out: FloatArray,
) -> None:
    """How far the promise of each list is below the mean of the leading ones: (Q, lists), to ``out``."""
    lists, width = len(bonuses), rotation.shape[1]
    rotated = np.empty(width, np.float32)
    query = np.empty(width, np.int8)
    sums = np.empty(LANES, np.int32)
    list_scores = np.zeros(max(len(centroid_scales), 1), np.float32)
    leaders = np.empty(min(_LEADERS, lists), np.int64)
    for q in range(len(queries)):
        _rotate(queries[q], rotation, rotated)
        unit, total = _to_bytes(rotated, query)
        if lists > 1:
            _centroid_scores(query, unit, total, centroid_codes, centroid_scales, sums, list_scores)
        for i in range(lists):
            out[q, i] = list_scores[i] + bonuses[i]
        mean = _leaders(out[q], leaders)
        for i in range(lists):
            out[q, i] = mean - out[q, i]


@compiled
def _keep_near(
    scores: FloatArray, places: IntArray, n: int, limit: int, anchor: int, drop: np.float32
) -> tuple[int, np.float32]:
    """Reduce ``n`` candidates to the best ``limit``, and these to those that score above the anchor less the drop.

    The anchor is the score of the candidate with that rank. Returns how many are left, and what others have to exceed.
    """
    if n > limit:
        _select(scores, places, n, limit)
        n = limit
    if n < anchor:
        return n, _NOTHING
    _select(scores, places, n, anchor)
    least = scores[0]
    for i in range(anchor):
        least = min(least, scores[i])
    least -= drop
    left = 0
    weakest = np.float32(np.inf)
    for i in range(n):
        if scores[i] > least:
            scores[left], places[left] = scores[i], places[i]
            weakest = min(weakest, scores[i])
            left += 1
    return left, weakest if left == limit else least


@compiled
def search_within(
    queries: FloatArray,
    rotation: FloatArray,
    centroid_codes: IntArray,
    centroid_scales: FloatArray,
    bonuses: FloatArray,
    first: IntArray,
    following: IntArray,
    codes: IntArray,
    scales: npt.NDArray[Any],
    places: IntArray,
    allowed: npt.NDArray[np.bool_],
    margin: np.float32,
    limit: int,
    anchor: int,
    drop: np.float32,
    out_scores: FloatArray,
    out_places: IntArray,
    out_counts: IntArray,
    out_scanned: IntArray,
) -> None:
    """The best ``limit`` of the allowed documents in the lists whose gap is at most ``margin``, and in the leading one.

    Of these, only the ones that score above that of rank ``anchor`` (at least 1), less ``drop``. Written to the rows of
    ``out_scores`` and ``out_places`` (Q, limit), in no order; their number to ``out_counts``, and that of the blocks
    that were scanned to ``out_scanned``.
    """
    lists, groups, width = len(first), codes.shape[1], rotation.shape[1]
    rotated = np.empty(width, np.float32)
    query = np.empty(width, np.int8)
    sums = np.empty(LANES, np.int32)
    list_scores = np.zeros(max(len(centroid_scales), 1), np.float32)
    promises = np.empty(lists, np.float32)
    leaders = np.empty(min(_LEADERS, lists), np.int64)
    chosen = np.empty(lists + len(leaders), np.int64)
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
        for i in range(lists):
            promises[i] = list_scores[i] + bonuses[i]
        mean = _leaders(promises, leaders)
        # The leading lists come first: what they hold keeps most of the others' documents out early.
        probed = np.int64(0)
        for i in range(len(leaders)):
            if i == 0 or mean - promises[leaders[i]] <= margin:
                chosen[probed] = leaders[i]
                probed += 1
                promises[leaders[i]] = _NOTHING
        for i in range(lists):
            chosen[probed] = i
            probed += np.int64(promises[i] > _NOTHING and mean - promises[i] <= margin)
        soon, soon_block = -1, -1
        for _ in range(_AHEAD):
            soon, soon_block = _ask(
                chosen, probed, soon, soon_block, first, following, code_address, scale_address, groups
            )
        n, threshold, scanned = 0, _NOTHING, 0
        enough = min(_EARLY * anchor, room - LANES)
        for rank in range(probed):
            here = chosen[rank]
            base = list_scores[here]
            block = first[here]
            while block >= 0:
                scanned += 1
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
                if n > enough:
                    n, threshold = _keep_near(kept_scores, kept, n, limit, anchor, drop)
                    enough = min(max(_EARLY * anchor, 2 * n), room - LANES)
                block = after
        n, _ = _keep_near(kept_scores, kept, n, limit, anchor, drop)
        out_counts[q] = n
        out_scanned[q] = scanned
        for i in range(n):
            out_scores[q, i] = kept_scores[i]
            out_places[q, i] = kept[i]
