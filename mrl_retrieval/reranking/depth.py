"""How many hits a reranker should read: nDCG@k at several depths, and where more stop paying or begin to hurt.

More candidates can make a reranked answer worse: each is one more text that the model may overrate. Found for many
rerankers by Jacob et al. 2024, "Drowning in Documents: Consequences of Scaling Reranker Inference".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..documents import SearchResult
from ..errors import InvalidInput
from ..metrics import ndcg_at_k
from ..settings import check_positive
from .stage import reordered

__all__ = ["RerankDepth", "RerankDepthReport", "check_depths", "measured"]

_SIGNIFICANT = 2.0
"""Standard errors of the mean of paired differences from which a difference counts."""


@dataclass(frozen=True, slots=True)
class RerankDepth:
    """What the reranker makes of the first ``depth`` hits."""

    depth: int
    """0: without the reranker."""
    ndcg: float
    """Mean nDCG@k over the queries, in 0..1."""
    gain: float
    """That less the mean of the row before."""
    error: float
    """Standard error of the gain, of paired differences."""


@dataclass(frozen=True, slots=True)
class RerankDepthReport:
    """nDCG@k by rerank depth, and what follows from it; printed, a table and a sentence."""

    reranker: str
    queries: int
    k: int
    judged: bool
    """False: the exact answer by full vectors stood for judgements."""
    rows: tuple[RerankDepth, ...]
    """By depth; the first is without the reranker."""
    enough: int
    """The smallest depth of which no greater one is better by more than two standard errors; 0: no reranker is."""
    hurts_from: int | None
    """The smallest depth beyond ``enough`` that is worse than it by more than two standard errors; None: none is."""

    @property
    def advice(self) -> str:
        """One sentence."""
        if self.enough == 0:
            said = f"{self.reranker} does not make these hits better at any depth: leave it out"
        elif self.enough == self.rows[-1].depth:
            said = f"every depth paid, up to rerank_top_k={self.enough}: try more"
        else:
            best = max(self.rows, key=lambda row: row.ndcg).depth
            said = f"rerank_top_k={self.enough} is enough: {self.queries} queries do not show that more is better"
            said += f" (the best mean is at {best})" if best != self.enough else ""
        if self.hurts_from is not None:
            said += f", and from {self.hurts_from} on it is worse"
        return said + "."

    def __str__(self) -> str:
        head = f"depth  nDCG@{self.k}    gain   error"
        rows = [f"{row.depth:>5}  {row.ndcg:>7.4f}  {row.gain:>+6.4f}  {row.error:.4f}" for row in self.rows]
        return "\n".join([head, *rows, self.advice])


def check_depths(depths: Sequence[int]) -> list[int]:
    """Depths in ascending order.

    Raises:
        InvalidInput: there are none, or one is no whole number of at least 1.
    """
    checked = sorted({check_positive(depth, "depths") for depth in depths})
    if not checked:
        raise InvalidInput("depths is empty; give some, such as (10, 20, 50, 100, 200)")
    return checked


def measured(
    name: str,
    found: Sequence[SearchResult],
    gains: Sequence[Mapping[str, float]],
    depths: Sequence[int],
    k: int,
    *,
    judged: bool,
) -> RerankDepthReport:
    """Of reranked results as deep as the deepest, each with its rank before in its last rank but one.

    Raises:
        InvalidInput: no query has a judgement above 0.
    """
    values: list[list[float]] = []
    for result, judgement in zip(found, gains, strict=True):
        if not any(gain > 0 for gain in judgement.values()):
            continue
        before = sorted(result.hits, key=lambda hit: hit.ranks[-2] if hit.ranks else 0)
        scores = {hit.id: hit.rerank_score for hit in before if hit.rerank_score is not None}
        each = []
        for depth in (0, *depths):
            read = {hit.id: scores[hit.id] for hit in before[:depth] if hit.id in scores}
            each.append(ndcg_at_k([hit.id for hit in reordered(before, read)], judgement, k))
        values.append(each)
    if not values:
        raise InvalidInput(f"none of {len(gains)} queries has a judgement above 0; one is needed, better hundreds")
    table = np.array(values)
    rows = []
    for i, depth in enumerate((0, *depths)):
        gain, error = _difference(table[:, i], table[:, i - 1]) if i else (0.0, 0.0)
        rows.append(RerankDepth(depth, float(table[:, i].mean()), gain, error))
    at = next(
        i for i in range(len(rows)) if not any(_is_better(table[:, j], table[:, i]) for j in range(i + 1, len(rows)))
    )
    worse = (rows[j].depth for j in range(at + 1, len(rows)) if _is_better(table[:, at], table[:, j]))
    return RerankDepthReport(name, len(values), k, judged, tuple(rows), rows[at].depth, next(worse, None))


def _difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Mean of the paired differences, and its standard error."""
    gain = one - other
    error = float(gain.std(ddof=1)) / math.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return float(gain.mean()), error


def _is_better(one: np.ndarray, other: np.ndarray) -> bool:
    gain, error = _difference(one, other)
    return gain > 0 and gain > _SIGNIFICANT * error
