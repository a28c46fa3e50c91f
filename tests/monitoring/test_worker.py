"""The background thread: bounded, paced, gone when it is not needed, and never in anybody's way."""

import logging
import os
import threading

import pytest

from mrl_retrieval.monitoring import worker as module
from mrl_retrieval.monitoring.worker import PacedWorker


@pytest.fixture
def make():
    made = []

    def worker(work, **settings):
        made.append(PacedWorker(work, **{"most": 4, "share": 1, "name": "test-worker", **settings}))
        return made[-1]

    yield worker
    for one in made:
        one.close()


def named():
    return [thread for thread in threading.enumerate() if thread.name == "test-worker"]


def test_jobs_are_done_in_order_and_nothing_waits_beyond_the_bound(make):
    done, gate, begun = [], threading.Event(), threading.Event()

    def work(job):
        begun.set()
        gate.wait(10)
        done.append(job)

    worker = make(work)
    assert not named()  # none until needed
    assert worker.put(0) and begun.wait(10)
    assert [worker.put(i) for i in range(1, 8)] == [True] * 4 + [False] * 3
    assert worker.dropped == 3 and not worker.wait(0.01)
    gate.set()
    assert worker.wait(10) and done == [0, 1, 2, 3, 4] and named()[0].daemon


def test_after_a_job_it_rests_in_proportion_and_a_close_ends_the_rest(make):
    done = []

    def work(job):
        threading.Event().wait(0.02)
        done.append(job)

    worker = make(work, share=1e-4)
    for job in range(3):
        worker.put(job)
    assert not worker.wait(1.0)  # the first is for nothing; after the second it rests for minutes
    assert done == [0, 1] and worker.seconds >= 0.02
    worker.close()
    assert not named() and done == [0, 1] and worker.dropped == 1
    assert not worker.put(9) and worker.dropped == 2


def test_failures_are_counted_and_the_first_is_logged(make, caplog):
    worker = make(lambda job: 1 / job)
    for job in (0, 1, 0):
        worker.put(job)
    assert worker.wait(10) and worker.errors == 2
    assert [(r.levelno, r.name) for r in caplog.records] == [(logging.WARNING, module.__name__)]
    assert "ZeroDivisionError" in caplog.text


def test_it_ends_when_idle_and_begins_again(make, monkeypatch):
    monkeypatch.setattr(module, "_IDLE", 0.05)
    done = []
    worker = make(done.append)
    for job in (1, 2):
        worker.put(job)
        assert worker.wait(10)
        for thread in named():
            thread.join(10)
        assert not named()
    assert done == [1, 2]


def test_closing_from_within_a_job(make):
    worker = make(lambda job: worker.close())
    worker.put(1)
    assert worker.wait(10)
    for thread in named():
        thread.join(10)
    assert not named() and worker.errors == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_begins_anew(make):
    """Forked while a job is being done, and others wait: the child has no thread, no jobs, and can work."""
    gate, begun, forked, done = threading.Event(), threading.Event(), [], []

    def work(job):
        if job == "wait":
            begun.set()
            gate.wait(10)
        done.append(job)

    worker = make(work, forked=lambda: forked.append(1))
    worker.put("wait")
    assert begun.wait(10)
    worker.put("later")
    child = os.fork()
    if child == 0:  # pragma: no cover
        status = 1
        try:
            fresh = worker._thread is None and worker.wait(0) and forked == [1]
            worker.put("child")
            status = 0 if fresh and worker.wait(10) and done == ["child"] else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    gate.set()
    assert worker.wait(10) and done == ["wait", "later"] and not forked
