"""Spans and metrics, as the OpenTelemetry SDK gets them; and that nothing of anybody's data is in them."""

import subprocess
import sys

import numpy as np
import pytest

otel = pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")
from opentelemetry.sdk.metrics import MeterProvider  # noqa: E402
from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: E402
from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402
from opentelemetry.trace import SpanKind, StatusCode  # noqa: E402

from mrl_retrieval import MatryoshkaRetriever  # noqa: E402
from mrl_retrieval.encoders.hashing import HashingEncoder  # noqa: E402
from mrl_retrieval.errors import InvalidInput, NothingLearned  # noqa: E402
from mrl_retrieval.monitoring import RecallMonitor  # noqa: E402
from mrl_retrieval.telemetry import Telemetry  # noqa: E402

from .common import collection, vectors  # noqa: E402


class Recorded:
    """Telemetry into memory."""

    def __init__(self):
        self.spans, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers, self.meters = TracerProvider(shutdown_on_exit=False), MeterProvider([self.reader])
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.telemetry = Telemetry(self.tracers, self.meters)

    def metrics(self):
        """Name to data points."""
        data = self.reader.get_metrics_data()
        scopes = [scope for resource in (data.resource_metrics if data else ()) for scope in resource.scope_metrics]
        return {metric.name: metric.data.data_points for scope in scopes for metric in scope.metrics}


@pytest.fixture
def recorded():
    made = Recorded()
    yield made
    made.tracers.shutdown()
    made.meters.shutdown()


@pytest.fixture(params=["memory", "faiss"])
def place(request, tmp_path):
    name = f"faiss:{tmp_path / 'kb'}" if request.param == "faiss" else f"memory:telemetry-{tmp_path.name}"
    return f"{name}?collection=notes"


def test_a_search_is_a_span_with_one_for_each_stage(place, recorded):
    with collection(place, telemetry=recorded.telemetry) as retriever:
        plain = MatryoshkaRetriever(None, place)
        queries = vectors(3, seed=3)
        found = retriever.search_batch_by_vector(queries, 5, coarse_top_k=40, filter={"even": True})
        expected = plain.search_batch_by_vector(queries, 5, coarse_top_k=40, filter={"even": True})
        assert [(r.ids, r.certificate, r.trace) for r in found] == [(r.ids, r.certificate, None) for r in expected]
        assert retriever.search_by_vector(queries[0], explain=True).trace is not None
        plain.close()
    first, second, whole, *_ = recorded.spans.get_finished_spans()
    assert (whole.name, whole.kind, whole.parent) == ("search notes", SpanKind.CLIENT, None)
    assert dict(whole.attributes) == {
        "db.system.name": place.partition(":")[0], "db.operation.name": "search", "db.collection.name": "notes",
        "db.operation.batch.size": 3, "mrl.k": 5, "mrl.stages": "8:40 32:5", "mrl.exact": False, "mrl.filtered": True,
        "mrl.candidates": 120,
    }  # fmt: skip
    assert [span.name for span in (first, second)] == ["coarse", "rerank"]
    assert dict(second.attributes) == {
        "mrl.stage": "rerank", "mrl.stage.dims": 32, "mrl.stage.kept": 15, "mrl.stage.scored": 120,
    }  # fmt: skip
    for span in (first, second):
        assert span.parent.span_id == whole.context.span_id
        assert whole.start_time <= span.start_time <= span.end_time <= whole.end_time + 1_000_000
    assert first.end_time == second.start_time


def test_metrics_of_searches(place, recorded):
    with collection(place, telemetry=recorded.telemetry) as retriever:
        retriever.search_batch_by_vector(vectors(4, seed=3), 5, coarse_top_k=40)
        retriever.search_by_vector(vectors(1)[0], exact=True)
    metrics = recorded.metrics()
    (duration,) = metrics["db.client.operation.duration"]
    assert duration.count == 2 and duration.sum > 0 and duration.attributes["db.collection.name"] == "notes"
    assert {p.attributes["mrl.exact"]: p.value for p in metrics["mrl.search.queries"]} == {False: 4, True: 1}
    stages = {p.attributes["mrl.stage"]: p.count for p in metrics["mrl.search.stage.duration"]}
    assert stages == {"coarse": 1, "rerank": 1, "exact": 1}
    assert metrics["mrl.search.candidates"][0].sum == 40


def test_encoding_is_a_stage_and_long_texts_are_counted_still(recorded):
    with MatryoshkaRetriever(HashingEncoder(64), telemetry=recorded.telemetry) as retriever:
        retriever.index(["one text", "another text"])
        assert not recorded.spans.get_finished_spans()
        retriever.search("text")
        assert retriever.long_texts == 0
    encode = recorded.spans.get_finished_spans()[0]
    assert encode.name == "encode" and dict(encode.attributes) == {"mrl.queries": 1}
    assert "encode" in {p.attributes["mrl.stage"] for p in recorded.metrics()["mrl.search.stage.duration"]}


