"""A writer that is killed at any moment loses nothing it acknowledged and leaves nothing half written."""

import os

import numpy as np
import pytest

from mrl_retrieval.errors import BackendError
from tests import crash


def test_kill_9_at_random_moments(tmp_path):
    """The short form; ``python -m tests.crash --rounds 200`` is the long one."""
    logs = list(crash.run(f"faiss:{tmp_path}/kb", rounds=10, seed=11))
    assert len(logs) == 10 and logs[-1].done >= 20


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_kill_9_many_times(tmp_path, dtype):
    logs = list(crash.run(f"faiss:{tmp_path}/kb", rounds=50, seed=12, options={"fine_dtype": dtype}))
    assert len(logs) == 50 and logs[-1].done >= 100


def test_killed_between_the_vectors_and_the_commit(store, open_store, batch, vector, monkeypatch):
    """The leftover of such a writer is overwritten, whatever its length."""
    store.upsert(batch("a"))
    with store.snapshot() as snapshot:
        segments = store._segments
        leftover = segments.layout.encode(batch(*"vwxyz").vectors)
        segments.append(snapshot.fine.parts[-1].span, snapshot.state.vectors, leftover)
    store.close()
    fresh = open_store()
    fresh.upsert(batch("b", "c"))
    assert fresh.verify().vectors == 3 and fresh.verify().ok
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
    assert fresh.verify().vectors == 2 and fresh.verify().ok
