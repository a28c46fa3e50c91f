"""What an evaluation found: for each task, prefix length and stage the metrics with their intervals; as JSON, too.

The JSON's fields are these classes' own, and described in docs/evaluation.md. A change that a reader would notice
raises ``FORMAT``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..encoder import EncoderCard
from ..errors import InvalidInput, MRLError

__all__ = ["FORMAT", "EvaluationReport", "Measure", "Row", "TaskReport"]

KIND = "mrl-evaluation"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric's value, and between what it and its retention would be in 95 % of draws of as many queries."""

    value: float
    low: float
    high: float
    retention: float | None
    """Share of the value at full dims; None where that is not above 0."""
    retention_low: float | None
    retention_high: float | None
    """Of the share of the *same* drawn queries, so that it is much narrower than two intervals compared."""


@dataclass(frozen=True, slots=True)
class Row:
    """One way to use a prefix length."""

    dims: int
    rotated: bool
    stage: str
    """``"prefix"``: the prefixes alone; ``"two-stage"``: their candidates, ranked by full vectors."""
    bytes: int
    """Stored per document as float16; for two stages the prefix and the full vector."""
    search_ms: float | None
    """Milliseconds per query of a plain scan in memory; None where nothing is searched."""
    metrics: Mapping[str, Measure]


@dataclass(frozen=True, slots=True)
class TaskReport:
    """What was found on one task."""

    name: str
    kind: str
    main: str
    """The metric to look at first."""
    counts: Mapping[str, int]
    """What it is made of, such as documents and queries."""
    encoded: int
    """Texts that were encoded for it; one that another task had before is not encoded again."""
    encode_seconds: float
    rotation_seconds: float | None
    rows: tuple[Row, ...]
    """By dims, raw before rotated, the prefix alone before two stages; the full length last."""

    def at(self, dims: int, *, rotated: bool = False, stage: str = "prefix") -> Row:
        """One of the rows.

        Raises:
            InvalidInput: that was not measured.
        """
        for row in self.rows:
            if (row.dims, row.rotated, row.stage) == (dims, rotated, stage):
                return row
        had = ", ".join(f"{row.dims}{' rotated' if row.rotated else ''} {row.stage}" for row in self.rows)
        raise InvalidInput(f"{self.name} has no row of {dims} dims, rotated={rotated}, {stage}; there are: {had}")

    def table(self) -> list[list[str]]:
        """Cells to print, the header first."""
        names = list(self.rows[-1].metrics)
        timed = any(row.search_ms is not None for row in self.rows)
        head = ["dims", "", self.main, "95 %", "kept", *(name for name in names if name != self.main), "bytes/document"]
        return [[*head, *(["ms/query"] if timed else [])], *(self._cells(row, names, timed) for row in self.rows)]

    def _cells(self, row: Row, names: list[str], timed: bool) -> list[str]:
        full = row is self.rows[-1]
        kind = "full" if full else " ".join(["rotated"] * row.rotated + ["two stages"] * (row.stage != "prefix"))
        main = row.metrics[self.main]
        kept = "" if main.retention is None else f"{main.retention:.1%}"
        cells = [str(row.dims), kind or "prefix", f"{main.value:.4f}", f"{main.low:.4f}–{main.high:.4f}", kept]
        cells += [f"{row.metrics[name].value:.4f}" for name in names if name != self.main]
        cells.append(f"{row.bytes:,}")
        return [*cells, "" if row.search_ms is None else f"{row.search_ms:.2f}"] if timed else cells


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What :func:`~mrl_retrieval.evaluation.evaluate` found."""

    encoder: EncoderCard
    date: str
    """When it began, UTC, ISO 8601."""
    versions: Mapping[str, str]
    """Of Python and of the packages that computed."""
    settings: Mapping[str, Any]
    """What it was asked for, such as dims, k, candidates."""
    tasks: tuple[TaskReport, ...]

    @property
    def name(self) -> str:
        """What the encoder is called."""
        return self.encoder.name or self.encoder.model or "encoder"

    def task(self, name: str) -> TaskReport:
        """One of the tasks.

        Raises:
            InvalidInput: there is none of that name.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        raise InvalidInput(f"no task is called {name!r}; there are: {', '.join(task.name for task in self.tasks)}")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; :meth:`of_json` is its inverse."""
        return {
            "kind": KIND,
            "format": FORMAT,
            "encoder": self.encoder.to_json(),
            "date": self.date,
            "versions": dict(self.versions),
            "settings": dict(self.settings),
            "tasks": [{**asdict(task), "rows": [asdict(row) for row in task.rows]} for task in self.tasks],
        }

    @classmethod
    def of_json(cls, value: Any) -> EvaluationReport:
        """Read :meth:`to_json`'s form.

        Raises:
            InvalidInput: it is something else, of a newer format, or lacks something.
        """
        if not isinstance(value, dict) or value.get("kind") != KIND:
            raise InvalidInput(f"this is no evaluation: expected an object with 'kind': {KIND!r}, got {value!r:.80}")
        if value.get("format") != FORMAT:
            raise InvalidInput(f"the evaluation is of format {value.get('format')!r}, this version reads {FORMAT}")
        try:
            card = EncoderCard.from_json(value["encoder"])
            tasks = tuple(_task(task) for task in value["tasks"])
            return cls(card, value["date"], dict(value["versions"]), dict(value["settings"]), tasks)
        except (KeyError, TypeError, ValueError, AttributeError, MRLError) as error:
            raise InvalidInput(f"the evaluation is damaged or not whole: {error!r}") from error


def _task(value: Any) -> TaskReport:
    rows = []
    for row in value["rows"]:
        metrics = {name: Measure(**measure) for name, measure in row["metrics"].items()}
        rows.append(Row(**{**row, "metrics": metrics}))
    return TaskReport(**{**value, "counts": dict(value["counts"]), "rows": tuple(rows)})
