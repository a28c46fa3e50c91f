"""What ``depth_kernels.py`` does, in NumPy: the same numbers to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.matryoshka import FloatArray

from .reference import _as_bytes, _best, _blocks_of, _centroid_scores, _rotated, _wanted, _write

__all__ = ["gaps", "search_within"]

_Array = npt.NDArray[Any]
_Query = tuple[npt.NDArray[np.int32], np.float32, int]

_LEADERS = 4


def _prepared(
    vector: FloatArray, rotation: FloatArray, centroid_codes: _Array, centroid_scales: FloatArray, lists: int
) -> tuple[_Query, FloatArray]:
    """The query in bytes, and the scores of the centroids (lists,)."""
    values, units, totals = _as_bytes(_rotated(vector, rotation))
    query = values[0], units[0], int(totals[0])
    if lists == 1:
        return query, np.zeros(1, np.float32)
    return query, _centroid_scores(*query, centroid_codes, centroid_scales)[:lists]


def _gaps(promises: FloatArray) -> tuple[FloatArray, int]:
    """The gap of each list, and which one leads."""
    leaders = np.argsort(-promises, kind="stable")[:_LEADERS]
    total = np.float32(0)
    for leader in leaders:
        total += promises[leader]
    gaps: FloatArray = total / np.float32(len(leaders)) - promises
    return gaps, int(leaders[0])


def gaps(
    queries: FloatArray,
    rotation: FloatArray,
    centroid_codes: _Array,
    centroid_scales: FloatArray,
    bonuses: FloatArray,
    out: FloatArray,
) -> None:
    """See :func:`depth_kernels.gaps`."""
    for q, vector in enumerate(queries):
        _, list_scores = _prepared(vector, rotation, centroid_codes, centroid_scales, len(bonuses))
        out[q], _ = _gaps(list_scores + bonuses)


def search_within(
    queries: FloatArray,
    rotation: FloatArray,
    centroid_codes: _Array,
    centroid_scales: FloatArray,
    bonuses: FloatArray,
    first: _Array,
    following: _Array,
    codes: _Array,
    scales: _Array,
    places: _Array,
    allowed: npt.NDArray[np.bool_],
    margin: np.float32,
    limit: int,
    anchor: int,
    drop: np.float32,
    out_scores: FloatArray,
    out_places: _Array,
    out_counts: _Array,
    out_scanned: _Array,
) -> None:
    """See :func:`depth_kernels.search_within`."""
    for q, vector in enumerate(queries):
        query, list_scores = _prepared(vector, rotation, centroid_codes, centroid_scales, len(first))
        below, leader = _gaps(list_scores + bonuses)
        chosen = below <= margin
        chosen[leader] = True
        blocks, bases = _blocks_of(np.flatnonzero(chosen), list_scores, first, following)
        held = places[blocks]
        wanted = _wanted(held, allowed)
        found, kept = _best(codes, scales, places, blocks, bases, wanted, query, limit)
        if len(found) >= anchor:
            near = found > -np.partition(-found, anchor - 1)[anchor - 1] - drop
            found, kept = found[near], kept[near]
        _write(q, found, kept, out_scores, out_places, out_counts)
        out_scanned[q] = len(blocks)
