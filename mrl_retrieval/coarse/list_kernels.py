"""The compiled loops that choose lists: how well each suits a query, and which of them are to be scanned.

Bit for bit what ``reference.py`` and ``depth_reference.py`` compute, and without the interpreter's lock.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.kernels.compiling import compiled
from mrl_retrieval.kernels.selecting import _select
from mrl_retrieval.kernels.simd import LANES, largest
from mrl_retrieval.kernels.simd8 import FOUR, scores8, scores8_of_four
from mrl_retrieval.matryoshka import FloatArray

from .encode_kernels import _rotate, _to_bytes

__all__: list[str] = []

IntArray = npt.NDArray[Any]

_NOTHING = np.float32(-np.inf)
_GROUPS_A_PROBE = 4


@compiled
def _room_to_ask(
    rotation: FloatArray, centroid_scales: FloatArray
) -> tuple[FloatArray, IntArray, FloatArray, IntArray, IntArray, FloatArray]:
    """What :func:`_ask_lists` works in and writes to: room for a rotated query (width,), then of four queries the
    signed bytes (4, width), their units, their sums, 128 times these, and the scores of all centroids (4, n). Without
    centroids there is one list, and its score is 0."""
    width = rotation.shape[1]
    return (
        np.empty(width, np.float32),
        np.zeros((FOUR, width), np.int8),
        np.zeros(FOUR, np.float32),
        np.zeros(FOUR, np.int64),
        np.zeros(FOUR, np.int32),
        np.zeros((FOUR, max(len(centroid_scales), 1)), np.float32),
    )


@compiled
def _ask_lists(
    queries: FloatArray,
    start: int,
    rotation: FloatArray,
    centroid_codes: IntArray,
    centroid_scales: FloatArray,
    room: tuple[FloatArray, IntArray, FloatArray, IntArray, IntArray, FloatArray],
) -> int:
    """Prepare the next queries, ``FOUR`` at most, in the ``room`` of :func:`_room_to_ask`; how many they are."""
    rotated, asked, units, totals, offsets, scores = room
    count = min(FOUR, len(queries) - start)
    groups, stride = centroid_codes.shape[1], 4 * scores.shape[1]
    for q in range(count):
        _rotate(queries[start + q], rotation, rotated)
        units[q], totals[q] = _to_bytes(rotated, asked[q])
        offsets[q] = 128 * totals[q]
    bytes_at, offsets_at, units_at = asked.ctypes.data, offsets.ctypes.data, units.ctypes.data
    codes_at, scales_at, out_at = centroid_codes.ctypes.data, centroid_scales.ctypes.data, scores.ctypes.data
    for block in range(centroid_codes.shape[0]):
        codes, scales, out = codes_at + 64 * groups * block, scales_at + 64 * block, out_at + 64 * block
        if count == 1:
            scores8(codes, groups, bytes_at, offsets[0], units[0], scales, out)
        else:
            scores8_of_four(codes, groups, bytes_at, offsets_at, units_at, scales, out, stride)
    return count


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
def _promises(scores: FloatArray, bonuses: FloatArray, out: FloatArray, tops: FloatArray) -> None:
    """How promising lists are, to ``out``, and the most that any in each block of 16 is, to ``tops``. The rest of the
    last block of ``out`` is to be minus infinity."""
    for i in range(len(bonuses)):
        out[i] = scores[i] + bonuses[i]
    for block in range(len(tops)):
        tops[block] = largest(out.ctypes.data + 4 * LANES * block)


@compiled
def _leaders(promises: FloatArray, tops: FloatArray, lists: int, leaders: IntArray) -> np.float32:
    """The best lists, to ``leaders`` (at most as many as there are lists); returns their mean promise."""
    n = len(leaders)
    least = _NOTHING
    held = 0
    for block in range(len(tops)):
        if held == n and tops[block] <= least:
            continue
        for i in range(LANES * block, min(LANES * block + LANES, lists)):
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
def _lists_within(
    promises: FloatArray,
    tops: FloatArray,
    lists: int,
    margin: np.float32,
    leaders: IntArray,
    chosen: IntArray,
) -> np.int64:
    """The lists whose gap is at most ``margin``, to ``chosen``, the leading ones first; how many there are, at least 1.

    The leading lists come first because what they hold keeps most of the others' documents out early. ``promises`` and
    ``tops`` are as :func:`_promises` gives them; ``leaders`` is room for as many as there are to be.
    """
    mean = _leaders(promises, tops, lists, leaders)
    probed = np.int64(0)
    for i in range(len(leaders)):
        if i == 0 or mean - promises[leaders[i]] <= margin:
            chosen[probed] = leaders[i]
            probed += 1
            promises[leaders[i]] = _NOTHING
    for block in range(len(tops)):
        if mean - tops[block] > margin:
            continue
        for i in range(LANES * block, min(LANES * block + LANES, lists)):
            chosen[probed] = i
            probed += np.int64(promises[i] > _NOTHING and mean - promises[i] <= margin)
    return probed
