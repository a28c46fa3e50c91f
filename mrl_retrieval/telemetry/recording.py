"""``Telemetry``: a span for each search with one for each stage, and the metrics of both.

Names follow OpenTelemetry's semantic conventions for database clients where those have one (``db.…``); the others begin
with ``mrl.``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

try:
    from opentelemetry.context import Context, attach, detach
    from opentelemetry.metrics import MeterProvider, get_meter
    from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider, get_tracer, set_span_in_context
except ImportError as error:
    from ..errors import MissingExtra

    raise MissingExtra("telemetry", "otel") from error

from .._version import __version__
from ..address import Address
from ..backend import Backend
from ..documents import SearchResult
from ..encoder import Encoder
from ..errors import InvalidInput
from ..long_texts import TextEncoding
from ..matryoshka import FloatArray
from ..monitoring.monitor import RecallMonitor
from ..searching import PreparedSearch
from ..two_stage import Stage, StageTrace
from .gauges import MonitorGauges

__all__ = ["Telemetry", "as_telemetry"]

_SCOPE = "mrl_retrieval"

_SECONDS = [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
_COUNTS = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000]

_SYSTEMS = {"pgvector": "postgresql"}
"""The conventions' names of databases, where they are not our schemes."""

Attributes = Mapping[str, str | int | float | bool]


class Telemetry:
    """Where spans and metrics go. Thread-safe; one may serve many retrievers.

    Args:
        tracer_provider: None: the one that the program has set, or will; without any nothing is recorded.
        meter_provider: likewise.

    Raises:
        MissingExtra: opentelemetry-api is not installed.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._tracer = get_tracer(_SCOPE, __version__, tracer_provider)
        meter = get_meter(_SCOPE, __version__, meter_provider)
        histogram, counter = meter.create_histogram, meter.create_counter
        self._duration = histogram(
            "db.client.operation.duration",
            unit="s",
            description="Duration of a search, of one query or several at once.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._stage_duration = histogram(
            "mrl.search.stage.duration",
            unit="s",
            description="Duration of a stage of a search, where the backend tells; and of encoding the queries.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._candidates = histogram(
            "mrl.search.candidates",
            unit="{document}",
            description="Candidates of the coarse stage, of one query.",
            explicit_bucket_boundaries_advisory=_COUNTS,
        )
        self._queries = counter("mrl.search.queries", unit="{query}", description="Queries that were searched for.")
        self._gauges = MonitorGauges(meter)

    def run(self, search: PreparedSearch, backend: Backend, vectors: FloatArray) -> list[SearchResult]:
        """:meth:`PreparedSearch.run`, recorded."""
        name, kind = _named(backend.address)
        attributes = {**kind, **_asked(search, len(vectors))}
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
        # Without an SDK there is no context to be in; where a span was not sampled, what is below it is to know.
        token = attach(set_span_in_context(span)) if span.get_span_context().is_valid else None
        begun, started = time.time_ns(), time.perf_counter()
        try:
            results = search.run(backend, vectors, timed=True)
            seconds = time.perf_counter() - started
            traces = [result.trace.stages for result in results if result.trace is not None]
            stages: Sequence[StageTrace] = traces[0] if traces else ()
            candidates = sum(trace[0].candidates_out for trace in traces) if len(stages) > 1 else 0
            if span.is_recording():
                if len(stages) > 1:
                    span.set_attribute("mrl.candidates", candidates)
                self._stage_spans(set_span_in_context(span), traces, begun)
        except Exception as error:
            # The exception is not recorded as it is, since its message may name ids, or values of a filter.
            failed = {"error.type": type(error).__qualname__}
            span.set_attributes(failed)
            span.set_status(Status(StatusCode.ERROR))
            self._duration.record(time.perf_counter() - started, {**kind, **failed})
            raise
        finally:
            if token is not None:
                detach(token)
            span.end()
        if len(stages) > 1:
            self._candidates.record(candidates / len(vectors), kind)
        self._duration.record(seconds, kind)
        self._queries.add(len(vectors), {**kind, "mrl.exact": len(search.stages) == 1})
        for stage in stages:
            self._stage_duration.record(stage.seconds, {**kind, "mrl.stage": stage.name})
        return results if search.explain or not traces else [replace(result, trace=None) for result in results]

    def _stage_spans(self, parent: Context, traces: Sequence[Sequence[StageTrace]], begun: int) -> None:
        """One span for each stage, with the counts of all queries of the batch together."""
        for of_queries in zip(*traces, strict=True):
            stage = of_queries[0]
            told: dict[str, str | int] = {
                "mrl.stage": stage.name,
                "mrl.stage.kept": sum(each.candidates_out for each in of_queries),
            }
            if stage.dims is not None:
                told["mrl.stage.dims"] = stage.dims
            came = [each.candidates_in for each in of_queries if each.candidates_in is not None]
            if len(came) == len(of_queries):
                told["mrl.stage.scored"] = sum(came)
            span = self._tracer.start_span(stage.name, parent, attributes=told, start_time=begun)
            begun += int(stage.seconds * 1e9)
            span.end(begun)

    def encoding(self, encode: TextEncoding, backend: Callable[[], Backend]) -> TextEncoding:
        """The same encoding, recorded where queries are encoded."""
        return _RecordedEncoding(encode, self, backend)

    def encoded(self, count: int, backend: Backend, begun: int, seconds: float) -> None:
        """Record that so many queries were encoded."""
        self._stage_duration.record(seconds, {**place(backend), "mrl.stage": "encode"})
        span = self._tracer.start_span("encode", attributes={"mrl.queries": count}, start_time=begun)
        span.end(begun + int(seconds * 1e9))

    def show(self, monitor: RecallMonitor, backend: Backend) -> None:
        """Export what a monitor sees, until :meth:`leave`."""
        self._gauges.add(monitor, place(backend))

    def leave(self, monitor: RecallMonitor) -> None:
        """Export it no longer."""
        self._gauges.remove(monitor)


class _RecordedEncoding(TextEncoding):
    """Times another."""

    def __init__(self, encode: TextEncoding, telemetry: Telemetry, backend: Callable[[], Backend]) -> None:
        self._plain, self._telemetry, self._of = encode, telemetry, backend

    @property
    def long_texts(self) -> int:  # type: ignore[override]
        """See :class:`TextEncoding`."""
        return self._plain.long_texts

    def __call__(
        self, encoder: Encoder, texts: Sequence[str], *, queries: bool, kwargs: Mapping[str, Any] | None = None
    ) -> FloatArray:
        """See :class:`TextEncoding`."""
        begun, started = time.time_ns(), time.perf_counter()
        vectors = self._plain(encoder, texts, queries=queries, kwargs=kwargs)
        if queries:
            self._telemetry.encoded(len(texts), self._of(), begun, time.perf_counter() - started)
        return vectors


def place(backend: Backend) -> dict[str, str | int | float | bool]:
    """What is searched: the attributes that spans and metrics share."""
    return _named(backend.address)[1]


@lru_cache(maxsize=256)
def _named(address: Address) -> tuple[str, dict[str, str | int | float | bool]]:
    """The name of a search's span, and what is searched."""
    return f"search {address.collection}", {
        "db.system.name": _SYSTEMS.get(address.scheme, address.scheme),
        "db.operation.name": "search",
        "db.collection.name": address.collection,
    }


