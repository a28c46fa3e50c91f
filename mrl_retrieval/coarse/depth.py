"""How deep to search, by query, for a recall that was asked for: what has been learned of it, and how it is kept.

A list is promising by the score of its centroid plus a bonus for the spread of its documents. The *gap* of a list is
how far its promise is below the mean of the four most promising. A search within a *margin* scans the lists whose gap
is at most that: few where some lists stand out, many where none does. This is known before anything is scanned, so it
costs nothing (compare the query-aware pruning of SPANN, Chen and others, NeurIPS 2021, which holds distances to the
nearest). Of what is found, the candidates are those whose coarse score is not more than a *drop* below that of the
2k-th: few where the best stand out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mrl_retrieval.errors import InvalidInput, ManifestError, NothingLearned
from mrl_retrieval.settings import check_recall

from .within import ALL_LISTS, Reach

__all__ = ["DepthStep", "LearnedDepth", "depth_for"]


@dataclass(frozen=True)
class DepthStep:
    """One depth, and what it held on the sample."""

    recall: float
    """Mean recall@k that is held, with 95 % confidence."""
    reach: Reach
    """What to search with."""
    scanned: float
    """Documents scanned, in the mean."""
    candidates: float
    """Candidates reranked, in the mean."""


@dataclass(frozen=True)
class LearnedDepth:
    """Depths for rising recalls, from the shallowest to the deepest."""

    k: int
    """Results that were asked for when it was learned."""
    queries: int
    """In the sample."""
    steps: tuple[DepthStep, ...]

    def at(self, recall: float, k: int) -> DepthStep:
        """The shallowest depth that holds ``recall``, a share between 0 and 1, among the best ``k``.

        Raises:
            InvalidInput: the recall is not between 0 and 1, or was not reached on the sample; k is more than learned.
        """
        check_recall(recall)
        if k > self.k:
            raise InvalidInput(
                f"recall was learned for up to {self.k} results, not for {k}: learn it again with k={k}, "
                "or pass coarse_top_k instead of recall"
            )
        for step in self.steps:
            if step.recall >= recall:
                return step
        raise InvalidInput(
            f"recall={recall:g} was not reached with confidence on a sample of {self.queries} queries; "
            f"the deepest setting holds {self.steps[-1].recall:.4f}: ask for at most that, learn from more queries, "
            "or search with exact=True"
        )

    def to_json(self) -> dict[str, Any]:
        """Numbers, lists and objects; :meth:`of_json` makes the same of it."""
        return asdict(self)

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> LearnedDepth:
        """What :meth:`to_json` was called on.

        Raises:
            ManifestError: it is damaged.
        """
        try:
            steps = tuple(_step(step) for step in data["steps"])
            made = cls(int(data["k"]), int(data["queries"]), steps)
        except (KeyError, TypeError, ValueError) as error:
            raise ManifestError(f"the learned depth cannot be read ({error!r}): learn it again") from error
        numbers = [n for s in steps for n in (s.recall, s.scanned, s.candidates, s.reach.margin, s.reach.drop)]
        if not steps or not np.isfinite(numbers).all() or min(min(s.reach.limit, s.reach.anchor) for s in steps) < 1:
            raise ManifestError(f"the learned depth cannot be used ({dict(data)!r}): learn it again")
        return made


def _step(data: Mapping[str, Any]) -> DepthStep:
    at = data["reach"]
    reach = Reach(int(at["limit"]), float(at["margin"]), float(at["drop"]), int(at["anchor"]))
    return DepthStep(float(data["recall"]), reach, float(data["scanned"]), float(data["candidates"]))


def depth_for(learned: LearnedDepth | None, recall: float, k: int, share: float = 1.0) -> Reach:
    """How deep to search for the best ``k`` of this share of the documents, which a filter lets through.

    They are about as far away as the best ``k / share`` of all. Where that is more than was learned, all lists are
    searched, so that what a filter leaves is never searched less than what was learned.

    Raises:
        NothingLearned: it was not learned.
        InvalidInput: see :meth:`LearnedDepth.at`.
    """
    check_recall(recall)
    if learned is None:
        raise NothingLearned(
            f"recall={recall:g} was asked for, but how deep to search for it was not learned for this collection: "
            "call retriever.learn_depth(queries) with a few hundred queries ('mrl learn'), or pass coarse_top_k instead"
        )
    reach = learned.at(recall, k).reach
    return reach if k <= share * learned.k else replace(reach, margin=ALL_LISTS)
