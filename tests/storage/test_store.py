"""A collection on disk: round trips, transactions, compare-and-set, snapshots, damage."""

import os
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import (
    BackendError,
    CollectionMismatchError,
    CollectionNotFound,
    ConflictError,
    CorruptionError,
    InvalidInput,
    LockTimeout,
    ManifestError,
    NewerFormatError,
    NotACollection,
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
    with pytest.raises(InvalidInput, match="float16, float32, int8"):
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


def test_compare_and_set(store, open_store, manifest):
    other = open_store()
    with pytest.raises(ConflictError, match="exists"):
        other.write_manifest(manifest, None)
    planned = manifest.with_plan({"k": 1})
    other.write_manifest(planned, manifest)
    assert store.read_manifest() == planned
    with pytest.raises(ConflictError, match=manifest.checksum[:12]):
        store.write_manifest(manifest.with_plan({"k": 2}), manifest)
    for change in ({"fine_dims": 12}, {"collection_id": "another"}):
        with pytest.raises(CollectionMismatchError, match=next(iter(change))):
            store.write_manifest(replace(planned, **change), planned)
    assert store.read_manifest() == planned
    store.drop()
    with pytest.raises(CollectionNotFound):
        store.write_manifest(planned, planned)


def test_many_create_at_once_and_one_wins(open_store, manifest):
    outcomes = []

    def create(i):
        try:
            open_store().write_manifest(replace(manifest, collection_id=str(i)), None)
            outcomes.append(i)
        except ConflictError:
            pass

    threads = [threading.Thread(target=create, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1
    assert open_store().read_manifest().collection_id == str(outcomes[0])


def test_dropped_and_made_again_by_another(store, open_store, manifest, batch):
    store.upsert(batch("a"))
    other = open_store()
    other.read_manifest()
    other.drop()
    with pytest.raises(CollectionNotFound):
        store.upsert(batch("b"))
    with pytest.raises(CollectionNotFound):
        rows_of(store, "a")
    assert store.read_manifest() is None
    remade = replace(manifest, collection_id="new")
    other.write_manifest(remade, None)
    other.upsert(batch("c"))
    with pytest.raises(CollectionMismatchError, match="open it again"):
        rows_of(store, "c")
    with pytest.raises(CollectionMismatchError, match="open it again"):
        store.upsert(batch("b"))
    assert store.read_manifest() == remade
    assert [row and row.id for row in rows_of(store, "a", "c")] == [None, "c"]


def test_one_who_opened_early_sees_what_was_made_later(open_store, manifest, batch):
    early = open_store()
    assert early.read_manifest() is None
    late = open_store()
    late.write_manifest(manifest, None)
    late.upsert(batch("a"))
    assert early.read_manifest() == manifest
    assert rows_of(early, "a")[0].id == "a"


def test_a_held_lock(store, open_store, batch):
    impatient = open_store(lock_timeout=0.05)
    with store.writing_files(5):
        with pytest.raises(LockTimeout, match=rf"{os.getpid()}.*lock_timeout=0\.05"):
            impatient.upsert(batch("a"))
        assert counters(impatient).rows == 0  # reading needs no lock
    impatient.upsert(batch("a"))


def test_a_stranger_in_the_database_lock(store, open_store, batch):
    store.close()
    impatient = open_store(lock_timeout=0.05)
    blocker = sqlite3.connect(impatient.files.database)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(LockTimeout, match="SQLITE_BUSY"):
        impatient.upsert(batch("a"))
    blocker.close()


def test_closing(store, batch):
    store.upsert(batch("a"))
    with store.snapshot() as snapshot:
        pages = snapshot.batches(None, vectors=False, documents=True, batch_size=1)
        store.close()
        store.close()
        with pytest.raises(BackendError, match="closed"):
            store.upsert(batch("b"))
        with pytest.raises(BackendError, match="closed"):
            counters(store)
        assert next(pages).ids == ["a"]  # what is being read is read to its end
    assert sorted(p.name for p in store.files.folder.iterdir()) == ["collection.json", "last-commit", "segments", "store.sqlite", "write.lock",
    ]  # fmt: skip


def test_from_many_threads(store, batch):
    errors = []

    def work(i):
        try:
            for j in range(10):
                store.upsert(batch(f"{i}-{j}"))
                assert rows_of(store, f"{i}-{j}")[0].document == f"text of {i}-{j}"
                if j % 2:
                    store.delete([f"{i}-{j}"])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert counters(store).rows == 30 and store.verify().vectors == 60


def overwrite(path, at, content):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


@pytest.mark.parametrize("damage", ["missing", "empty", "short"])
def test_a_database_that_is_gone(store, open_store, batch, manifest, damage):
    store.upsert(batch("a"))
    store.close()
    path = store.files.database
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 0 if damage == "empty" else 5000])
    fresh = open_store()
    with pytest.raises(CorruptionError, match=r"store\.sqlite.*expected"):
        fresh.read_manifest()
    if damage == "missing":
        with pytest.raises(CorruptionError, match="without their database"):
            fresh.write_manifest(manifest, None)
    fresh.drop()
    assert fresh.read_manifest() is None


def test_a_database_that_is_none(store, open_store):
    store.close()
    store.files.database.write_bytes(b"hello, I am no database at all" * 200)
    with pytest.raises(CorruptionError, match="NOTADB"):
        open_store().read_manifest()


def test_another_programs_database(store, open_store):
    store.close()
    store.files.database.unlink()
    with sqlite3.connect(store.files.database) as other:
        other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(NotACollection, match="another program"):
        open_store().read_manifest()


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("PRAGMA user_version = 9", NewerFormatError),
        ("UPDATE meta SET value = replace(value, '\"dim\":16', '\"dim\":17') WHERE key = 'manifest'", ManifestError),
        ("UPDATE meta SET value = 'x' WHERE key = 'manifest'", ManifestError),
        ("DELETE FROM meta WHERE key = 'manifest'", ManifestError),
        ("DELETE FROM meta WHERE key = 'fine_dims'", CorruptionError),
        ("UPDATE meta SET value = 'int4' WHERE key = 'fine_dtype'", CorruptionError),
        ("DELETE FROM state", CorruptionError),
        ("DROP TABLE meta", CorruptionError),
        ("UPDATE state SET vectors = vectors + 1", CorruptionError),
    ],
)
def test_a_database_changed_by_hand(store, open_store, batch, statement, error):
    store.upsert(batch("a"))
    store.close()
    with sqlite3.connect(store.files.database) as hand:
        hand.execute(statement)
    hand.close()
    with pytest.raises(error):
        open_store().read_manifest()


