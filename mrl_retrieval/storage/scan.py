"""Cosine scores of stored vectors, and the exact best of all of them in blocks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mrl_retrieval.matryoshka import FloatArray

from .segments import FineView, PositionArray

__all__ = ["best_of", "cosines", "exact_scan"]

_BLOCK = 8192
_LANES = 64
# Far above the rounding of a float32 dot product of unit vectors, far below any difference that matters.
_SLACK = np.float32(1e-5)


def cosines(query: FloatArray, vectors: FloatArray, dims: int) -> FloatArray:
    """Cosine of ``query`` (D,) with each of ``vectors`` (n, D) over the first ``dims`` components: (n,).

    Stored vectors need not have unit length: float16 rounds, and a cut takes length away. A zero vector scores 0.

    The order of the additions is part of the definition, so that equal vectors get equal scores wherever they stand,
    and compiled loops the same to the last bit: the products with the components i, i + 64, … are added up in lane i of
    64, then the upper half of the lanes to the lower, six times; likewise the squares, those of the query too.
    """
    query, vectors = query[:dims], vectors[:, :dims]
    dots = _lane_sums(vectors * query)
    lengths = np.sqrt(_lane_sums(vectors * vectors) * _lane_sums((query * query)[None]))
    if not lengths.all():
        lengths[lengths == 0] = np.inf
    scores: FloatArray = dots / lengths
    return scores


def _lane_sums(products: FloatArray) -> FloatArray:
    """The sums of the rows of (n, dims), in lanes."""
    n, dims = products.shape
    whole = dims // _LANES * _LANES
    lanes = np.zeros((n, _LANES), dtype=np.float32)
    for start in range(0, whole, _LANES):
        lanes += products[:, start : start + _LANES]
    if whole < dims:
        lanes[:, : dims - whole] += products[:, whole:]
    width = _LANES
    while width > 1:
        width //= 2
        lanes = lanes[:, :width] + lanes[:, width:]
    sums: FloatArray = lanes[:, 0]
    return sums


def best_of(scores: npt.NDArray[np.float32], k: int, slack: np.float32 | float = 0.0) -> npt.NDArray[np.intp]:
    """Where the best ``k`` scores are, with all that tie with the last of them (or are within ``slack`` of it)."""
    if k >= len(scores):
        return np.arange(len(scores))
    ordered = scores.copy()
    ordered.partition(len(scores) - k)
    where: npt.NDArray[np.intp] = (scores >= ordered[len(scores) - k] - slack).nonzero()[0]
    return where


def exact_scan(
    fine: FineView, positions: PositionArray, queries: FloatArray, k: int
) -> list[tuple[PositionArray, FloatArray]]:
    """For each of ``queries`` (Q, D): positions and scores of the true best ``k`` with all ties, in no order.

    Args:
        fine: the stored vectors.
        positions: those that take part, ascending.
        queries: unit rows, or zero rows.
        k: at least 1.
    """
    nobody = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    best = [nobody] * len(queries)
    for start in range(0, len(positions), _BLOCK):
        block = positions[start : start + _BLOCK]
        first, last = int(block[0]), int(block[-1])
        vectors = fine.read(first, last + 1) if last - first + 1 == len(block) else fine.gather(block)
        lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        dots = queries @ vectors.T
        scores = np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0)
        for q, (kept, kept_scores) in enumerate(best):
            together = np.concatenate([kept_scores, scores[q]])
            chosen = best_of(together, k, _SLACK)
            best[q] = np.concatenate([kept, block])[chosen], together[chosen]
    return [_exactly(fine, kept, query, k) for query, (kept, _) in zip(queries, best, strict=True)]


def _exactly(fine: FineView, kept: PositionArray, query: FloatArray, k: int) -> tuple[PositionArray, FloatArray]:
    """The same scores as a rerank gives, so that both kinds of search agree to the last bit."""
    if not len(kept):
        return kept, np.empty(0, dtype=np.float32)
    scores = cosines(query, fine.gather(kept), len(query))
    chosen = best_of(scores, k)
    return kept[chosen], scores[chosen]
