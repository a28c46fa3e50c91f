"""The compiled loops of the coarse index that read: searching blocks of 4-bit codes. ``encode_kernels.py`` makes them.

Each equals its namesake in ``reference.py`` bit for bit, and releases the interpreter's lock. The layout that they work
on is described in ``lists.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.kernels.compiling import compiled
from mrl_retrieval.kernels.selecting import ANY_DROP, _keep
from mrl_retrieval.kernels.simd import LANES, prefetch, scan4
from mrl_retrieval.kernels.simd8 import FOUR
from mrl_retrieval.matryoshka import FloatArray

from .encode_kernels import assign, encode, put, rotate
from .list_kernels import _ask_lists, _nearest_lists, _room_to_ask
from .scan_kernels import _room_for, _scan_lists

__all__ = ["assign", "encode", "put", "rotate", "search", "search_slots"]

IntArray = npt.NDArray[Any]

_HALF = np.float32(7.5)
_NOTHING = np.float32(-np.inf)


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
    lists, width = len(first), rotation.shape[1]
    room = _room_to_ask(rotation, centroid_scales)
    _, asked, units, totals, _, list_scores = room
    chosen_scores, chosen = np.empty(lists, np.float32), np.empty(lists, np.int64)
    kept_scores, kept = _room_for(limit)
    probed = min(probes, lists)
    for start in range(0, len(queries), FOUR):
        count = _ask_lists(queries, start, rotation, centroid_codes, centroid_scales, room)
        for q in range(count):
            _nearest_lists(list_scores[q], lists, probed, chosen_scores, chosen)
            n, _ = _scan_lists(
                chosen,
                probed,
                list_scores[q],
                asked.ctypes.data + q * width,
                units[q],
                totals[q],
                (first, following, codes, scales, places),
                allowed,
                limit,
                1,
                ANY_DROP,
                kept_scores,
                kept,
            )
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
    room = _room_to_ask(rotation, centroid_scales)
    _, asked, units, totals, _, list_scores = room
    block_scores = np.empty(LANES, np.float32)
    kept_scores, kept = _room_for(limit)
    block_bytes = groups * 64
    for start in range(0, len(queries), FOUR):
        count = _ask_lists(queries, start, rotation, centroid_codes, centroid_scales, room)
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
                    if n == len(kept) - LANES:
                        n, threshold = _keep(kept_scores, kept, n, limit)
            n, _ = _keep(kept_scores, kept, n, limit)
            out_counts[start + q] = n
            for i in range(n):
                out_scores[start + q, i] = kept_scores[i]
                out_places[start + q, i] = kept[i]
