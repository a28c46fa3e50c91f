"""Retrieval metrics: recall@k, coverage; and by judgements nDCG@k, recall@k and the reciprocal rank.

Recall and coverage compare a search with *exact search over the same vectors*; the others compare it with human
judgements, as trec_eval does. They answer different questions, and both are needed: the first tells what the short
vectors lose, the second whether anybody minds.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Mapping, Sequence

__all__ = ["coverage", "judged_recall_at_k", "ndcg_at_k", "recall_at_k", "reciprocal_rank", "trec_order"]


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


def judged_recall_at_k(found: Sequence[str], gains: Mapping[str, float], k: int) -> float:
    """Share of the documents with a positive judgement that is among the first k found, in 0..1.

    trec_eval's ``recall``; with no positive judgement the value is 0.

    >>> judged_recall_at_k(["a", "x", "b"], {"a": 1.0, "b": 2.0, "x": 0.0}, 2)
    0.5
    """
    relevant = [doc for doc, gain in gains.items() if gain > 0]
    return coverage(found[:k], relevant, len(relevant)) if relevant else 0.0


def reciprocal_rank(found: Sequence[str], gains: Mapping[str, float], k: int | None = None) -> float:
    """One over the rank of the first document with a positive judgement among the first k found (None: all); else 0.

    trec_eval's ``recip_rank``. Its mean over queries is the MRR.

    >>> reciprocal_rank(["x", "a"], {"a": 1.0})
    0.5
    """
    return next((1.0 / rank for rank, doc in enumerate(found[:k], 1) if gains.get(doc, 0.0) > 0), 0.0)


def trec_order(scores: Mapping[str, float]) -> list[str]:
    """The order in which trec_eval reads a run: score descending, equal scores by id *descending*.

    It holds scores as float32, so that those which differ by less are equal.

    >>> trec_order({"a": 0.5, "b": 0.5, "c": 0.7})
    ['c', 'b', 'a']
    """
    single = {doc: struct.unpack("f", struct.pack("f", score))[0] for doc, score in scores.items()}
    return sorted(single, key=lambda doc: (single[doc], doc), reverse=True)
