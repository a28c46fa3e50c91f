"""Why a search did not find a document, as a value and in words. How it is found out is in ``losing.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Verdict", "WhyNot"]

Verdict = Literal["found", "lost", "missed", "filtered out", "no vector", "unknown"]
"""``"missed"``: its exact score is among the candidates', but the approximate index did not find it."""


@dataclass(frozen=True, slots=True)
class WhyNot:
    """What became of one document in one search; as a string, a sentence.

    >>> print(WhyNot("a", "lost", "coarse", 64, score=0.4, last_score=0.45, rank=312, limit=200, coarse_top_k=312))
    'a' was lost in the coarse stage (64 dims): its score 0.4000 is 0.0500 below that of the last of the 200 kept, and its rank is 312; coarse_top_k=312 would have kept it.
    """  # noqa: E501

    id: str
    verdict: Verdict
    stage: str | None = None
    """Where it was lost: ``"coarse"``, ``"rerank"``, ``"exact"`` or ``"reranker"``; None: in none of them."""
    dims: int | None = None
    """Components that this stage scores."""
    rank: int | None = None
    """Its rank in that stage, by exact scores: in the coarse and the exact stage among all rows that the filter lets
    through, in the others among what the stage before kept. Of what was found: its rank among the hits."""
    limit: int | None = None
    """How many the stage keeps."""
    score: float | None = None
    """Its score in that stage."""
    last_score: float | None = None
    """The score of the last one that the stage kept."""
    coarse_top_k: int | None = None
    """Lost in the coarse stage: the smallest ``coarse_top_k`` (of a funnel: limit of its first stage) that would have
    kept it there. Counted by exact scores: an approximate index may need more."""
    rank_then: int | None = None
    """With that ``coarse_top_k``, which rank the rerank would have given it; None for a funnel."""
    top_k: int | None = None
    """Lost at the final cut: the smallest ``top_k`` that would have kept it, with the candidates as they are."""
    stage_limit: int | None = None
    """Lost in a later stage of a funnel: the smallest limit of it that would have kept it."""
    rerank_top_k: int | None = None
    """Not read by the reranker: the smallest ``rerank_top_k`` with which it would have been."""
    final_top_k: int | None = None
    """How many hits were asked for."""
    approximate: bool = False
    """Whether the coarse index is approximate."""

    @property
    def lost_by(self) -> float | None:
        """``last_score`` less ``score``; 0 where only the order of ids decided. None where nothing was compared."""
        return None if self.score is None or self.last_score is None else self.last_score - self.score

    def __str__(self) -> str:
        match self.verdict:
            case "found":
                return f"{self.id!r} was found: it is hit {self.rank}, with a score of {self.score:.4f}."
            case "unknown":
                return f"{self.id!r} was not found because the collection holds no row with this id."
            case "no vector":
                return f"{self.id!r} was not found because its row has no vector, and only vectors are searched."
            case "filtered out":
                return f"{self.id!r} was not found because its metadata do not match the filter."
            case "missed":
                return (
                    f"{self.id!r} was lost in {self._where()}: the approximate index missed it, for by its exact score "
                    f"{self.score:.4f} its rank is {self.rank}, within the {self.limit} candidates."
                )
            case "lost":
                return f"{self.id!r} was lost in {self._where()}: {self._by()}; {self._remedy()}."

    def _where(self) -> str:
        if self.stage == "reranker":
            return "the reranker"
        if self.top_k is not None:
            return f"the final cut ({self.dims} dims)"
        return f"the {self.stage} stage ({self.dims} dims)"

    def _by(self) -> str:
        if self.rerank_top_k is not None:
            return f"it read the first {self.limit} hits, and this was number {self.rank}"
        last = f"the last of the {self.limit} kept"
        if self.lost_by is None or self.score is None:
            return f"its rank is {self.rank} of {self.limit} kept"
        if self.lost_by < 0:
            return (
                f"its score {self.score:.4f} is {-self.lost_by:.4f} above that of {last}, which an approximate index "
                f"may keep, and its rank is {self.rank}"
            )
        if self.lost_by > 0:
            return f"its score {self.score:.4f} is {self.lost_by:.4f} below that of {last}, and its rank is {self.rank}"
        return f"its score {self.score:.4f} ties with that of {last}, and its rank, by id, is {self.rank}"

    def _remedy(self) -> str:
        if self.rerank_top_k is not None:
            return f"rerank_top_k={self.rerank_top_k} would have let it be read"
        if self.top_k is not None:
            return f"top_k={self.top_k} would have kept it"
        if self.stage_limit is not None:
            return f"a limit of {self.stage_limit} in this stage would have kept it"
        said = f"coarse_top_k={self.coarse_top_k} would have kept it"
        if self.approximate:
            said += " (by exact scores; the index is approximate, and may need more)"
        if self.rank_then is None:
            return said
        return said + (
            f", as hit {self.rank_then}"
            if self.final_top_k is not None and self.rank_then <= self.final_top_k
            else f", but its rank by full vectors would be {self.rank_then}"
        )
