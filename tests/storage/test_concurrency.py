"""Searches while others write, delete and compact: they never fail, and never find what was gone before they began."""

import subprocess
import sys
import threading
from contextlib import closing

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever

DIM = 24
STAYS, ROUNDS, COPIES = 40, 25, 6
CONDITIONS = (None, {"kind": "fleeting"}, {"n": {"$gte": 0}})


def vectors_of(n, seed):
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


def fill(retriever):
    retriever.index(
        [f"text of s{i}" for i in range(STAYS)],
        [f"s{i}" for i in range(STAYS)],
        [{"kind": "stays", "n": i} for i in range(STAYS)],
        vectors_of(STAYS, 0),
    )


def churn(retriever, lane, rounds, say):
    """Rows come, are overwritten, and go; now and then the collection is compacted. ``say`` hears of those gone."""
    for round in range(rounds):
        ids = [f"{lane}-{round}-{i}" for i in range(COPIES)]
        for _ in range(2):
            retriever.index(
                [f"text of {id}" for id in ids],
                ids,
                [{"kind": "fleeting", "n": round} for _ in ids],
                # All near the same few queries, so that they are found while they are there.
                vectors_of(COPIES, 1) + 0.01 * vectors_of(COPIES, round + 2),
            )
        assert retriever.delete(ids[:-1]) == COPIES - 1
        for id in ids[:-1]:
            say(id)
        if round % 4 == lane % 4:
            retriever.backend.compact()


WRITER = """
import sys
sys.path.insert(0, sys.argv[3])
from tests.storage.test_concurrency import *
with MatryoshkaRetriever(None, sys.argv[1]) as retriever:
    retriever.backend._store._compact_bytes, retriever.backend._store._compact_at = 0, 0.4
    churn(retriever, 7, int(sys.argv[2]), lambda id: print(id, flush=True))
"""


class Searchers:
    """Threads that search until they are told to stop, each hit held to what was said to be gone before."""

    def __init__(self, retriever, threads):
        self.gone, self.stop, self.failures, self.searches = set(), threading.Event(), [], []
        self._retriever = retriever
        self._threads = [threading.Thread(target=self._search, args=(i,)) for i in range(threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self._threads:
            thread.join()

    def _search(self, number):
        queries = np.concatenate([vectors_of(COPIES, 1)[:2], vectors_of(STAYS, 0)[:1]])
        try:
            while not self.stop.is_set():
                before = set(self.gone)
                condition, exact = CONDITIONS[number % 3], number % 4 == 3
                found = self._retriever.search_batch_by_vector(
                    queries, 8, coarse_top_k=500, filter=condition, exact=exact
                )
                for result in found:
                    assert not before & set(result.ids), before & set(result.ids)
                    assert len(set(result.ids)) == len(result.ids)
                    assert all(hit.document == f"text of {hit.id}" for hit in result)
                if condition is None:
                    assert found[2].ids[0] == "s0"
                if number % 5 == 4:
                    rows = self._retriever.get(["s0", *list(before)[:5]], vectors=True)
                    assert [row and row.id for row in rows] == ["s0"] + [None] * min(5, len(before))
                self.searches.append(number)
        except Exception as error:
            self.failures.append(error)
            raise


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_sixteen_threads(tmp_path):
    with closing(MatryoshkaRetriever(None, f"faiss:{tmp_path}/kb", coarse_dims=8)) as retriever:
        fill(retriever)
        retriever.backend._store._compact_bytes, retriever.backend._store._compact_at = 0, 0.4
        with Searchers(retriever, 12) as searchers:
            errors = []

            def write(lane):
                try:
                    churn(retriever, lane, 8, searchers.gone.add)
                except Exception as error:
                    errors.append(error)

            writers = [threading.Thread(target=write, args=(lane,)) for lane in range(4)]
            for thread in writers:
                thread.start()
            for thread in writers:
                thread.join()
        assert errors == [] and searchers.failures == []
        assert len(searchers.searches) >= 12
        assert retriever.count() == STAYS + 4 * 8
        assert retriever.backend.verify().ok


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_two_processes(tmp_path, request):
    address = f"faiss:{tmp_path}/kb"
    with closing(MatryoshkaRetriever(None, address, coarse_dims=8)) as retriever:
        fill(retriever)
        command = [sys.executable, "-c", WRITER, address, str(ROUNDS), str(request.config.rootpath)]
        with (
            Searchers(retriever, 3) as searchers,
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=request.config.rootpath) as writer,
        ):
            for line in writer.stdout:
                searchers.gone.add(line.strip())
        assert writer.returncode == 0 and searchers.failures == []
        assert len(searchers.gone) == ROUNDS * (COPIES - 1) and len(searchers.searches) >= 3
        # What the other wrote last is seen without being asked for, and after refresh() too.
        assert retriever.count() == STAYS + ROUNDS
        retriever.backend.refresh()
        found = retriever.search_by_vector(vectors_of(COPIES, 1)[-1], ROUNDS, filter={"kind": "fleeting"})
        assert set(found.ids) == {f"7-{round}-{COPIES - 1}" for round in range(ROUNDS)}
