"""The tracks of a monitor: one of all queries, and one for each shape of filter, of which so many have a place."""

from __future__ import annotations

from collections.abc import Callable

from .detecting import Bounds, Track
from .events import RecallEvent, RecallStatus

__all__ = ["OTHER", "Tracks"]

OTHER = "other"
"""The name of the shapes that have no place of their own, together."""

_FORGOTTEN = 10_000
"""Replays after which a shape that did not occur gives its place to one that does."""


class Tracks:
    """What recalls show, in all and by filter. Not thread-safe.

    Args:
        new: makes a track.
        target: the recall that is to hold.
        confidence: of bounds.
        most: shapes that have a place of their own.
    """

    def __init__(self, new: Callable[[], Track], target: float, confidence: float, most: int) -> None:
        self._new, self._target, self._confidence, self._most = new, target, confidence, most
        self._all = new()
        self._by_shape: dict[str, Track] = {}
        self._seen: dict[str, int] = {}

    def add(self, recall: float, shape: str | None) -> list[RecallEvent]:
        """Take in the recall of a query with such a filter (None: without one); what has changed by it."""
        kinds: list[tuple[str | None, Track]] = [(None, self._all)]
        if shape is not None:
            place = self._place(shape)
            kinds.append((place, self._by_shape.setdefault(place, self._new())))
        events = []
        for name, track in kinds:
            before = track.state
            if track.add(recall):
                events.append(RecallEvent(self._status(name, track), before))
        return events

    def status(self) -> tuple[RecallStatus, tuple[RecallStatus, ...]]:
        """Of all queries, and of each shape, the most frequent first."""
        shapes = sorted(self._by_shape.items(), key=lambda item: -item[1].lifetime.count)
        return self._status(None, self._all), tuple(self._status(*item) for item in shapes)

    def _place(self, shape: str) -> str:
        now = self._all.lifetime.count
        if shape not in self._by_shape and len(self._seen) >= self._most:
            oldest = min(self._seen, key=self._seen.__getitem__)
            if now - self._seen[oldest] < _FORGOTTEN:
                return OTHER
            del self._seen[oldest], self._by_shape[oldest]
        self._seen[shape] = now
        return shape

    def _status(self, name: str | None, track: Track) -> RecallStatus:
        return RecallStatus(
            name,
            track.state,
            self._target,
            Bounds.of(track.lifetime, self._confidence),
            Bounds.of(track.recent(), self._confidence),
        )