def test_an_error_is_named_without_its_message(recorded):
    with collection("memory:", 20, telemetry=recorded.telemetry) as retriever, pytest.raises(NothingLearned):
        retriever.search_by_vector(vectors(1)[0], recall=0.9)
    (span,) = recorded.spans.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR and span.status.description is None and not span.events
    assert span.attributes["error.type"] == "NothingLearned" and span.attributes["mrl.recall"] == 0.9
    (point,) = recorded.metrics()["db.client.operation.duration"]
    assert point.attributes["error.type"] == "NothingLearned" and point.count == 1


def test_nothing_of_anybodys_data_is_exported(recorded):
    """Texts, ids, metadata and values of filters hold a word that must be in no span and no metric."""
    watching = RecallMonitor(rate=1, max_cpu=1, max_queue=1000)
    with MatryoshkaRetriever(
        HashingEncoder(64), "memory:", telemetry=recorded.telemetry, monitor=watching
    ) as retriever:
        rows = range(30)
        retriever.index([f"xyzzy {i}" for i in rows], [f"xyzzy-{i}" for i in rows], [{"owner": "xyzzy"} for i in rows])
        for only in (None, {"owner": "xyzzy"}, {"owner": {"$in": ["xyzzy", "other"]}}):
            assert len(retriever.search("where is xyzzy?", filter=only)) == 10
            with pytest.raises(InvalidInput):
                retriever.search("xyzzy", filter={"owner": {"$xyzzy": 1}})
        with pytest.raises(InvalidInput):
            retriever.search("xyzzy", filter={"owner": {"$gt": 5}})
        assert watching.wait(30)
        told = [span.to_json() for span in recorded.spans.get_finished_spans()]
        points = str(recorded.metrics())
    assert len(told) > 5 and "owner $eq" in points
    assert not [text for text in (*told, points) if "xyzzy" in text]


def test_the_monitor_is_shown_as_long_as_its_retriever_is_open(recorded):
    watching = RecallMonitor(rate=1, target=0.9, max_cpu=1, max_queue=1000, drift_reference=30, drift_window=20)
    with collection("memory:", monitor=watching, telemetry=recorded.telemetry) as retriever:
        retriever.search_batch_by_vector(vectors(60, seed=3), coarse_top_k=20, filter={"even": True})
        assert watching.wait(30)
        seen, metrics = watching.status(), recorded.metrics()
    for name in ("mean", "lower", "upper"):
        points = metrics[f"mrl.recall.{name}"]
        assert {(p.attributes.get("mrl.filter"), p.attributes["mrl.window"]) for p in points} == {
            (shape, window) for shape in (None, "even $eq") for window in ("lifetime", "recent")
        }
        assert {p.value for p in points} == {getattr(seen.recall.lifetime, name)}
    assert {p.value for p in metrics["mrl.recall.state"]} == {-1}
    outcomes = {p.attributes["mrl.outcome"]: p.value for p in metrics["mrl.monitor.queries"]}
    assert outcomes == {"replayed": 60, "empty": 0, "changed": 0, "dropped": 0, "errors": 0}
    assert metrics["mrl.queries.drifted"][0].value == 0 and metrics["mrl.monitor.time"][0].value > 0
    assert "mrl.recall.mean" not in recorded.metrics()


def test_true_takes_the_programs_own_providers_and_is_made_once(tmp_path):
    """In a process of its own, since a program can set its providers once. They are set after the retriever is made."""
    code = """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from mrl_retrieval import MatryoshkaRetriever
one, other = (MatryoshkaRetriever("hashing", "memory:same", telemetry=True) for _ in range(2))
assert one._watch._telemetry is other._watch._telemetry
one.index(["a", "b"])
one.search("a")
spans, reader, tracers = InMemorySpanExporter(), InMemoryMetricReader(), TracerProvider()
tracers.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(tracers)
metrics.set_meter_provider(MeterProvider([reader]))
one.search("a")
other.search("b")
assert [s.name for s in spans.get_finished_spans()] == 2 * ["encode", "coarse", "rerank", "search default"]
assert reader.get_metrics_data() is not None
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_without_the_extra_the_pip_line_is_named_and_nothing_stays_open():
    code = """
import sys
sys.modules["opentelemetry"] = None
from mrl_retrieval import MatryoshkaRetriever, MissingExtra
from mrl_retrieval.monitoring import RecallMonitor
try:
    MatryoshkaRetriever("hashing", "memory:", telemetry=True)
except MissingExtra as error:
    print(error)
with MatryoshkaRetriever("hashing", "memory:", monitor=RecallMonitor(), telemetry=False) as retriever:
    retriever.index(["a"])
    print(len(retriever.search("a")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "pip install 'mrl-retrieval[otel]'" in done.stdout and done.stdout.splitlines()[-1] == "1"


def test_what_is_no_telemetry():
    for bad in (1, "yes", Telemetry):
        with pytest.raises(InvalidInput, match="pass True, or"):
            MatryoshkaRetriever(None, "memory:", telemetry=bad)


def test_off_nothing_watches():
    with MatryoshkaRetriever(None, "memory:") as retriever:
        assert retriever._watch is None
        retriever.index(["a", "b", "c"], vectors=np.eye(3))
        assert retriever.search_by_vector([1, 0, 0])[0].score == 1
