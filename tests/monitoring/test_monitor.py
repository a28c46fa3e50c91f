"""``RecallMonitor`` on live searches: what it counts and says, and that it is in nobody's way."""

import logging
import os
import threading
import time

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.errors import BackendError, CollectionMismatchError, InvalidInput
from mrl_retrieval.monitoring import RecallMonitor, RecallState
from mrl_retrieval.monitoring.tracks import OTHER

from .common import collection, vectors


def monitor(**settings):
    return RecallMonitor(**{"rate": 1, "target": 0.9, "max_cpu": 1, "max_queue": 100_000, "seed": 0, **settings})


@pytest.fixture(params=["memory", "faiss"])
def place(request, tmp_path):
    return f"faiss:{tmp_path / 'kb'}" if request.param == "faiss" else f"memory:monitor-{tmp_path.name}"


def shares(retriever, queries, **options):
    found = retriever.search_batch_by_vector(queries, exact=True, filter=options.get("filter"))
    lost = retriever.search_batch_by_vector(queries, **options)
    return [len(set(a.ids) & set(b.ids)) / len(b) for a, b in zip(lost, found, strict=True)]


def test_recall_of_live_queries_is_what_it_is(place):
    watching, queries = monitor(), vectors(40, seed=3)
    with collection(place, monitor=watching) as retriever:
        for query in queries[:20]:
            retriever.search_by_vector(query, coarse_top_k=40)
        retriever.search_batch_by_vector(queries[20:], coarse_top_k=40)
        retriever.search_by_vector(queries[0], exact=True)  # nothing to lose
        assert watching.wait(30)
        seen = watching.status()
        expected = shares(retriever, queries, coarse_top_k=40)
    assert (seen.sampled, seen.replayed, seen.dropped, seen.errors, seen.changed, seen.empty) == (40, 40, 0, 0, 0, 0)
    assert seen.recall.lifetime.mean == pytest.approx(np.mean(expected)) and seen.recall.lifetime == seen.recall.recent
    assert seen.recall.state is RecallState.LOST and seen.to_json()["recall"]["state"] == "lost"
    assert seen.recall.lifetime.lower < np.mean(expected) < seen.recall.lifetime.upper


def test_changes_of_state_are_called_back_in_order():
    events = []
    watching, queries = monitor(on_recall=events.append, alarm_every=1000), vectors(100, seed=3)
    with collection("memory:", monitor=watching) as retriever:
        for deep in (1000, 20, 1000):
            for _ in range(2 if deep == 1000 else 1):
                retriever.search_batch_by_vector(queries, coarse_top_k=deep)
            assert watching.wait(60)
    states = [RecallState.HOLDS, RecallState.LOST, RecallState.HOLDS]
    assert [event.state for event in events] == states
    assert [event.previous for event in events] == [RecallState.UNPROVEN, *states[:2]]
    assert events[0].status.lifetime.lower > 0.9 and events[1].status.filter is None
    assert "recall is below 0.9: 0." in str(events[1]) and "holds 0.9 again" in str(events[2])


def test_without_a_callback_it_is_logged(caplog):
    caplog.set_level(logging.INFO, "mrl_retrieval.monitoring")
    watching = monitor(alarm_every=100)
    with collection("memory:", monitor=watching) as retriever:
        retriever.search_batch_by_vector(vectors(100, seed=3), coarse_top_k=1000)
        retriever.search_batch_by_vector(vectors(100, seed=4), coarse_top_k=10)
        assert watching.wait(60)
    assert [record.levelno for record in caplog.records] == [logging.INFO, logging.WARNING]


