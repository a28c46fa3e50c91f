"""Exact cosine scores and the top k with stable ties: the oracle of every test.

The order of results is one everywhere: score descending, then id ascending (by code point). At the k boundary
any member of a tie group is a right answer, but this module always takes the smallest ids, so that it can serve
as a reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from .matryoshka import FloatArray, normalize

IndexArray = npt.NDArray[np.intp]

__all__ = ["IndexArray", "cosine_scores", "exact_search", "nearest_places", "rank", "top_k"]

_QUERIES_AT_ONCE = 64


def cosine_scores(query: FloatArray, vectors: npt.NDArray[np.float32], dim: int | None = None) -> FloatArray:
    """Cosine of one query ``(D,)`` with each row of ``(N, D)``, over the first ``dim`` components: ``(N,)``.

    Rows need not have unit length: a stored float16 row does not, quite, and a cut one not at all. A zero
    vector, on either side, scores 0.
    """
    if dim is not None and dim < len(query):
        query, vectors = query[:dim], vectors[:, :dim]
    dots = vectors @ query
    squares = np.einsum("nd,nd->n", vectors, vectors)
    lengths = np.sqrt(squares * np.float32(query @ query))
    scores: FloatArray = np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0)
    return scores


def rank(scores: npt.NDArray[np.floating], ids: Sequence[str], k: int | None = None) -> IndexArray:
    """Positions of the best ``k`` of parallel ``scores`` and ``ids``: score descending, then id ascending.

    >>> rank(np.array([0.5, 0.9, 0.5]), ["b", "c", "a"]).tolist()
    [1, 2, 0]
    """
    n = len(scores)
    k = n if k is None else min(k, n)
    if k == 0:
        return np.empty(0, dtype=np.intp)
    if k == n:
        values = scores.tolist()
        return np.asarray(sorted(range(n), key=lambda i: (-values[i], ids[i])), dtype=np.intp)
    # Everything that ties with the k-th score stays in, so that the ids decide and not the partition.
    kept = np.flatnonzero(scores >= np.partition(scores, n - k)[n - k])
    order = sorted((-score, ids[i], i) for i, score in zip(kept.tolist(), scores[kept].tolist(), strict=True))
    return np.asarray([i for _, _, i in order[:k]], dtype=np.intp)


def top_k(scores: npt.NDArray[np.floating], ids: Sequence[str], k: int) -> tuple[list[str], FloatArray]:
    """Ids and scores of the best ``k``, in the order of :func:`rank`."""
    best = rank(scores, ids, k)
    return [ids[i] for i in best], np.asarray(scores[best], dtype=np.float32)


def exact_search(
    queries: npt.NDArray[np.floating],
    vectors: npt.NDArray[np.floating],
    ids: Sequence[str],
    k: int,
    *,
    dim: int | None = None,
) -> list[tuple[list[str], FloatArray]]:
    """The true answer: for each query ``(Q, D)`` the best ``k`` of ``(N, D)`` by cosine over ``dim`` components.

    Computed in float64 and rounded once, so that other implementations can be held to it.

    >>> exact_search(np.eye(2), np.eye(2), ["x", "y"], 1)[0][0]
    ['x']
    """
    d = queries.shape[1] if dim is None else dim
    left, right = (normalize(side[:, :d]).astype(np.float64) for side in (queries, vectors))
    return [top_k(row.astype(np.float32), ids, k) for row in left @ right.T]


def nearest_places(queries: FloatArray, vectors: FloatArray, count: int) -> Iterator[IndexArray]:
    """Places of the best ``count`` of ``(N, D)`` by dot product for each of ``(Q, D)``, best first.

    Equal scores come in the order of their places, those at the boundary too.

    >>> [places.tolist() for places in nearest_places(np.eye(2), np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]), 2)]
    [[1, 2], [0, 1]]
    """
    count = min(count, len(vectors))
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        for scores in queries[start : start + _QUERIES_AT_ONCE] @ vectors.T:
            # Everything that ties with the last one stays in, so that places decide and not the partition.
            last = np.partition(scores, len(scores) - count)[len(scores) - count]
            near = np.flatnonzero(scores >= last)
            yield near[np.argsort(-scores[near], kind="stable")[:count]]
