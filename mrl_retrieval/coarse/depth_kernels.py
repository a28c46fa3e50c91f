"""The compiled loops of a search whose depth depends on the query: how promising lists are, and the search itself.

Each equals its namesake in ``depth_reference.py`` bit for bit. ``depth.py`` says what promise and margin are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.kernels.compiling import compiled
from mrl_retrieval.kernels.selecting import ANY_DROP, _keep_near
from mrl_retrieval.kernels.simd import LANES
from mrl_retrieval.kernels.simd8 import FOUR
from mrl_retrieval.matryoshka import FloatArray

from .kernels import _AHEAD, _HALF, _NOTHING, _ask, _scan_block
from .list_kernels import _ask_lists, _leaders, _lists_within, _promises

__all__ = ["gaps", "search_within"]

IntArray = npt.NDArray[np.integer[Any]]

_LEADERS = 4
# With so many candidates for each rank down to the anchor, it is worth finding out which of them are too far below it.
_EARLY = 6


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
    rotated, asked = np.empty(width, np.float32), np.zeros((FOUR, width), np.int8)
    units, totals, offsets = np.zeros(FOUR, np.float32), np.zeros(FOUR, np.int64), np.zeros(FOUR, np.int32)
    list_scores = np.zeros((FOUR, max(len(centroid_scales), 1)), np.float32)
    tops = np.empty((lists + LANES - 1) // LANES, np.float32)
    promises = np.full(len(tops) * LANES, _NOTHING, np.float32)
    leaders = np.empty(min(_LEADERS, lists), np.int64)
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
            _promises(list_scores[q], bonuses, promises, tops)
            mean = _leaders(promises, tops, lists, leaders)
            for i in range(lists):
                out[start + q, i] = mean - promises[i]


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
    rotated, asked = np.empty(width, np.float32), np.zeros((FOUR, width), np.int8)
    units, totals, offsets = np.zeros(FOUR, np.float32), np.zeros(FOUR, np.int64), np.zeros(FOUR, np.int32)
    list_scores = np.zeros((FOUR, max(len(centroid_scales), 1)), np.float32)
    tops = np.empty((lists + LANES - 1) // LANES, np.float32)
    promises = np.full(len(tops) * LANES, _NOTHING, np.float32)
    leaders = np.empty(min(_LEADERS, lists), np.int64)
    chosen = np.empty(lists + len(leaders), np.int64)
    block_scores = np.empty(LANES, np.float32)
    room = 2 * limit + 8 * LANES
    kept_scores, kept = np.empty(room + LANES, np.float32), np.empty(room + LANES, np.int32)
    code_address, scale_address, place_address = codes.ctypes.data, scales.ctypes.data, places.ctypes.data
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
            _promises(list_scores[q], bonuses, promises, tops)
            probed = _lists_within(promises, tops, lists, margin, leaders, chosen)
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
            n, threshold, scanned = 0, _NOTHING, 0
            enough = room - LANES if drop >= ANY_DROP else min(_EARLY * anchor, room - LANES)
            for rank in range(probed):
                here = chosen[rank]
                base = list_scores[q, here]
                block = first[here]
                while block >= 0:
                    scanned += 1
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
                    if n > enough:
                        n, threshold = _keep_near(kept_scores, kept, n, limit, anchor, drop)
                        enough = max(enough, min(max(_EARLY * anchor, 2 * n), room - LANES))
                    block = after
            n, _ = _keep_near(kept_scores, kept, n, limit, anchor, drop)
            out_counts[start + q] = n
            out_scanned[start + q] = scanned
            for i in range(n):
                out_scores[start + q, i] = kept_scores[i]
                out_places[start + q, i] = kept[i]
