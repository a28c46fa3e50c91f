"""The compiled loops that keep the best of what was scored."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.matryoshka import FloatArray

from .compiling import compiled
from .simd import LANES, above, append, count_above

__all__ = ["ANY_DROP"]

IntArray = npt.NDArray[Any]

_NOTHING = np.float32(-np.inf)
# Halvings of the range of scores before the few that are left are looked at one by one.
_HALVINGS = 8
_FEW = 32
# Scores are cosines, or near: none is so far below another.
ANY_DROP = np.float32(8)


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
def _narrow(scores: FloatArray, places: IntArray, n: int, k: int) -> None:
    """The same, but the others are lost, and fast: the range that the k-th best score is in is halved until few are in
    it, without a branch that depends on a score. There is to be room for 16 more than ``n``; places are int32."""
    if n < _FEW:
        _select(scores, places, n, k)
        return
    blocks = (n + LANES - 1) // LANES
    scores[n : blocks * LANES] = _NOTHING
    at, places_at = scores.ctypes.data, places.ctypes.data
    least, high = scores[0], scores[0]
    for i in range(n):
        least, high = min(least, scores[i]), max(high, scores[i])
    # More than k are above ``low``, and at most k above ``high``.
    low, within, surely = _NOTHING, n, 0
    for _ in range(_HALVINGS):
        middle = np.float32(0.5) * (max(low, least) + high)
        found = count_above(at, blocks, middle)
        if found > k:
            low, within = middle, found
        else:
            high, surely = middle, found
            if found == k:
                break
    left = within - surely
    doubtful, doubtful_places = np.empty(left + 2 * LANES, np.float32), np.empty(left + 2 * LANES, np.int32)
    doubtful_at, doubtful_places_at = doubtful.ctypes.data, doubtful_places.ctypes.data
    kept, aside = 0, 0
    for start in range(0, 4 * n, 4 * LANES):
        sure = above(at + start, high)
        unsure = above(at + start, low) & ~sure
        aside += append(unsure, at + start, places_at + start, doubtful_at + 4 * aside, doubtful_places_at + 4 * aside)
        kept += append(sure, at + start, places_at + start, at + 4 * kept, places_at + 4 * kept)
    if kept < k:
        _select(doubtful, doubtful_places, aside, k - kept)
        scores[kept:k] = doubtful[: k - kept]
        places[kept:k] = doubtful_places[: k - kept]


@compiled
def _keep(scores: FloatArray, places: IntArray, n: int, limit: int) -> tuple[int, np.float32]:
    """Reduce ``n`` candidates to the best ``limit``; returns how many there are, and the least of their scores."""
    if n > limit:
        _narrow(scores, places, n, limit)
        n = limit
    return n, _least(scores, n)


@compiled
def _least(scores: FloatArray, n: int) -> np.float32:
    """The least of the first ``n``."""
    least = scores[0]
    for i in range(n):
        least = min(least, scores[i])
    return np.float32(least)


@compiled
def _keep_near(
    scores: FloatArray, places: IntArray, n: int, limit: int, anchor: int, drop: np.float32
) -> tuple[int, np.float32]:
    """Reduce ``n`` candidates to the best ``limit``, and these to those that score above the anchor less the drop.

    The anchor is the score of the candidate with that rank. Returns how many are left, and what others have to exceed.
    """
    if n > limit:
        _narrow(scores, places, n, limit)
        n = limit
    if n < anchor:
        return n, _NOTHING
    if drop >= ANY_DROP:
        least = _least(scores, n)
        return n, least if n == limit else _NOTHING
    _select(scores, places, n, anchor)
    least = _least(scores, anchor) - drop
    left = 0
    weakest = np.float32(np.inf)
    for i in range(n):
        if scores[i] > least:
            scores[left], places[left] = scores[i], places[i]
            weakest = min(weakest, scores[i])
            left += 1
    return left, weakest if left == limit else least
