"""What a search is followed by where somebody watches: a monitor, spans and metrics, or both."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..backend import Backend
from ..documents import SearchResult
from ..errors import InvalidInput
from ..long_texts import TextEncoding
from ..matryoshka import FloatArray
from ..searching import PreparedSearch
from .monitor import RecallMonitor

if TYPE_CHECKING:
    from ..telemetry import Telemetry

__all__ = ["Watch", "watch"]


class Watch:
    """Runs searches under the eyes of a monitor, or of telemetry."""

    def __init__(self, monitor: RecallMonitor | None, telemetry: Telemetry | None) -> None:
        self._monitor, self._telemetry = monitor, telemetry

    def run(self, search: PreparedSearch, backend: Backend, vectors: FloatArray) -> list[SearchResult]:
        """See :meth:`PreparedSearch.run`."""
        telemetry, monitor = self._telemetry, self._monitor
        results = search.run(backend, vectors) if telemetry is None else telemetry.run(search, backend, vectors)
        if monitor is not None:
            monitor.saw(search, backend, vectors, results)
        return results

    def encoding(self, encode: TextEncoding, backend: Callable[[], Backend]) -> TextEncoding:
        """The same encoding of texts for the collection of ``backend()``, watched too."""
        return encode if self._telemetry is None else self._telemetry.encoding(encode, backend)

    def close(self) -> None:
        """End the monitor's thread, and what is shown of it."""
        if self._monitor is not None:
            self._monitor.close()
        if self._telemetry is not None and self._monitor is not None:
            self._telemetry.leave(self._monitor)


def watch(monitor: Any, telemetry: Any, backend: Backend) -> Watch:
    """What watches a retriever, by the arguments of its constructor, one of which at least is given.

    Raises:
        InvalidInput: one of them is something else, or the monitor belongs to another retriever.
        MissingExtra: telemetry is wanted, but OpenTelemetry is not installed.
    """
    if monitor is not None and not isinstance(monitor, RecallMonitor):
        raise InvalidInput(f"monitor is {type(monitor).__name__}; pass a RecallMonitor(rate=0.01, target=0.98)")
    made = None
    if telemetry is not None and telemetry is not False:
        from ..telemetry import as_telemetry  # only here: it needs an extra

        made = as_telemetry(telemetry)
    if monitor is not None:
        monitor.attach()
        if made is not None:
            made.show(monitor, backend)
    return Watch(monitor, made)
