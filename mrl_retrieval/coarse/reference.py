"""What ``kernels.py`` does, in NumPy: the same numbers to the last bit, for where numba is not installed and for tests.

Sums are taken in the order of the compiled loops, in single precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.matryoshka import FloatArray

__all__ = ["assign", "encode", "put", "rotate", "search", "search_slots"]

_Array = npt.NDArray[Any]

_HALF = np.float32(7.5)
_RANGES = 8
_TINY = np.float32(1e-12)
_LANES = 16
_BLOCK = 1024


def rotate(vectors: FloatArray, rotation: FloatArray, out: FloatArray) -> None:
    """See :func:`kernels.rotate`."""
    out[:] = 0
    for i, row in enumerate(rotation):
        out += vectors[:, i : i + 1] * row


def _rotated(vector: FloatArray, rotation: FloatArray) -> FloatArray:
    out = np.empty((1, rotation.shape[1]), np.float32)
    rotate(vector[None], rotation, out)
    return out


def _as_bytes(vectors: FloatArray) -> tuple[npt.NDArray[np.int32], FloatArray, npt.NDArray[np.int64]]:
    """Vectors (n, d) as signed bytes, their units (n,) and their sums (n,)."""
    units = np.abs(vectors).max(axis=1) / np.float32(127)
    values = np.divide(vectors, units[:, None], out=np.zeros_like(vectors), where=units[:, None] > 0)
    rounded = np.rint(values).astype(np.int32)
    return rounded, units, rounded.sum(axis=1, dtype=np.int64)


def _centroid_scores(
    query: npt.NDArray[np.int32], unit: np.float32, total: int, codes: _Array, scales: FloatArray
) -> FloatArray:
    levels = codes.reshape(len(codes), -1, _LANES, 4).transpose(0, 2, 1, 3).reshape(len(scales), -1)
    sums = levels.astype(np.int32) @ query - np.int32(128 * total)
    scores: FloatArray = sums.astype(np.float32) * unit * scales
    return scores


def assign(vectors: FloatArray, codes: _Array, scales: FloatArray, half_squares: FloatArray, out: _Array) -> None:
    """See :func:`kernels.assign`."""
    queries, units, totals = _as_bytes(vectors)
    for i, query in enumerate(queries):
        scores = _centroid_scores(query, units[i], int(totals[i]), codes, scales)[: len(half_squares)]
        out[i] = np.argmax(scores - half_squares)


def _levels(rows: FloatArray, inverse: FloatArray) -> FloatArray:
    levels: FloatArray = np.floor(rows * inverse[:, None] + np.float32(8)).clip(0, 15)
    return levels


def _sums(products: FloatArray) -> FloatArray:
    """Sums of the rows (n, d): in 8 lanes, which are then added in halves."""
    lanes = np.zeros((len(products), 8), np.float32)
    for start in range(0, products.shape[1], 8):
        lanes += products[:, start : start + 8]
    for width in (4, 2, 1):
        lanes[:, :width] += lanes[:, width : 2 * width]
    return lanes[:, 0]


def encode(residuals: FloatArray, codes: _Array, scales: FloatArray) -> None:
    """See :func:`kernels.encode`."""
    largest = np.abs(residuals).max(axis=1)
    there = np.flatnonzero(largest >= _TINY)
    codes[:], scales[:] = 8, 0
    rows, largest = residuals[there], largest[there]
    best, best_range = np.full(len(rows), -1, np.float32), np.ones(len(rows), np.float32)
    for step in range(_RANGES):
        part = np.float32(1.0) - np.float32(0.07) * np.float32(step)
        centred = _levels(rows, _HALF / (largest * part)) - _HALF
        cosines = _sums(centred * rows) / np.sqrt(_sums(centred * centred))
        better = cosines > best
        best[better], best_range[better] = cosines[better], part
    levels = _levels(rows, _HALF / (largest * best_range))
    codes[there], scales[there] = levels.astype(np.uint8), _sums(rows * rows) / _sums((levels - _HALF) * rows)


def put(codes: _Array, slots: _Array, pool: _Array) -> None:
    """See :func:`kernels.put`."""
    halves = codes.reshape(len(codes), -1, 2, 4)
    packed = halves[:, :, 0] | (halves[:, :, 1] << 4)
    blocks, lanes = slots >> 4, slots & 15
    pool.reshape(len(pool), -1, _LANES, 4)[blocks, :, lanes] = packed


def _block_scores(
    pool: _Array, scales: _Array, query: npt.NDArray[np.int32], unit: np.float32, total: int, bases: FloatArray
) -> FloatArray:
    """Scores (n, 16) of the documents in n blocks, whose lists score ``bases`` (n,)."""
    n, groups, _ = pool.shape
    halves = np.stack([pool & 15, pool >> 4], axis=2).reshape(n, groups, 2, _LANES, 4)
    sums = np.einsum("bghlk,ghk->bl", halves.astype(np.int32), query.reshape(groups, 2, 4))
    shift = -(_HALF * np.float32(total) * unit)
    wide = scales.view(np.float16).astype(np.float32)
    scores: FloatArray = (sums.astype(np.float32) * unit + shift) * wide + bases[:, None]
    return scores


def _best(
    pool: _Array,
    scales: _Array,
    places: _Array,
    blocks: _Array,
    bases: FloatArray,
    wanted: npt.NDArray[np.bool_],
    query: tuple[npt.NDArray[np.int32], np.float32, int],
    limit: int,
) -> tuple[FloatArray, _Array]:
    """Scores and places of the best ``limit`` of the ``wanted`` lanes (n, 16) of some blocks (n,)."""
    found = [
        _block_scores(pool[blocks[i : i + _BLOCK]], scales[blocks[i : i + _BLOCK]], *query, bases[i : i + _BLOCK])
        for i in range(0, len(blocks), _BLOCK)
    ]
    scores = np.concatenate([*found, np.empty((0, _LANES), np.float32)])[wanted]
    kept = places[blocks][wanted].astype(np.int64)
    if len(scores) > limit:
        chosen = np.argpartition(-scores, limit - 1)[:limit]
        scores, kept = scores[chosen], kept[chosen]
    return scores, kept


def _blocks_of(
    lists: npt.NDArray[np.intp], list_scores: FloatArray, first: _Array, following: _Array
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """The blocks (n,) of some lists, and the scores of their lists (n,)."""
    blocks, bases = [], []
    for here in lists.tolist():
        block = int(first[here])
        while block >= 0:
            blocks.append(block)
            bases.append(list_scores[here])
            block = int(following[block])
    return np.array(blocks, dtype=np.int64), np.array(bases, dtype=np.float32)


def _wanted(places: _Array, allowed: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which lanes hold documents that take part; all do, if ``allowed`` is empty."""
    there: npt.NDArray[np.bool_] = places >= 0
    return there & allowed[places] if len(allowed) else there


