"""The compiled loops of a search whose depth depends on the query: how promising lists are, and the search itself.

Each equals its namesake in ``depth_reference.py`` bit for bit. ``depth.py`` says what promise and margin are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.kernels.compiling import compiled
from mrl_retrieval.kernels.simd import LANES
from mrl_retrieval.kernels.simd8 import FOUR
from mrl_retrieval.matryoshka import FloatArray

from .list_kernels import _ask_lists, _leaders, _lists_within, _promises, _room_to_ask
from .scan_kernels import _NOTHING, _room_for, _scan_lists

__all__ = ["gaps", "search_within"]

IntArray = npt.NDArray[np.integer[Any]]

_LEADERS = 4


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
    lists = len(bonuses)
    room = _room_to_ask(rotation, centroid_scales)
    list_scores = room[-1]
    tops = np.empty((lists + LANES - 1) // LANES, np.float32)
    promises = np.full(len(tops) * LANES, _NOTHING, np.float32)
    leaders = np.empty(min(_LEADERS, lists), np.int64)
    for start in range(0, len(queries), FOUR):
        count = _ask_lists(queries, start, rotation, centroid_codes, centroid_scales, room)
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
    lists, width = len(first), rotation.shape[1]
    room = _room_to_ask(rotation, centroid_scales)
    _, asked, units, totals, _, list_scores = room
    tops = np.empty((lists + LANES - 1) // LANES, np.float32)
    promises = np.full(len(tops) * LANES, _NOTHING, np.float32)
    leaders = np.empty(min(_LEADERS, lists), np.int64)
    chosen = np.empty(lists + len(leaders), np.int64)
    kept_scores, kept = _room_for(limit)
    for start in range(0, len(queries), FOUR):
        count = _ask_lists(queries, start, rotation, centroid_codes, centroid_scales, room)
        for q in range(count):
            _promises(list_scores[q], bonuses, promises, tops)
            probed = _lists_within(promises, tops, lists, margin, leaders, chosen)
            n, scanned = _scan_lists(
                chosen,
                probed,
                list_scores[q],
                asked.ctypes.data + q * width,
                units[q],
                totals[q],
                (first, following, codes, scales, places),
                allowed,
                limit,
                anchor,
                drop,
                kept_scores,
                kept,
            )
            out_counts[start + q] = n
            out_scanned[start + q] = scanned
            for i in range(n):
                out_scores[start + q, i] = kept_scores[i]
                out_places[start + q, i] = kept[i]
