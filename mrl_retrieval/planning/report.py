"""What a planning found: the setting and its promise, or why there is none; and what else could be done."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["KEPT", "FrontierRow", "SearchPlan", "Verdict"]

Verdict = Literal["planned", "flat", "needs queries", "unreachable"]

KEPT = 4
"""The second stage of a funnel keeps one in so many candidates."""

_SOURCES = {
    "given": "given queries",
    "live": "queries that were asked",
    "documents": "documents that stood for queries",
}


@dataclass(frozen=True, slots=True)
class FrontierRow:
    """What one prefix length covers, mean over some of the queries; no promise."""

    dims: int
    longer: int | None
    """The second stage of a funnel, which keeps a quarter of the candidates; None: there is none."""
    rotated: bool
    own: bool
    """Whether it is how the collection is now."""
    coverage: tuple[tuple[int, float], ...]
    """Candidates, and the share of the true neighbours among them (of a funnel: among those that it keeps)."""

    def needed(self, target: float) -> int | None:
        """The fewest candidates, of those looked at, whose mean coverage is the target at least."""
        return next((candidates for candidates, share in self.coverage if share >= target), None)

    @property
    def name(self) -> str:
        """Such as ``64 rotated`` or ``64, 128``."""
        return f"{self.dims}{'' if self.longer is None else f', {self.longer}'}{' rotated' if self.rotated else ''}"


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """What :meth:`~mrl_retrieval.MatryoshkaRetriever.plan` found."""

    address: str
    verdict: Verdict
    """``"planned"``: ``coarse_top_k`` is proved. ``"flat"``: searching every vector costs no more than what would be
    proved. ``"needs queries"``: more queries may prove it. ``"unreachable"``: no number of candidates reaches it."""
    target_recall: float
    k: int
    confidence: float
    budget: str
    coarse_dims: int
    coarse_top_k: int | None
    """Candidates of the coarse stage; None: there is no setting of two stages."""
    recall: float
    """Mean over the queries, with these candidates or with the most that were tried."""
    bound: float
    """Below the mean of all such queries, with the confidence that was asked for."""
    tried: int
    """The most candidates that were tried."""
    needed_queries: int | None
    """How many such queries would prove the target; None: it is proved, or no number would."""
    queries: int
    """That were asked."""
    source: str
    """``"given"``, ``"live"`` or ``"documents"``: these stand for queries and are easier than real ones."""
    rows: int
    seconds: float | None
    """Of one search as planned, as timed."""
    flat_seconds: float
    """Of one exact search."""
    at: str
    """When, in UTC, as ISO 8601."""
    frontier: tuple[FrontierRow, ...] = ()
    advice: tuple[str, ...] = ()
    """What would be cheaper, with its command."""
    stored: bool = False
    """Whether the collection searches so from now on."""

    @property
    def reason(self) -> str:
        """The verdict in a sentence."""
        goal = f"recall@{self.k} of {self.target_recall:g} with confidence {self.confidence:g}"
        if self.verdict == "planned":
            return f"{self.coarse_top_k:,} candidates by {self.coarse_dims} dims hold {goal}."
        if self.verdict == "flat":
            return f"Search flat: two stages do not pay here. {self._why_flat(goal)}"
        seen = f"{self.tried:,} candidates by {self.coarse_dims} dims found {self.recall:.4f}"
        if self.verdict == "needs queries":
            return f"Needs {self.needed_queries:,} queries to prove {goal}: {seen} for these {self.queries:,}."
        return f"No setting reaches {goal}: {seen}, and more are not tried; search with exact=True, or see the advice."

    def _why_flat(self, goal: str) -> str:
        flat = f"every vector is scored in {1000 * self.flat_seconds:.2f} ms"
        if self.seconds is not None:
            return f"The fewest candidates take {1000 * self.seconds:.2f} ms, {flat}."
        return f"As many candidates as cost less ({self.tried:,}) do not hold {goal}; {flat}."

    @property
    def told(self) -> str:
        """What it was measured on, and when."""
        return f"measured on {self.queries:,} {_SOURCES[self.source]} at {self.rows:,} rows on {self.at[:10]}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        rows = [asdict(row) | {"coverage": {str(c): s for c, s in row.coverage}} for row in self.frontier]
        return {**asdict(self), "frontier": rows, "advice": list(self.advice), "reason": self.reason}

    def to_stored(self) -> dict[str, Any]:
        """What the manifest keeps of it."""
        return {
            "exact": self.verdict == "flat",
            "coarse_top_k": self.coarse_top_k,
            "k": self.k,
            "target_recall": self.target_recall,
            "confidence": self.confidence,
            "budget": self.budget,
            "recall": 1.0 if self.verdict == "flat" else self.recall,
            "bound": 1.0 if self.verdict == "flat" else self.bound,
            "queries": self.queries,
            "source": self.source,
            "rows": self.rows,
            "at": self.at,
        }

    def table(self) -> list[list[str]]:
        """The frontier as cells to print, the header first."""
        counts = sorted({candidates for row in self.frontier for candidates, _ in row.coverage})
        rows = [["dims", *(f"{count:,}" for count in counts)]]
        for row in self.frontier:
            shares = dict(row.coverage)
            cells = [f"{shares[count]:.4f}" if count in shares else "" for count in counts]
            rows.append([row.name + (" (now)" if row.own and row.longer is None else ""), *cells])
        return rows