def _asked(search: PreparedSearch, queries: int) -> dict[str, str | int | float | bool]:
    """How it is searched."""
    told: dict[str, str | int | float | bool] = {
        "mrl.k": search.stages[-1].limit,
        "mrl.stages": _stages(search.stages),
        "mrl.exact": len(search.stages) == 1,
        "mrl.filtered": search.filter is not None,
    }
    if search.recall is not None:
        told["mrl.recall"] = search.recall
    if queries > 1:
        told["db.operation.batch.size"] = queries
    return told


@lru_cache(maxsize=256)
def _stages(stages: tuple[Stage, ...]) -> str:
    """Such as ``64:200 256:10``."""
    return " ".join(f"{stage.dims}:{stage.limit}" for stage in stages)


@lru_cache(maxsize=1)
def _shared() -> Telemetry:
    """The one of all that say ``telemetry=True``: instruments are made once."""
    return Telemetry()


def as_telemetry(value: Any) -> Telemetry:
    """What a retriever's ``telemetry=`` means.

    Raises:
        InvalidInput: it is neither True nor a :class:`Telemetry`.
    """
    if isinstance(value, Telemetry):
        return value
    if value is True:
        return _shared()
    raise InvalidInput(f"telemetry is {type(value).__name__}; pass True, or a mrl_retrieval.telemetry.Telemetry")
