"""A writer that is killed at any moment loses nothing it acknowledged and leaves nothing half written."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mrl_retrieval.errors import BackendError

# Writes batches of 7 for ever; says which batch is in, after it is in. Every third batch rewrites an earlier one
# and deletes a row of it, so that tombstones are written too.
WRITER = """
import sys, pathlib
sys.path.insert(0, sys.argv[2])
from conftest import batch_of
from mrl_retrieval.storage import Store
store = Store(pathlib.Path(sys.argv[1]), "default")
number = int(sys.argv[3])
print("ready", flush=True)
while True:
    names = [f"{number}-{i}" for i in range(7)]
    store.upsert(batch_of(*names, bare=(f"{number}-3",)))
    print("in", number, flush=True)
    if number % 3 == 2:
        store.upsert(batch_of(*[f"{number - 1}-{i}" for i in range(7)]))
        print("again", number - 1, flush=True)
        store.delete([f"{number - 1}-0"])
        print("gone", number - 1, flush=True)
    number += 1
"""


def test_kill_9_at_random_moments(store, open_store, batch, vector, tmp_path):
    random.seed(11)
    said, number = [], 0
    for _ in range(15):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "kb"), str(Path(__file__).parent), str(number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "ready\n"
        lines = [process.stdout.readline() for _ in range(random.randrange(7))]
        time.sleep(random.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.read().splitlines(keepends=True)
        said += [line.split() for line in lines if line.endswith("\n")]
        process.stdout.close()
        process.wait()
        number = max((int(n) for _, n in said), default=number) + 3
        check(open_store, said, vector)
    assert len(said) >= 30


def check(open_store, said, vector):
    store = open_store()
    store.read_manifest()
    store.verify()
    with store.snapshot() as snapshot:
        rows = [
            row for part in snapshot.batches(None, vectors=True, documents=True, batch_size=100) for row in part.rows()
        ]
    by_id = {row.id: row for row in rows}
    assert len(by_id) == len(rows)
    for row in rows:
        assert row.document == f"text of {row.id}" and row.metadata == {"name": row.id}
        if row.vector is not None:
            np.testing.assert_array_equal(row.vector, vector(row.id).astype("<f2").astype(np.float32))
    counts: dict[str, int] = {}
    for id in by_id:
        counts[id.split("-")[0]] = counts.get(id.split("-")[0], 0) + 1
    assert set(counts.values()) <= {6, 7}  # a whole batch, less the one row that is deleted
    events = {n: [w for w, m in said if m == n] for _, n in said}
    for n, words in events.items():
        assert counts.get(n, 0) >= 6
        if "gone" in words:
            assert f"{n}-0" not in by_id
        elif "in" in words and int(n) % 3 != 1:
            assert f"{n}-0" in by_id
        if "again" in words:
            assert by_id[f"{n}-3"].vector is not None
        elif "in" in words and int(n) % 3 != 1:
            assert by_id[f"{n}-3"].vector is None
    store.close()


def test_killed_between_the_vectors_and_the_commit(store, open_store, batch, vector, monkeypatch):
    """The leftover of such a writer is overwritten, whatever its length."""
    store.upsert(batch("a"))
    with store.snapshot() as snapshot:
        segments = store._segments
        leftover = segments.layout.encode(batch(*"vwxyz").vectors)
        segments.append(snapshot.state.vectors, leftover)
    store.close()
    fresh = open_store()
    fresh.upsert(batch("b", "c"))
    assert fresh.verify() == 3
    assert (fresh.files.segments / "000001.seg").stat().st_size == 64 + 3 * 16 * 2
    with fresh.snapshot() as snapshot:
        a, v, c = snapshot.get(["a", "v", "c"], vectors=True)
    assert v is None
    for row in (a, c):
        np.testing.assert_array_equal(row.vector, vector(row.id).astype("<f2").astype(np.float32))


@pytest.mark.parametrize("step", ["fsync", "pwrite", "ftruncate"])
def test_a_failing_disk_at_each_step(store, open_store, batch, monkeypatch, step):
    store.upsert(batch("a"))
    calls = []

    def fail(fd, *rest):
        calls.append(fd)
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(BackendError, match="Input/output error"):
            store.upsert(batch("b"))
    assert calls
    fresh = open_store()
    with fresh.snapshot() as snapshot:
        assert [row and row.id for row in snapshot.get(["a", "b"])] == ["a", None]
    fresh.upsert(batch("b"))
    assert fresh.verify() == 2
