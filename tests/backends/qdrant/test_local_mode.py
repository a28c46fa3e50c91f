"""What is special to Qdrant's local mode: how it searches, and whose folder it is."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.local.local_collection import LocalCollection

from mrl_adapters._qdrant import client as _qdrant_client
from mrl_adapters._qdrant import local as _qdrant_local
from mrl_retrieval.documents import Row
from mrl_retrieval.errors import (
    BackendError,
    LockTimeout,
    NotACollection,
)
from mrl_retrieval.filters import IdIn, parse_filter
from mrl_retrieval.registry import open_backend
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.backends.common import COARSE, DIM, batch_of, manifest, queries
from tests.backends.qdrant.helpers import filled


@pytest.mark.parametrize("filter", [None, {"third": True}, {"n": {"$gte": 280}}, {"n": -1}])
def test_candidates_are_rescored_as_local_mode_would(filter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same nested queries, answered by Qdrant's own local mode."""
    asked: list[dict[str, Any]] = []
    ours = _qdrant_local.query
    monkeypatch.setattr(
        _qdrant_local, "query", lambda client, name, request: (asked.append(request), ours(client, name, request))[1]
    )
    stages = [(Stage(COARSE, 40), Stage(DIM, 7)), (Stage(COARSE, 40), Stage(12, 15), Stage(DIM, 7)), (Stage(DIM, 7),)]
    with filled("qdrant:", 300) as backend:
        backend.upsert(batch_of([Row("bare", None, {"third": True, "n": 300}, None)]))
        for each in stages:
            request = SearchRequest(queries(5), each, parse_filter(filter) if filter else None)
            found = backend.search(request)
            sent, asked[:] = asked[:], []
            assert len(sent) == 5 and ("prefetch" in sent[0]) == (len(each) > 1)
            wanted = [models.QueryRequest.model_validate(one) for one in sent]
            theirs = backend._run("", lambda c, wanted=wanted: c.query_batch_points("default", requests=wanted))
            for ranking, answer in zip(found, theirs, strict=True):
                assert [row.id for row in ranking.rows] == [point.payload["_mrl_id"] for point in answer.points]
                np.testing.assert_allclose(ranking.scores, [point.score for point in answer.points], atol=1e-6)


def test_candidates_are_read_by_their_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qdrant's local mode would go through all points for the filter, and once more for the candidates."""
    passes: list[int] = []
    mask = LocalCollection._payload_and_non_deleted_mask
    monkeypatch.setattr(
        LocalCollection,
        "_payload_and_non_deleted_mask",
        lambda self, *known, **named: (passes.append(1), mask(self, *known, **named))[1],
    )
    listed = IdIn(frozenset(f"id-{i}" for i in range(100)))
    with filled("qdrant:", 300) as backend:
        for filter, times in ((None, 1), (parse_filter({"third": True}), 1), (listed, 0)):
            passes.clear()
            request = SearchRequest(queries(1), (Stage(COARSE, 40), Stage(12, 15), Stage(DIM, 7)), filter)
            assert len(backend.search(request)[0].rows) == 7
            assert len(passes) == times


def test_two_collections_of_one_folder_in_one_process(tmp_path: Path) -> None:
    with filled(f"qdrant:{tmp_path}/kb?collection=a", 5) as a, filled(f"qdrant:{tmp_path}/./kb?collection=b", 7) as b:
        assert (a.count(), b.count()) == (5, 7)
        assert a.collections() == ["a", "b"]
        a.close()
        assert b.count() == 7
        with pytest.raises(BackendError, match="was closed"):
            a.count()
    with open_backend(f"qdrant:{tmp_path}/kb?collection=b") as again:
        assert again.count() == 7


def test_another_process_gets_a_clear_error(tmp_path: Path) -> None:
    holder = (
        "import sys; from qdrant_client import QdrantClient; c = QdrantClient(path=sys.argv[1]);"
        "print('open', flush=True); sys.stdin.readline(); c.close()"
    )
    with filled(f"qdrant:{tmp_path}/kb", 3):
        pass
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / "kb")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"open\n"
        with open_backend(f"qdrant:{tmp_path}/kb", lock_timeout=0.1) as backend:
            with pytest.raises(LockTimeout, match=r"lock_timeout=0\.1 s.*Qdrant server"):
                backend.count()
            process.communicate(b"\n", timeout=30)
            assert backend.count() == 3
    finally:
        process.kill()
        process.communicate()