def search(
    queries: FloatArray,
    rotation: FloatArray,
    centroid_codes: _Array,
    centroid_scales: FloatArray,
    first: _Array,
    following: _Array,
    codes: _Array,
    scales: _Array,
    places: _Array,
    allowed: npt.NDArray[np.bool_],
    probes: int,
    limit: int,
    out_scores: FloatArray,
    out_places: _Array,
    out_counts: _Array,
) -> None:
    """See :func:`kernels.search`."""
    lists = len(first)
    for q, vector in enumerate(queries):
        values, units, totals = _as_bytes(_rotated(vector, rotation))
        query = values[0], units[0], int(totals[0])
        list_scores = np.zeros(max(lists, 1), np.float32)
        if lists > 1:
            list_scores = _centroid_scores(*query, centroid_codes, centroid_scales)[:lists]
        nearest = np.arange(lists) if probes >= lists else np.argpartition(-list_scores, probes - 1)[:probes]
        blocks, bases = _blocks_of(nearest, list_scores, first, following)
        held = places[blocks]
        wanted = _wanted(held, allowed)
        found = _best(codes, scales, places, blocks, bases, wanted, query, limit)
        _write(q, *found, out_scores, out_places, out_counts)


def search_slots(
    queries: FloatArray,
    rotation: FloatArray,
    centroid_codes: _Array,
    centroid_scales: FloatArray,
    owner: _Array,
    codes: _Array,
    scales: _Array,
    places: _Array,
    slots: _Array,
    limit: int,
    out_scores: FloatArray,
    out_places: _Array,
    out_counts: _Array,
) -> None:
    """See :func:`kernels.search_slots`."""
    numbers, which = np.unique(slots >> 4, return_inverse=True)
    wanted = np.zeros((len(numbers), _LANES), np.bool_)
    wanted[which, slots & 15] = True
    for q, vector in enumerate(queries):
        values, units, totals = _as_bytes(_rotated(vector, rotation))
        query = values[0], units[0], int(totals[0])
        list_scores = np.zeros(1, np.float32)
        if len(centroid_scales):
            list_scores = _centroid_scores(*query, centroid_codes, centroid_scales)
        found = _best(codes, scales, places, numbers, list_scores[owner[numbers]], wanted, query, limit)
        _write(q, *found, out_scores, out_places, out_counts)


def _write(
    q: int, scores: FloatArray, kept: _Array, out_scores: FloatArray, out_places: _Array, out_counts: _Array
) -> None:
    out_counts[q] = len(scores)
    out_scores[q, : len(scores)] = scores
    out_places[q, : len(kept)] = kept
