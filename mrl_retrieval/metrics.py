"""Retrieval metrics: recall@k, coverage, nDCG@k.

Recall and coverage compare a search with *exact search over the same vectors*; nDCG compares it with human
judgements. They answer different questions, and both are needed: the first tells what the short vectors lose,
the second whether anybody minds.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

__all__ = ["coverage", "ndcg_at_k", "recall_at_k"]


def recall_at_k(found: Sequence[str], truth: Sequence[str], k: int) -> float:
    """Share of the true top k that is among the first k found, in 0..1: ``|found[:k] ∩ truth[:k]| / |truth[:k]|``.

    With an empty ``truth`` there was nothing to miss: 1.0.

    >>> recall_at_k(["a", "b", "x"], ["a", "b", "c"], k=3)
    0.6666666666666666
    """
    return coverage(found[:k], truth, k)


def coverage(candidates: Collection[str], truth: Sequence[str], k: int) -> float:
    """Share of the true top k that is among all ``candidates``, in 0..1; 1.0 with an empty ``truth``.

    It is the ceiling of recall@k: the rerank cannot bring back what the coarse stage lost.

    >>> coverage({"c", "a", "z", "y"}, ["a", "b", "c"], k=2)
    0.5
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    wanted = set(truth[:k])
    return len(wanted.intersection(candidates)) / len(wanted) if wanted else 1.0


def ndcg_at_k(found: Sequence[str], gains: Mapping[str, float], k: int = 10) -> float:
    """Normalised discounted cumulative gain of the first k found, in 0..1.

    ``DCG = Σ_{i=1..k} gain_i / log2(i + 1)``, divided by that of the best possible order. Linear gain, as in
    trec_eval's ``ndcg_cut`` (Järvelin & Kekäläinen, TOIS 2002). Ids without a judgement count 0; with no
    positive judgement at all the value is 0.

    >>> round(ndcg_at_k(["b", "a"], {"a": 1.0}), 4)
    0.6309
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    discounts = [1.0 / math.log2(i + 2) for i in range(k)]
    dcg = sum(max(gains.get(doc, 0.0), 0.0) * d for doc, d in zip(found[:k], discounts, strict=False))
    ideal = sorted((g for g in gains.values() if g > 0), reverse=True)
    best = sum(g * d for g, d in zip(ideal, discounts, strict=False))
    return dcg / best if best else 0.0
