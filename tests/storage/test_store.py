"""A collection on disk: round trips, transactions, snapshots, and the documented format."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import (
    BackendError,
    CollectionMismatchError,
    InvalidInput,
)
from mrl_retrieval.manifest import Manifest

NASTY = {
    "z first": 1, "a": 1.0, "nul\0key": "nul\0value", "": [], "é.😀": {"": None, "n": -0.0}, "big": 2**63 - 1,
    "tiny": 5e-324, "list": [1, 1.0, True, None, {"b": [[]]}], "'; DROP TABLE row; --": "\ud7ff\uffff",
}  # fmt: skip


def rows_of(store, *ids):
    with store.snapshot() as snapshot:
        return snapshot.get(ids, vectors=True)


def counters(store):
    with store.snapshot() as snapshot:
        return snapshot.state


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_round_trip_into_another_process(open_store, manifest, batch, vector, tmp_path, dtype):
    store = open_store(fine_dtype=dtype)
    store.write_manifest(manifest, None)
    store.upsert(batch("a", "b", "nul\0id", bare=("b",), metadatas=[NASTY, {}, {"k": []}]))
    code = (
        "import sys, pickle, pathlib; from mrl_retrieval.storage import Store\n"
        "s = Store(pathlib.Path(sys.argv[1]), 'default'); m = s.read_manifest()\n"
        "with s.snapshot() as snap: rows = snap.get(['b', 'x', 'a', 'a', 'nul\\0id'], vectors=True)\n"
        "s.close(); sys.stdout.buffer.write(pickle.dumps((m.dumps(), rows)))"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path / "kb")], check=True, capture_output=True).stdout
    import pickle

    text, (b, none, a, again, nul) = pickle.loads(out)
    assert Manifest.loads(text) == manifest
    assert none is None and b == Row("b", "text of b", {}, None)
    assert (a.id, a.document, nul.id) == ("a", "text of a", "nul\0id")
    assert list(a.metadata.items()) == list(NASTY.items())
    assert [type(v) for v in a.metadata.values()] == [type(v) for v in NASTY.values()]
    stored = "<f2" if dtype == "float16" else "<f4"
    np.testing.assert_array_equal(a.vector, vector("a").astype(stored).astype(np.float32))
    np.testing.assert_array_equal(again.vector, a.vector)


def test_fine_dtype_is_kept_and_a_different_one_refused(open_store, manifest):
    open_store(fine_dtype="float32").write_manifest(manifest, None)
    plain = open_store()
    assert plain.read_manifest() == manifest and plain.fine_dtype == "float32"
    with pytest.raises(CollectionMismatchError, match="as float32, asked for fine_dtype='float16'"):
        open_store(fine_dtype="float16").read_manifest()
    with pytest.raises(InvalidInput, match="'float16', 'float32', 'int8'"):
        open_store(fine_dtype="int4")


def test_overwriting_and_deleting(store, batch):
    store.upsert(batch("a", "b", "c", bare=("c",)))
    store.upsert(batch("a", "c", bare=("a",), metadatas=[{"new": 1}, {"new": 2}]))
    a, b, c = rows_of(store, "a", "b", "c")
    assert a.vector is None and a.metadata == {"new": 1} and c.vector is not None and b.vector is not None
    state = counters(store)
    assert (state.rows, state.vectors, state.bare) == (3, 3, 2)
    assert store.delete(["c", "x", "c", "nul\0", "\ud800"]) == 1
    assert store.delete(["c"]) == 0 == store.delete([])
    assert rows_of(store, "c") == [None]
    assert counters(store).rows == 2
    report = store.verify()
    assert report.ok and report.vectors == 3


def test_an_empty_batch_writes_nothing(store, batch):
    before = counters(store)
    store.upsert(batch())
    assert counters(store) == before


def test_a_batch_without_any_vector(store, batch):
    whole = batch("a", bare=("a",))
    store.upsert(RowBatch(whole.ids, whole.documents, whole.metadatas, None, whole.has_vector))
    assert rows_of(store, "a")[0].vector is None
    assert not store.files.segments.exists()


def test_a_batch_that_fails_leaves_nothing(store, batch, monkeypatch):
    store.upsert(batch("a"))
    before = counters(store)
    broken = batch("b", "c")
    with pytest.raises(BackendError):
        store.upsert(RowBatch(["b", "b"], broken.documents, broken.metadatas, broken.vectors, broken.has_vector))
    assert counters(store) == before and rows_of(store, "b", "c") == [None, None]

    def full(fd, *_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(BackendError, match="No space"):
            store.upsert(batch("b"))
    assert counters(store) == before
    store.upsert(batch("b"))
    assert rows_of(store, "b")[0].document == "text of b"
    assert store.verify().ok


def test_a_full_database_is_said_and_healed(store, batch):
    store.upsert(batch("a"))
    with store._connections.connection() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
    big = RowBatch(["b"], ["x" * 100_000], [{}], None, np.array([False]))
    with pytest.raises(BackendError, match="full"):
        store.upsert(big)
    assert rows_of(store, "b") == [None]
    with store._connections.connection() as connection:
        connection.execute("PRAGMA max_page_count = 1000000")
    store.upsert(big)
    assert len(rows_of(store, "b")[0].document) == 100_000


def test_a_snapshot_sees_one_commit(store, batch):
    store.upsert(batch("a", "b"))
    with store.snapshot() as old:
        store.delete(["a"])
        store.upsert(batch("c"))
        assert [row and row.id for row in old.get(["a", "b", "c"], vectors=True)] == ["a", "b", None]
        assert old.state.rows == 2 and old.mask(None).tolist() == [True, True]
        with store.snapshot() as new:
            assert [row and row.id for row in new.get(["a", "b", "c"])] == [None, "b", "c"]
            assert new.mask(None).tolist() == [False, True, True]
        assert old.mask(None).tolist() == [True, True]


def test_vectors_beyond_one_segment(open_store, manifest, batch, vector):
    store = open_store(segment_bytes=5 * 16 * 2)
    store.write_manifest(manifest, None)
    names = [f"n{i}" for i in range(23)]
    for start in range(0, 23, 4):
        store.upsert(batch(*names[start : start + 4]))
    assert len(list(store.files.segments.iterdir())) == 5 and store.verify().vectors == 23
    for row in rows_of(open_store(), *names):
        np.testing.assert_array_equal(row.vector, vector(row.id).astype("<f2").astype(np.float32))


def test_the_documented_format_reads_the_store_without_our_code(open_store, manifest, batch, vector, tmp_path):
    """The program in docs/store-format.md, run as it stands there."""
    page = (Path(__file__).parents[2] / "docs" / "store-format.md").read_text(encoding="utf-8")
    program = page.split("```python\n")[1].split("```")[0]
    store = open_store(segment_bytes=3 * 16 * 2)
    store.write_manifest(manifest, None)
    store.upsert(batch("a", "b", "c", "d", "e", bare=("b",)))
    store.delete(["c"])
    said: list[tuple] = []
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        names = {"print": lambda *values: said.append(values)}
        exec(compile(program, "store-format.md", "exec"), names)  # our own page
        names["db"].close()
    finally:
        os.chdir(here)
    assert sorted(id for id, *_ in said) == ["a", "b", "d", "e"]
    for id, metadata, document, stored in said:
        assert (metadata, document) == ({"name": id}, f"text of {id}")
        if id == "b":
            assert stored is None
        else:
            np.testing.assert_array_equal(stored, vector(id).astype("<f2"))


def test_sizes_while_a_segment_is_compacted_away(store, batch, monkeypatch):
    store.upsert(batch("a", "b"))
    expected = store.sizes()
    real = Path.glob
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: [*real(folder, pattern), folder / "000009.seg"])
    assert store.sizes() == expected and expected["fine"] > 0