@pytest.mark.parametrize("damage", ["missing", "short", "header"])
def test_a_damaged_segment_is_found_at_opening(store, open_store, batch, damage):
    store.upsert(batch("a", "b"))
    store.close()
    path = store.files.segments / "000001.seg"
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        os.truncate(path, path.stat().st_size - 1)
    else:
        overwrite(path, 16, b"\x11")
    fresh = open_store()
    with pytest.raises(CorruptionError, match=r"000001\.seg"):
        fresh.read_manifest()
    with pytest.raises(CorruptionError, match=r"000001\.seg"):
        fresh.upsert(batch("c"))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE batch SET first = first + 1",
        "DELETE FROM batch",
        "UPDATE state SET rows = 7",
        "INSERT INTO tombstone VALUES (2, 0)",
        "DELETE FROM row WHERE id = 'a'",
    ],
)
def test_verify_finds_a_wrong_count(store, open_store, batch, statement):
    store.upsert(batch("a", "b"))
    with store._connections.connection() as connection:
        connection.execute(statement)
    report = open_store().verify()
    assert not report.ok and all("expected" in problem.message for problem in report.problems)
    with pytest.raises(CorruptionError, match="expected"):
        report.raise_if_damaged()


def test_verify_finds_one_wrong_bit_in_a_vector(store, batch):
    store.upsert(batch("a", "b"))
    store.upsert(batch("c"))
    report = store.verify()
    assert report.ok and report.vectors == 3
    overwrite(store.files.segments / "000001.seg", 64 + 40, b"\x55")
    report = store.verify()
    assert [problem.part for problem in report.problems] == ["segments"]
    assert "vector 1 is not as it was written" in report.problems[0].message


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