def test_a_process_that_was_faster_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between our look at the lock and Qdrant's taking it, another process may take it."""
    with filled(f"qdrant:{tmp_path}/kb", 3):
        pass
    tries = iter([RuntimeError("Storage folder kb is already accessed by another instance of Qdrant client.")])
    make = _qdrant_client.QdrantClient

    def late(**known: Any) -> QdrantClient:
        for error in tries:
            raise error
        return make(**known)

    monkeypatch.setattr(_qdrant_client, "QdrantClient", late)
    with open_backend(f"qdrant:{tmp_path}/kb") as backend:
        assert backend.count() == 3
    tries = iter([RuntimeError("Storage folder kb is already accessed by another instance of Qdrant client.")])
    with open_backend(f"qdrant:{tmp_path}/kb", lock_timeout=0) as backend, pytest.raises(LockTimeout):
        backend.count()


def test_closing_waits_for_nobody_who_waits_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that somebody else has keeps its own users waiting, and no others."""
    with filled(f"qdrant:{tmp_path}/kb", 3), filled(f"qdrant:{tmp_path}/other", 2):
        pass
    waits, counts = threading.Event(), []
    wait = _qdrant_client.Connection._wait_for
    monkeypatch.setattr(
        _qdrant_client.Connection, "_wait_for", lambda self, *known: (waits.set(), wait(self, *known))[1]
    )
    holder = QdrantClient(path=str(tmp_path / "kb"))
    patient = open_backend(f"qdrant:{tmp_path}/kb", lock_timeout=60)
    hurried = open_backend(f"qdrant:{tmp_path}/kb", lock_timeout=0)
    with pytest.raises(LockTimeout):
        hurried.read_manifest()
    waits.clear()
    waiting = threading.Thread(target=lambda: counts.append(patient.count()))
    waiting.start()
    assert waits.wait(30)

    def others() -> None:
        hurried.close()
        with open_backend(f"qdrant:{tmp_path}/other") as other:
            counts.append(other.count())

    elsewhere = threading.Thread(target=others)
    elsewhere.start()
    elsewhere.join(30)
    before = list(counts)
    holder.close()
    waiting.join()
    elsewhere.join()
    patient.close()
    assert (before, counts) == ([2], [2, 3])
    QdrantClient(path=str(tmp_path / "kb")).close()  # and the folder is free


def test_a_user_s_own_collections_are_left_alone(tmp_path: Path) -> None:
    client = QdrantClient(path=str(tmp_path / "kb"))
    client.create_collection("theirs", vectors_config=models.VectorParams(size=2, distance=models.Distance.COSINE))
    client.create_collection("noted", vectors_config={}, metadata={"owner": "me"})
    client.close()
    with filled(f"qdrant:{tmp_path}/kb", 2) as ours:
        assert ours.collections() == ["default"]
        for name in ("theirs", "noted"):
            with open_backend(f"qdrant:{tmp_path}/kb?collection={name}") as backend:
                for call in (backend.read_manifest, backend.drop, lambda b=backend: b.write_manifest(manifest(), None)):
                    with pytest.raises(NotACollection, match="not made by this library"):
                        call()
        ours.drop()
        ours.drop()
        assert ours.collections() == []
    client = QdrantClient(path=str(tmp_path / "kb"))
    assert {each.name for each in client.get_collections().collections} == {"theirs", "noted"}
    client.close()


def test_a_forgotten_folder_is_let_go(tmp_path: Path) -> None:
    with filled(f"qdrant:{tmp_path}/kb", 3) as backend:
        assert backend.count() == 3
        forgotten: Any = open_backend(f"qdrant:{tmp_path}/kb")
        assert forgotten.count() == 3
        forget = forgotten._connection._abandoned
        del forgotten
        gc.collect()
        assert not forget.alive
        assert backend.count() == 3  # which still uses it
    forgotten = open_backend(f"qdrant:{tmp_path}/kb")
    assert forgotten.count() == 3
    del forgotten
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "mrl-qdrant-abandon":
            thread.join()
    QdrantClient(path=str(tmp_path / "kb")).close()  # as another process would


def test_what_nobody_closed_is_closed_in_silence(tmp_path: Path) -> None:
    code = (
        "from mrl_retrieval import MatryoshkaRetriever as R\n"
        "for place in ('qdrant:kb', 'qdrant:'):\n"
        "    r = R('hashing', place); r.index(['a']); print(len(r.search('a')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("1\n1\n", "")
