"""What recall monitors see, as observable gauges and counters: asked for when metrics are collected."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from ..monitoring.detecting import RecallState
from ..monitoring.events import MonitorStatus, RecallStatus
from ..monitoring.monitor import RecallMonitor

__all__ = ["MonitorGauges"]

Attributes = Mapping[str, str | int | float | bool]

_FRESH = 0.5
"""Seconds for which a status is used again: all instruments are asked one after the other."""

_STATES = {RecallState.LOST: -1, RecallState.UNPROVEN: 0, RecallState.HOLDS: 1}


class MonitorGauges:
    """The instruments, and the monitors they are about. Thread-safe."""

    def __init__(self, meter: Meter) -> None:
        self._lock = threading.Lock()
        self._monitors: dict[RecallMonitor, Attributes] = {}
        self._known: tuple[float, list[tuple[MonitorStatus, Attributes]]] = (float("-inf"), [])
        gauge, counter = meter.create_observable_gauge, meter.create_observable_counter
        for name in ("mean", "lower", "upper"):
            gauge(
                f"mrl.recall.{name}", [self._bound(name)], "1", f"Recall of live queries against exact search: {name}."
            )
        gauge("mrl.recall.state", [self._states], "1", "1: recall holds its target; -1: it is below; 0: not shown yet.")
        gauge("mrl.queries.drifted", [self._drifted], "1", "1: queries differ from the first ones.")
        counter("mrl.monitor.queries", [self._outcomes], "{query}", "Sampled queries, by what became of them.")
        counter("mrl.monitor.time", [self._seconds], "s", "Time spent on replays.")

    def add(self, monitor: RecallMonitor, attributes: Attributes) -> None:
        """Export a monitor."""
        with self._lock:
            self._monitors[monitor], self._known = attributes, (float("-inf"), [])

    def remove(self, monitor: RecallMonitor) -> None:
        """Export it no longer."""
        with self._lock:
            self._monitors.pop(monitor, None)
            self._known = (float("-inf"), [])

    def _statuses(self) -> list[tuple[MonitorStatus, Attributes]]:
        with self._lock:
            if time.monotonic() - self._known[0] > _FRESH:
                found = [(monitor.status(), attributes) for monitor, attributes in self._monitors.items()]
                self._known = time.monotonic(), found
            return self._known[1]

    def _each(self) -> Iterator[tuple[RecallStatus, dict[str, str | int | float | bool]]]:
        for status, attributes in self._statuses():
            for one in (status.recall, *status.filters):
                yield one, {**attributes, **({} if one.filter is None else {"mrl.filter": one.filter})}

    def _bound(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterator[Observation]:
            for one, attributes in self._each():
                for window, bounds in (("lifetime", one.lifetime), ("recent", one.recent)):
                    if bounds.n:
                        yield Observation(getattr(bounds, name), {**attributes, "mrl.window": window})

        return observe

    def _states(self, _: CallbackOptions) -> Iterator[Observation]:
        for one, attributes in self._each():
            yield Observation(_STATES[one.state], attributes)

    def _drifted(self, _: CallbackOptions) -> Iterator[Observation]:
        for status, attributes in self._statuses():
            if status.drift is not None:
                yield Observation(int(status.drifted), attributes)

    def _outcomes(self, _: CallbackOptions) -> Iterator[Observation]:
        for status, attributes in self._statuses():
            for name in ("replayed", "empty", "changed", "dropped", "errors"):
                yield Observation(getattr(status, name), {**attributes, "mrl.outcome": name})

    def _seconds(self, _: CallbackOptions) -> Iterator[Observation]:
        for status, attributes in self._statuses():
            yield Observation(status.seconds, attributes)
