"""What an audit of a collection's recall says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..documents import Hit
from ..two_stage import Stage

__all__ = ["RecallReport", "WorstQuery"]


@dataclass(frozen=True, slots=True)
class WorstQuery:
    """A query whose answer lacks something."""

    query: str | int
    """Its text; of a vector its place among the queries, from 0; of a stored vector the row's id."""
    recall: float
    """Share of its true best k that was found."""
    lost: tuple[Hit, ...]
    """True hits that were not found, best first."""


@dataclass(frozen=True, slots=True)
class RecallReport:
    """The recall of a collection, held to its own exact search."""

    mean: float
    """Share of the true best k that was found, in 0..1, over all queries."""
    lower: float
    """The mean over all queries of this kind is not below this one, with ``confidence``."""
    upper: float
    """Nor above this one, with ``confidence``."""
    confidence: float
    n: int
    """Queries that were compared."""
    changed: int
    """Further queries that were left out, since the collection changed all the time."""
    empty: int
    """Further ones that were left out, since exact search found nothing either."""
    k: int
    """Hits that were asked for."""
    stages: tuple[Stage, ...]
    """What was measured; where ``asked`` is given, how deep the first one went was learned, and not its limit."""
    asked: float | None
    """The ``recall=`` that the searches asked for, if any."""
    filter: str | None
    """The shape of the filter, without its values, if there was one."""
    pseudo_queries: bool
    """Whether stored vectors stood for queries, which are nearer to each other than queries are to them: easier."""
    worst: tuple[WorstQuery, ...]
    """Those that lost most, the worst first; ten at most."""
    seconds: float
    """For the searches themselves, in all."""
    exact_seconds: float
    """For the exact ones."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, with the lost hits as ids and scores."""
        plain = {name: getattr(self, name) for name in self.__slots__ if name not in ("stages", "worst")}
        return {
            **plain,
            "stages": [[stage.dims, stage.limit] for stage in self.stages],
            "worst": [
                {
                    "query": one.query,
                    "recall": one.recall,
                    "lost": [{"id": hit.id, "score": hit.score} for hit in one.lost],
                }
                for one in self.worst
            ],
        }
