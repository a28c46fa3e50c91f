"""The two passes over codes in NumPy: what :mod:`.kernels` computes, said plainly. Integers and floats are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.matryoshka import FloatArray

from .bounds import QueryCodes
from .codes import from_short
from .layout import BLOCK, CHUNK, Chunk

__all__ = ["refined", "scanned"]

PositionArray = npt.NDArray[np.int64]
Bounds = tuple[FloatArray, FloatArray]
"""Scores and margins."""

_BLOCKS = 64


def scanned(chunk: Chunk, which: npt.NDArray[np.intp], queries: QueryCodes) -> Bounds:
    """Scores and margins of the 16 documents of each of so many blocks (n,) of a chunk: (Q, 16 n)."""
    shape = len(queries.planes), len(which) * BLOCK
    scores, margins = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
    for first in range(0, len(which), _BLOCKS):
        some = which[first : first + _BLOCKS]
        here = slice(first * BLOCK, (first + len(some)) * BLOCK)
        scores[:, here], margins[:, here] = _scanned(chunk, some, queries)
    return scores, margins


def _scanned(chunk: Chunk, which: npt.NDArray[np.intp], queries: QueryCodes) -> Bounds:
    head, tail, n = chunk.layout.head, chunk.layout.tail, len(which)
    blocks, planes = chunk.blocks[which], queries.planes
    cut = BLOCK * head
    heads = blocks[:, :cut].reshape(n, head // 4, BLOCK, 4).transpose(0, 2, 1, 3).reshape(n * BLOCK, head)
    groups = blocks[:, cut : cut + BLOCK * tail // 2].reshape(n, tail // 8, BLOCK, 4)
    tails = np.stack([groups & 15, groups >> 4], axis=3).transpose(0, 2, 1, 3, 4).reshape(n * BLOCK, tail)
    whole = [
        _products(planes[:, :, :head], heads, 255) - queries.offsets[:, 0, None],
        _products(planes[:, :, head:], tails, 15) - queries.offsets[:, 1, None],
    ]
    factors = [from_short(half).reshape(-1) for half in chunk.layout.factors(blocks).transpose(1, 0, 2)]
    number = [queries.numbers[:, i, None] for i in range(8)]
    scores = (whole[0].astype(np.float32) * number[1]) * factors[0] + number[0]
    scores = scores + (whole[1].astype(np.float32) * number[2] + number[3]) * factors[1]
    margins = (factors[2] * number[4] + factors[3] * number[5]) + number[6]
    return scores, margins


def _products(planes: npt.NDArray[np.int8], codes: npt.NDArray[np.uint8], largest: int) -> npt.NDArray[np.int32]:
    """Exact products of planes (Q, 2, n) and codes (N, n): (Q, N). A float holds every sum, whatever its order."""
    kind: Any = np.float32 if 128 * largest * codes.shape[1] < 2**24 else np.float64
    flat: npt.NDArray[Any] = planes.reshape(2 * len(planes), planes.shape[2]).astype(kind) @ codes.astype(kind).T
    high, low = flat.astype(np.int32).reshape(len(planes), 2, len(codes)).transpose(1, 0, 2)
    products: npt.NDArray[np.int32] = high * np.int32(256) + low
    return products


def refined(chunks: list[Chunk], queries: QueryCodes, q: int, found: PositionArray, scores: FloatArray) -> Bounds:
    """Scores and margins of documents, made better by the low halves of their codes.

    Args:
        chunks: all of them.
        queries: of which query ``q`` is meant.
        q: which.
        found: (n,) places of the documents.
        scores: (n,) by the high halves.
    """
    if not len(found):
        return scores, scores.copy()
    which, place = found // CHUNK, found % CHUNK
    rows = np.empty((len(found), chunks[0].layout.row_bytes), dtype=np.uint8)
    for i in np.unique(which):
        rows[which == i] = chunks[i].tails[place[which == i]]
    half = chunks[0].layout.tail // 2
    low = np.concatenate([rows[:, :half] & 15, rows[:, :half] >> 4], axis=1)
    sums = low.astype(np.float64) @ queries.integers[q].astype(np.float64)
    number = queries.numbers[q]
    scale, head_error, tail_error, _ = from_short(rows[:, half:].copy().view(np.uint16)).T
    better = scores + (sums.astype(np.float32) * number[7] - number[3]) * scale
    return better, (head_error * number[4] + tail_error * number[5]) + number[6]
