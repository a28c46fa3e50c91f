"""Exact answers, and how an answer is held to them.

A row counts as found if its own score is no less than the k-th true score, whatever its number: rows with equal
vectors, and rows whose scores differ by less than float32 can say, are as good as one another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mrl_retrieval.matryoshka import FloatArray

__all__ = ["DEPTH", "SLACK", "exact_answers", "recall", "scores_of"]

DEPTH = 100
"""Answers kept for each query, so that any k up to it can be asked for."""

SLACK = 1e-6
"""Scores nearer to one another than this are equal: the rounding of a float32 dot product of unit vectors."""

_BLOCK = 20_000
_MARGIN = 10  # answers beyond the depth that are kept until their scores are known in float64

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]


def exact_answers(queries: FloatArray, vectors: FloatArray, depth: int = DEPTH) -> tuple[Rows, Scores]:
    """Row numbers and scores ``(Q, K)`` of the best rows of ``(N, D)`` for ``(Q, D)``: score descending, then row.

    The rows are picked in float32, with a few to spare, and scored in float64.
    """
    n_queries, kept = len(queries), min(depth + _MARGIN, len(vectors))
    best = np.full((n_queries, 0), -np.inf, dtype=np.float32)
    rows = np.zeros((n_queries, 0), dtype=np.int64)
    for start in range(0, len(vectors), _BLOCK):
        block = np.asarray(vectors[start : start + _BLOCK])
        found = queries @ block.T
        numbers = np.broadcast_to(np.arange(start, start + len(block)), found.shape)
        if len(block) > kept:
            top = np.argpartition(found, len(block) - kept, axis=1)[:, -kept:]
            found, numbers = np.take_along_axis(found, top, 1), np.take_along_axis(numbers, top, 1)
        best, rows = np.hstack([best, found]), np.hstack([rows, numbers])
        if best.shape[1] > kept:
            top = np.argpartition(best, best.shape[1] - kept, axis=1)[:, -kept:]
            best, rows = np.take_along_axis(best, top, 1), np.take_along_axis(rows, top, 1)
    scores = np.stack([scores_of(query, vectors, each) for query, each in zip(queries, rows, strict=True)])
    order = np.lexsort((rows, -scores), axis=1)[:, :depth]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)


def scores_of(query: FloatArray, vectors: FloatArray, rows: Sequence[int] | Rows) -> Scores:
    """Dot products ``(K,)`` of a query ``(D,)`` with some rows, summed in float64."""
    numbers = np.asarray(rows, dtype=np.int64)
    # In the order of the file, as the vectors may be mapped.
    order = np.argsort(numbers, kind="stable")
    found = np.empty(len(numbers))
    found[order] = np.asarray(vectors[numbers[order]], dtype=np.float64) @ query.astype(np.float64)
    return found


def recall(answer: Sequence[int], query: FloatArray, vectors: FloatArray, true_scores: Scores, k: int) -> float:
    """Share of the true top ``k`` that is in an answer: ``min(k, |{rows with score >= the k-th true score}|) / k``.

    Args:
        answer: row numbers; what is repeated counts once, what is beyond the first ``k`` not at all, and what is no
            row number (libraries fill up with -1) is passed over.
        query: ``(D,)``.
        vectors: ``(N, D)``.
        true_scores: of the exact answer, best first, at least ``min(k, N)``.
        k: how many were asked for; where there are fewer rows, all of them.
    """
    k = min(k, len(vectors))
    rows = [row for row in dict.fromkeys(int(row) for row in answer[:k]) if 0 <= row < len(vectors)]
    if not k:
        return 1.0
    found = scores_of(query, vectors, rows) if rows else np.empty(0)
    return int(np.count_nonzero(found >= true_scores[k - 1] - SLACK)) / k
