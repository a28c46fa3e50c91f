"""What a :class:`~mrl_retrieval.monitoring.RecallMonitor` calls back with, and what it answers when it is asked."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .detecting import Bounds, RecallState
from .drift import DriftCheck

__all__ = ["DriftEvent", "MonitorStatus", "RecallEvent", "RecallStatus"]


@dataclass(frozen=True, slots=True)
class RecallStatus:
    """What is known of the recall of all queries, or of those with one shape of filter."""

    filter: str | None
    """The shape of the filter, without its values; None: of all queries."""
    state: RecallState
    """What was shown last: ``UNPROVEN``, ``HOLDS`` (at the target or above it) or ``LOST`` (below it)."""
    target: float
    """The recall that is to hold."""
    lifetime: Bounds
    """Of every replayed query. The bounds hold at all times together, with the monitor's confidence."""
    recent: Bounds
    """Of the last ones. These bounds hold with the monitor's confidence at any one time."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "state": self.state.value}


@dataclass(frozen=True, slots=True)
class RecallEvent:
    """The state of recall has changed: it was shown to hold the target, or to be below it, or to hold it again."""

    status: RecallStatus
    """From now on."""
    previous: RecallState
    """The state before."""

    @property
    def state(self) -> RecallState:
        """From now on."""
        return self.status.state

    def __str__(self) -> str:
        recent, lifetime, target = self.status.recent, self.status.lifetime, self.status.target
        what = {
            RecallState.LOST: f"recall is below {target:g}",
            RecallState.HOLDS: f"recall holds {target:g}",
            RecallState.UNPROVEN: f"recall has yet to be shown to hold {target:g}",
        }[self.state]
        again = " again" if self.state is RecallState.HOLDS and self.previous is RecallState.LOST else ""
        where = "" if self.status.filter is None else f" with the filter {self.status.filter}"
        return (
            f"{what}{again}{where}: {recent.mean:.4f} (at least {recent.lower:.4f}, at most {recent.upper:.4f}) in the "
            f"last {recent.n:,} replayed queries, {lifetime.mean:.4f} in all {lifetime.n:,}"
        )


@dataclass(frozen=True, slots=True)
class DriftEvent:
    """The prefixes of queries have begun to differ from the first ones, or have stopped to."""

    drifted: bool
    """Whether they differ, from now on."""
    check: DriftCheck
    """The comparison that shows it."""

    def __str__(self) -> str:
        what = "queries differ from" if self.drifted else "queries are again like"
        return (
            f"{what} the first {self.check.reference:,} sampled ones: prefixes of the last {self.check.recent:,} are "
            f"{self.check.distance:.4f} from theirs, {self.check.expected:.4f} would be usual (squared discrepancy)"
        )


@dataclass(frozen=True, slots=True)
class MonitorStatus:
    """What a monitor has seen up to now."""

    recall: RecallStatus
    """Of all queries."""
    filters: tuple[RecallStatus, ...]
    """Of the queries with a filter, by its shape; the shapes that found no place of their own together as ``other``."""
    drifted: bool
    """Whether queries differed from the first ones in the last comparison."""
    drift: DriftCheck | None
    """The last comparison; None: there was none."""
    sampled: int
    """Live queries that were drawn."""
    replayed: int
    """Of these, compared with exact search."""
    empty: int
    """Of these, compared, but there was nothing to find."""
    changed: int
    """Of these, left out since the collection changed all the time."""
    dropped: int
    """Of these, left out since too many waited."""
    errors: int
    """Of these, left out since a replay or a callback failed."""
    seconds: float
    """Spent on replays, but for the first."""
    restarts: int = field(default=0)
    """How often the collection was another one, after which everything above the counts began anew."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            **asdict(self),
            "recall": self.recall.to_json(),
            "filters": [status.to_json() for status in self.filters],
        }
