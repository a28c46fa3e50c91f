"""What a diagnosis found: a row for each prefix length, a table to print, and one sentence of advice."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InvalidInput

__all__ = ["DimsReport", "TruncationReport"]

ENOUGH_COVERAGE = 0.99
"""Share of the true neighbours that the candidates must hold for a prefix to be advised."""


@dataclass(frozen=True, slots=True)
class DimsReport:
    """What a prefix of one length keeps; means over the queries."""

    dims: int
    rotated: bool
    coverage: float
    """Share of the true top k among the candidates, in 0..1."""
    error: float
    """Standard error of that mean."""
    ndcg: float | None
    """nDCG@k of a search by the prefix alone; None without judgements."""
    two_stages: float | None
    """nDCG@k with the candidates ranked by full vectors; None without judgements."""
    bytes: int
    """Of a document's prefix, as float16."""


@dataclass(frozen=True, slots=True)
class TruncationReport:
    """What :func:`diagnose` found."""

    encoder: str
    dim: int
    """Full length of the vectors."""
    documents: int
    queries: int
    pseudo_queries: bool
    """Whether documents stood for queries, which are easier: they were taken out of the corpus."""
    k: int
    candidates: int
    ndcg: float | None
    """nDCG@k of exact search by full vectors; None without judgements."""
    rows: tuple[DimsReport, ...]
    """By dims, raw before rotated; the full length last."""

    def at(self, dims: int, *, rotated: bool = False) -> DimsReport:
        """One of the rows.

        Raises:
            InvalidInput: that length was not looked at.
        """
        for row in self.rows:
            if (row.dims, row.rotated) == (dims, rotated and dims < self.dim):
                return row
        raise InvalidInput(f"dims={dims} was not looked at; there are {sorted({row.dims for row in self.rows})}")

    @property
    def best(self) -> DimsReport | None:
        """The shortest prefix whose candidates hold 99 % of the true neighbours: raw, if that needs no longer one than
        rotated. None: there is none but the full length."""
        enough = [row for row in self.rows if row.coverage >= ENOUGH_COVERAGE and row.dims < self.dim]
        return min(enough, key=lambda row: (row.dims, row.rotated), default=None)

    @property
    def advice(self) -> str:
        """One sentence: which dims, rotated or not, or not at all."""
        best = self.best
        if best is None:
            top = max(self.rows[:-1], key=lambda row: row.coverage, default=None)
            if top is None:
                return f"Do not truncate: search all {self.dim} dims."
            turned = "rotated to " if top.rotated else ""
            return (
                f"Do not truncate: even {turned}{top.dims} dims lose {1 - top.coverage:.1%} of the true top {self.k} "
                f"from {self.candidates} candidates; search all {self.dim} dims, or take more candidates."
            )
        kept = f"{self.candidates} candidates hold {best.coverage:.1%} of the true top {self.k}"
        if best.rotated:
            raw = self.at(best.dims)
            return (
                f"Rotate, and search {best.dims} of {self.dim} dims: {kept}, without the rotation {raw.coverage:.1%}."
            )
        return f"Search {best.dims} of {self.dim} dims, no rotation needed: {kept}."

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows], "advice": self.advice}

    def table(self) -> list[list[str]]:
        """Cells to print, the header first."""
        judged = self.ndcg is not None
        head = ["dims", "", f"top {self.k} in {self.candidates}", "±"]
        head += [f"nDCG@{self.k}", "two stages"] if judged else []
        return [[*head, "bytes/document"], *(self._cells(row, judged) for row in self.rows)]

    def _cells(self, row: DimsReport, judged: bool) -> list[str]:
        kind = "full" if row.dims == self.dim else "rotated" if row.rotated else "raw"
        cells = [str(row.dims), kind, f"{row.coverage:.4f}", f"{row.error:.4f}"]
        if judged:
            cells += [f"{row.ndcg:.4f}", f"{row.two_stages:.4f}"]
        return [*cells, f"{row.bytes:,}"]