def test_filters_are_watched_by_their_shapes_and_so_many_of_them():
    events = []
    watching, queries = monitor(max_filters=2, on_recall=events.append), vectors(30, seed=3)
    filters = [{"even": True}, {"n": {"$lt": 500}}, {"n": {"$gt": 20}}, {"n": {"$gte": 600}}]
    with collection("memory:", monitor=watching) as retriever:
        for only in (*filters, {"even": False}):  # the last has the shape of the first
            retriever.search_batch_by_vector(queries, filter=only, coarse_top_k=30)
        retriever.search_batch_by_vector(queries, filter={"n": -1})
        assert watching.wait(60)
        seen = watching.status()
        first = np.mean(
            [shares(retriever, queries, filter=one, coarse_top_k=30) for one in (filters[0], {"even": False})]
        )
    assert {one.filter: one.lifetime.n for one in seen.filters} == {"even $eq": 60, "n $lt": 30, OTHER: 60}
    assert seen.recall.lifetime.n == 150 and seen.empty == 30
    assert seen.filters[0].lifetime.mean == pytest.approx(first) or seen.filters[1].lifetime.mean == pytest.approx(
        first
    )
    assert {event.status.filter for event in events} >= {None, "even $eq", OTHER}


def test_what_cannot_be_replayed_in_time_is_dropped_and_searches_go_on():
    gate, watching = threading.Event(), monitor(max_queue=2)
    with collection("memory:", 50, monitor=watching) as retriever:
        search = retriever.backend.search

        def slow(request):
            if request.exact:
                gate.wait(20)
            return search(request)

        retriever.backend.search = slow
        results = [retriever.search_by_vector(query) for query in vectors(20, seed=3)]
        assert all(len(result) == 10 for result in results)
        gate.set()
        assert watching.wait(30)
        seen = watching.status()
        assert seen.sampled == 20 and seen.replayed + seen.dropped == 20 and seen.replayed in (2, 3)


def test_whatever_fails_is_counted_and_no_search_fails(caplog):
    def broken(event):
        raise RuntimeError("callback")

    watching = monitor(on_recall=broken)
    with collection("memory:", monitor=watching) as retriever:
        search = retriever.backend.search

        def failing(request):
            if request.exact and len(request.vectors) == 1:
                raise BackendError("away")
            return search(request)

        retriever.backend.search = failing
        retriever.search_batch_by_vector(vectors(10, seed=3), coarse_top_k=10)
        assert watching.wait(30) and watching.status().errors == 10
        retriever.backend.search = search
        retriever.search_batch_by_vector(vectors(50, seed=3), coarse_top_k=10)
        assert watching.wait(30)
    seen = watching.status()
    assert (seen.replayed, seen.errors, seen.recall.state) == (50, 11, RecallState.LOST)
    assert len(caplog.records) == 1


def test_a_writer_beside_it_is_no_loss():
    """Rows come and go while every candidate is searched: recall is 1 whenever something is said."""
    watching = monitor()
    with collection("memory:", 60, monitor=watching) as retriever:
        stop = threading.Event()

        def write():
            rng = np.random.default_rng(0)
            while not stop.is_set():
                ids = rng.choice(200, 3, replace=False)
                retriever.index(["w"] * 3, [f"w{i}" for i in ids], vectors=rng.standard_normal((3, 32)))
                retriever.delete([f"w{i}" for i in rng.integers(0, 200, 3)])
                time.sleep(0.001)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for query in vectors(150, seed=3):
                retriever.search_by_vector(query, coarse_top_k=1000)
            assert watching.wait(60)
        finally:
            stop.set()
            writer.join()
    seen = watching.status()
    assert seen.recall.lifetime.mean == 1 and seen.replayed + seen.changed == 150 and seen.replayed > 50


def test_drift_is_told_apart_from_recall():
    drifts, recalls = [], []
    watching = monitor(on_drift=drifts.append, on_recall=recalls.append, drift_reference=60, drift_window=40)
    rng = np.random.default_rng(0)
    with collection("memory:", monitor=watching) as retriever:
        retriever.search_batch_by_vector(rng.standard_normal((180, 32)), coarse_top_k=1000)
        retriever.search_batch_by_vector(rng.standard_normal((60, 32)) + 2, coarse_top_k=1000)
        assert watching.wait(60)
        assert [event.drifted for event in drifts] == [True] and watching.status().drifted
        assert "differ from the first 60 sampled ones" in str(drifts[0])
        assert watching.status().recall.lifetime.mean == 1 and not [e for e in recalls if e.state is RecallState.LOST]
        watching.accept_queries()
        assert not watching.status().drifted
        retriever.search_batch_by_vector(rng.standard_normal((120, 32)) + 2, coarse_top_k=1000)
        assert watching.wait(60) and len(drifts) == 1 and watching.status().drift is not None


