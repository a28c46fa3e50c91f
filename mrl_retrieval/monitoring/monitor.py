"""``RecallMonitor``: replays a share of live queries exactly, in the background, and says when recall is lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..backend import Backend
from ..confidence import check_confidence
from ..documents import Hit, SearchResult
from ..errors import InvalidInput
from ..matryoshka import FloatArray, prefix
from ..searching import PreparedSearch
from ..settings import check_positive
from .comparing import compared
from .detecting import RecallState, Track
from .drift import DriftCheck, QueryDrift, check_level
from .events import DriftEvent, MonitorStatus, RecallEvent
from .sampling import Sampler, check_rate
from .shapes import filter_shape
from .tracks import Tracks
from .worker import PacedWorker

__all__ = ["RecallMonitor"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Sampled:
    """A live query, and what it was answered."""

    search: PreparedSearch
    backend: Backend
    vector: FloatArray
    """``(1, dim)``, rotated as the collection is."""
    hits: Sequence[Hit]


class RecallMonitor:
    """Watches the recall of one retriever's live queries. Thread-safe; give it to one retriever, as ``monitor=``.

    A search pays for it with a few hundred nanoseconds; a sampled one with a copy of its vector. Whatever fails here
    is counted and logged, and never reaches a search. In a forked process it begins anew.

    Args:
        rate: share of live queries that is replayed, above 0 and at most 1.
        target: the recall that is to hold, between 0 and 1, both excluded.
        on_recall: called when it is first shown that recall holds the target, when it is shown to be below it, and when
            it is shown to hold it again; in the background thread. None: it is logged, a loss as a warning.
        on_drift: called when the prefixes of queries begin to differ from the first ones, and when they stop to. None:
            it is logged.
        confidence: of the bounds.
        alarm_every: while recall is exactly at the target all the time, false alarms are so many replayed queries apart
            on average, at least; while it is above, more. For all queries together, and for each shape of filter.
        recent: how many of the last replays the recent bounds are of.
        drift_reference: how many sampled queries say what is usual.
        drift_window: how many are compared with them at a time.
        drift_level: chance of a false alarm in one comparison, at most.
        max_cpu: share of the time that replays take, at most, above 0 and at most 1. What cannot be replayed in it is
            dropped and counted.
        max_queue: sampled queries that wait at most.
        max_filters: shapes of filters that are watched each for itself; the others are watched together.
        seed: fixes which queries are drawn; None: others every time.

    Raises:
        InvalidInput: a number is out of its range.

    >>> from mrl_retrieval import MatryoshkaRetriever
    >>> monitor = RecallMonitor(rate=1, target=0.9, max_cpu=1)
    >>> with MatryoshkaRetriever(encoder="hashing", backend="memory:", monitor=monitor) as retriever:
    ...     _ = retriever.index(["git revert undoes a commit", "a cake needs flour"])
    ...     _ = retriever.search("How do I undo a commit?", top_k=1)
    ...     monitor.wait(10)
    ...     status = monitor.status()
    True
    >>> status.replayed, status.recall.lifetime.mean, status.recall.state.value
    (1, 1.0, 'unproven')
    """

    def __init__(
        self,
        rate: float = 0.01,
        target: float = 0.98,
        *,
        on_recall: Callable[[RecallEvent], object] | None = None,
        on_drift: Callable[[DriftEvent], object] | None = None,
        confidence: float = 0.95,
        alarm_every: int = 100_000,
        recent: int = 1000,
        drift_reference: int = 400,
        drift_window: int = 200,
        drift_level: float = 0.001,
        max_cpu: float = 0.01,
        max_queue: int = 32,
        max_filters: int = 16,
        seed: int | None = None,
    ) -> None:
        self.rate = check_rate(rate)
        if isinstance(target, bool) or not isinstance(target, (int, float)) or not 0 < target < 1:
            raise InvalidInput(f"target={target!r}: expected a recall between 0 and 1, both excluded, such as 0.98")
        self.target, self.confidence = float(target), check_confidence(confidence)
        self._on_recall, self._on_drift = on_recall, on_drift
        every = max(check_positive(alarm_every, "alarm_every"), 2)
        kept = check_positive(recent, "recent")
        usual, window = (
            check_positive(drift_reference, "drift_reference"),
            check_positive(drift_window, "drift_window"),
        )
        check_level(drift_level)
        shapes = check_positive(max_filters, "max_filters")

        def new_tracks() -> Tracks:
            return Tracks(lambda: Track(self.target, every, kept), self.target, self.confidence, shapes)

        self._new_tracks: Callable[[], Tracks] = new_tracks
        self._new_drift: Callable[[], QueryDrift] = lambda: QueryDrift(usual, window, drift_level, seed)
        self._new_sampler: Callable[[], Sampler] = lambda: Sampler(self.rate, seed)
        self._attached = False
        self._begin()
        self._worker: PacedWorker[_Sampled] = PacedWorker(
            self._replay,
            most=check_positive(max_queue, "max_queue"),
            share=check_rate(max_cpu, "max_cpu"),
            name="mrl-recall-monitor",
            forked=self._begin,
        )

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._sampler = self._new_sampler()
        self._replayed = self._empty = self._changed = self._restarts = 0
        self._collection: str | None = None
        self._forget()

    def _forget(self) -> None:
        self._tracks, self._drift = self._new_tracks(), self._new_drift()
        self._check: DriftCheck | None = None

    # -- what searches do ----------------------------------------------------------------------------------

    def attach(self) -> None:
        """Belong to a retriever; its constructor calls this.

        Raises:
            InvalidInput: it belongs to another one: recalls of two collections would be mixed up.
        """
        with self._lock:
            if self._attached:
                raise InvalidInput(
                    "this monitor was given to a retriever already: make another one for each, or share the retriever, "
                    "which is thread-safe"
                )
            self._attached = True

    def saw(
        self, search: PreparedSearch, backend: Backend, vectors: FloatArray, results: Sequence[SearchResult]
    ) -> None:
        """Take note of live queries ``(Q, dim)``, and their results. Raises nothing."""
        if len(search.stages) == 1:  # an exact search has nothing to lose
            return
        for i in self._sampler.draw(len(results)):
            # A copy: the vector may be the caller's, who may change it.
            self._worker.put(_Sampled(search, backend, vectors[i : i + 1].copy(), results[i].hits))

    # -- what the thread does ------------------------------------------------------------------------------

    def _replay(self, sampled: _Sampled) -> None:
        search = sampled.search
        with self._lock:
            collection = search.manifest.collection_id
            if self._collection not in (None, collection):  # rotated or reindexed: nothing of before is about this one
                self._restarts += 1
                self._forget()
            self._collection = collection
            drift = self._drifted(self._drift.add(prefix(sampled.vector, search.manifest.coarse_dims)[0]))
        if drift is not None:
            self._tell(self._on_drift, drift, drift.drifted)
        outcome = compared(search, sampled.backend, sampled.vector, sampled.hits)
        events: list[RecallEvent] = []
        with self._lock:
            if outcome.recall is None:
                self._changed += outcome.changed
                self._empty += not outcome.changed
            else:
                self._replayed += 1
                shape = None if search.filter is None else filter_shape(search.filter)
                events = self._tracks.add(outcome.recall, shape)
        for event in events:
            self._tell(self._on_recall, event, event.state is RecallState.LOST)

    def _drifted(self, check: DriftCheck | None) -> DriftEvent | None:
        """What a comparison of prefixes has changed, if there was one."""
        if check is None:
            return None
        before = self._check is not None and self._check.drifted
        self._check = check
        return DriftEvent(check.drifted, check) if check.drifted != before else None

    def _tell(self, callback: Callable[[Any], object] | None, event: object, is_bad: bool) -> None:
        if callback is None:
            logger.log(logging.WARNING if is_bad else logging.INFO, "%s", event)
            return
        try:
            callback(event)
        except Exception:  # noqa: BLE001 - whatever it is, the other events and replays are to go on
            self._worker.failed()

    # -- what is known -------------------------------------------------------------------------------------

    def status(self) -> MonitorStatus:
        """What has been seen up to now; also after the retriever was closed."""
        with self._lock:
            recall, filters = self._tracks.status()
            return MonitorStatus(
                recall=recall,
                filters=filters,
                drifted=self._check is not None and self._check.drifted,
                drift=self._check,
                sampled=self._sampler.drawn,
                replayed=self._replayed,
                empty=self._empty,
                changed=self._changed,
                dropped=self._worker.dropped,
                errors=self._worker.errors,
                seconds=self._worker.seconds,
                restarts=self._restarts,
            )

    def accept_queries(self) -> None:
        """Take the queries of now for the usual ones, after a drift that is here to stay."""
        with self._lock:
            self._drift.accept()
            self._check = None

    def wait(self, timeout: float | None = None) -> bool:
        """Until everything that was sampled is replayed, at most so many seconds; whether it was so in time."""
        return self._worker.wait(timeout)

    def close(self) -> None:
        """Replay nothing any more; the retriever's ``close`` calls this. What was seen can still be asked for."""
        self._worker.close()
