"""What watching costs: searches a second with and without a recall monitor, and telemetry.

One collection of 34,822 rows (quora's questions, wordllama, embedded store), searched by one thread, one query at a
time. The ways take turns, in another order each round. A turn opens the collection, warms up, and searches for some
seconds. Two ratios to the turn of the same round without anything, as medians and quartiles: of searches a second,
which other programs on the machine disturb; and of the processor time of the whole process for a search, all threads
together, which they hardly do. ``docs/monitoring.md`` keeps a run.
"""

from __future__ import annotations

import gc
import tempfile
import time
import timeit
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NoOpTracerProvider

from benchmarks.datasets import load
from benchmarks.report import table
from mrl_retrieval import MatryoshkaRetriever, load_encoder
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.monitoring import RecallMonitor
from mrl_retrieval.monitoring.sampling import Sampler
from mrl_retrieval.telemetry import Telemetry

ROUNDS = 12
SECONDS = 2.0
"""Of a turn."""

RATE = 0.01
_MONITOR = f"monitor, rate {RATE:g}"


def run() -> str:
    """Measure; the tables."""
    data, encoder = load("quora", 500), load_encoder("wordllama")
    documents, queries = encoder.encode_document(data.documents), encoder.encode_query(data.queries)
    with tempfile.TemporaryDirectory() as folder:
        return compare(Path(folder), documents, [query.copy() for query in queries], ROUNDS, SECONDS)


def compare(folder: Path, documents: FloatArray, queries: list[FloatArray], rounds: int, seconds: float) -> str:
    """The tables for these vectors, in a collection made in ``folder``."""
    address, dim = f"faiss:{folder / 'kb'}", documents.shape[1]
    with MatryoshkaRetriever(None, address, dim=dim) as made:
        made.index([f"question {i}" for i in range(len(documents))], range(len(documents)), vectors=documents)
        made.flush()
    turns: dict[str, list[_Turn]] = {}
    names, rng = ["nothing", "nothing, once more", _MONITOR, *_telemetry()], np.random.default_rng(0)
    statuses = []
    for _ in range(rounds):
        for name in rng.permutation(names).tolist():
            monitor = RecallMonitor(rate=RATE) if name == _MONITOR else None
            telemetry = _telemetry().get(name)
            with MatryoshkaRetriever(None, address, monitor=monitor, telemetry=telemetry) as retriever:
                turns.setdefault(name, []).append(_turn(retriever, queries, seconds))
            if monitor is not None:
                statuses.append(monitor.status())
    plain, rows = turns["nothing"], []
    for name in names:
        pairs = list(zip(turns[name], plain, strict=True))
        speed = [one.searches_a_second / other.searches_a_second for one, other in pairs]
        work = [one.cpu_a_search / other.cpu_a_search for one, other in pairs]
        median = np.median([one.searches_a_second for one in turns[name]])
        rows.append([name, f"{median:,.0f}", *_quartiles(speed), *_quartiles(work)])
    head = ["watched by", "searches/s", "to nothing", "quartiles", "CPU of a search, to nothing", "quartiles"]
    counts = [sum(getattr(status, name) for status in statuses) for name in ("sampled", "replayed", "dropped")]
    monitor = RecallMonitor(rate=RATE)
    with MatryoshkaRetriever(None, address, monitor=monitor) as retriever:
        _turn(retriever, queries, 10 * seconds)
        long = monitor.status()
    said = "The monitor: {:,} sampled, {:,} replayed, {:,} dropped, or waiting at the end of a turn".format(*counts)
    busy = f"in one turn ten times as long replays took {10 * long.seconds / seconds:.2f} % of the time"
    return f"{table(head, rows)}\n\n{said}; {busy}.\n\n{_parts()}"


@dataclass(frozen=True, slots=True)
class _Turn:
    """What one turn gave."""

    searches_a_second: float
    cpu_a_search: float


def _turn(retriever: MatryoshkaRetriever, queries: list[FloatArray], seconds: float) -> _Turn:
    search = retriever.search_by_vector
    search(queries[0], exact=True)  # what a first replay would have to read
    for query in queries[:200]:
        search(query)
    gc.collect()
    count, started, worked = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        for query in queries:
            search(query)
        count += len(queries)
    spent = time.process_time() - worked
    return _Turn(count / (time.perf_counter() - started), spent / count)


def _quartiles(ratios: list[float]) -> list[str]:
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return [f"{middle:.3f}", f"{low:.3f} – {high:.3f}"]


@cache
def _telemetry() -> dict[str, Telemetry]:
    """Telemetry that nobody records, and that the SDK does, in memory."""
    metrics = MeterProvider([InMemoryMetricReader()])
    return {
        "telemetry, no SDK": Telemetry(NoOpTracerProvider(), NoOpMeterProvider()),
        "telemetry, metrics": Telemetry(NoOpTracerProvider(), metrics),
        "telemetry, spans and metrics": Telemetry(TracerProvider(shutdown_on_exit=False), metrics),
    }


def _parts() -> str:
    sampler, watch = Sampler(RATE, seed=0), None
    count = 200_000
    parts = {
        "whether anybody watches": timeit.timeit(lambda: watch is None, number=count),
        "whether a query is drawn": timeit.timeit(lambda: sampler.draw(1), number=count),
    }
    empty = timeit.timeit(lambda: None, number=count)
    rows = [[name, f"{(seconds - empty) / count * 1e9:.0f}"] for name, seconds in parts.items()]
    return table(["a part alone", "ns"], rows)