def test_the_rows_moved_to_another_collection(tmp_path):
    """Recalls of before are of another index: they are forgotten."""
    watching = monitor()
    with collection(f"memory:{tmp_path.name}", monitor=watching) as retriever:
        retriever.search_batch_by_vector(vectors(20, seed=3), coarse_top_k=1000)
        assert watching.wait(30)
        with collection("memory:other") as other:
            watching.saw(
                other._prepare(10, {"coarse_top_k": 10}), other.backend, vectors(5, seed=3),
                other.search_batch_by_vector(vectors(5, seed=3), coarse_top_k=10),
            )  # fmt: skip
            assert watching.wait(30)
    seen = watching.status()
    assert seen.restarts == 1 and seen.recall.lifetime.n == 5 and seen.replayed == 25


def test_a_callers_vector_that_changes_later_does_not_matter():
    gate, watching = threading.Event(), monitor()
    with collection("memory:", monitor=watching) as retriever:
        search = retriever.backend.search

        def waiting(request):
            if request.exact:
                gate.wait(20)
            return search(request)

        retriever.backend.search = waiting
        query = vectors(1, seed=3)[0].astype(np.float32)
        retriever.search_by_vector(query, coarse_top_k=1000)
        query[:] = -query
        gate.set()
        assert watching.wait(30) and watching.status().recall.lifetime.mean == 1


def test_closing_ends_the_thread_and_what_was_seen_stays():
    watching = monitor(max_cpu=1e-6)
    retriever = collection("memory:", monitor=watching)
    for query in vectors(10, seed=3):
        retriever.search_by_vector(query)
    watching.wait(0.3)
    retriever.close()
    retriever.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "mrl-recall-monitor"]
    seen = watching.status()
    assert seen.sampled == 10 and seen.replayed + seen.dropped == 10


def test_one_monitor_one_retriever(tmp_path):
    watching = monitor()
    with (
        collection("memory:", 20, monitor=watching),
        pytest.raises(InvalidInput, match="given to a retriever already"),
    ):
        MatryoshkaRetriever(None, "memory:", monitor=watching)
    address = f"memory:{tmp_path.name}"
    with collection(address, 20):
        fresh = monitor()
        with pytest.raises(CollectionMismatchError):
            MatryoshkaRetriever(None, address, dim=32, coarse_dims=16, monitor=fresh)
        MatryoshkaRetriever(None, address, monitor=fresh).close()  # the failed one did not take it


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_counts_for_itself():
    watching = monitor()
    with collection("memory:", 100, monitor=watching) as retriever:
        retriever.search_batch_by_vector(vectors(20, seed=3))
        child = os.fork()
        if child == 0:  # pragma: no cover
            status = 1
            try:
                empty = watching.status().sampled == 0
                retriever.search_batch_by_vector(vectors(3, seed=3))
                status = 0 if empty and watching.wait(20) and watching.status().replayed == 3 else 1
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert watching.wait(30) and watching.status().replayed == 20


@pytest.mark.parametrize(
    "bad",
    [
        {"rate": 0}, {"rate": 1.5}, {"rate": -1}, {"rate": "1"}, {"target": 0}, {"target": 1}, {"target": float("nan")},
        {"target": True}, {"confidence": 1}, {"alarm_every": 0}, {"recent": 0}, {"drift_reference": 0}, {"drift_window": 1.5},
        {"drift_level": 0}, {"max_cpu": 0}, {"max_cpu": 2}, {"max_queue": 0}, {"max_filters": -1},
    ],
)  # fmt: skip
def test_numbers_out_of_their_range(bad):
    with pytest.raises(InvalidInput, match=next(iter(bad))):
        RecallMonitor(**bad)


def test_what_is_no_monitor():
    for bad in (0.01, RecallMonitor, "yes"):
        with pytest.raises(InvalidInput, match="pass a RecallMonitor"):
            MatryoshkaRetriever(None, "memory:", monitor=bad)
