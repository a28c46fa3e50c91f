"""The room of deleted and overwritten rows is taken back, in steps, while others read and write."""

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrl_retrieval.errors import BackendError, InvalidInput
from mrl_retrieval.filters import parse_filter
from mrl_retrieval.storage import opened as opened_module
from mrl_retrieval.storage import upkeep as upkeep_module


def names(prefix, n):
    return [f"{prefix}{i}" for i in range(n)]


def contents(store):
    """Everything there is, through a scan, and by itself the state."""
    with store.snapshot() as snapshot:
        parts = list(snapshot.batches(None, vectors=True, documents=True, batch_size=7))
        rows = {row.id: row for part in parts for row in part.rows()}
        assert len(rows) == sum(map(len, parts)) == snapshot.state.rows
        return rows, snapshot.state


def same(found, expected):
    assert found.keys() == expected.keys()
    for id, row in expected.items():
        assert (found[id].document, found[id].metadata) == (row.document, row.metadata)
        assert (found[id].vector is None) == (row.vector is None)
        if row.vector is not None:
            np.testing.assert_array_equal(found[id].vector, row.vector)


def segment_bytes(store):
    return sum(path.stat().st_size for path in store.files.segments.iterdir())


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_everything_that_is_left_stays_what_it_was(open_store, manifest, batch, dtype):
    store = open_store(segment_bytes=20 * 16, fine_dtype=dtype)
    store.write_manifest(manifest, None)
    store.upsert(batch(*names("a", 50), bare=tuple(names("a", 9))))
    store.upsert(batch(*names("a", 30), bare=("a0", "a20")))
    store.delete(names("a", 7))
    before, state = contents(store)
    size = segment_bytes(store)
    report = store.compact()
    after, compacted = contents(store)
    same(after, before)
    assert report.moved == 43 and report.reclaimed > 0 and segment_bytes(store) < size
    assert compacted.dead == 0 and compacted.window == compacted.rows == 43 and compacted.bare_rows == 1
    assert compacted.generation > state.generation
    assert store.verify().ok
    with store.snapshot() as snapshot:
        assert snapshot.tombstones(0).size == 0
        assert np.count_nonzero(snapshot.mask(parse_filter({"name": {"$in": ["a8", "a3"]}}))) == 1
    same(contents(open_store())[0], before)
    assert store.compact().moved == 0


def test_a_collection_of_which_nothing_is_left(store, batch):
    store.upsert(batch(*names("a", 40), bare=("a1",)))
    store.delete(names("a", 40))
    store.compact()
    assert contents(store)[1].window == 0 and segment_bytes(store) == 64
    store.upsert(batch("b", "c", bare=("c",)))
    assert sorted(contents(store)[0]) == ["b", "c"] and store.verify().ok


def test_an_untouched_collection_is_left_alone(store, batch):
    store.upsert(batch(*names("a", 10)))
    before = [(p.name, p.stat().st_ino) for p in store.files.segments.iterdir()]
    assert store.compact().moved == 0
    assert [(p.name, p.stat().st_ino) for p in store.files.segments.iterdir()] == before


def test_the_database_gives_its_pages_back(store, batch):
    big = [{"name": "x" * 2000, "n": i} for i in range(200)]
    store.upsert(batch(*names("a", 200), metadatas=big))
    store.delete(names("a", 190))
    before = store.sizes()["rows"]
    store.compact()
    assert store.sizes()["rows"] < before / 2 and store.verify().ok


def test_a_reader_keeps_what_it_sees(open_store, manifest, batch):
    store, reader = open_store(segment_bytes=10 * 32), open_store()
    store.write_manifest(manifest, None)
    store.upsert(batch(*names("a", 40)))
    store.delete(names("a", 20))
    with reader.snapshot() as snapshot:
        store.compact()
        store.upsert(batch("new"))
        assert not (store.files.segments / "000001.seg").exists()
        rows = snapshot.get(names("a", 40), vectors=True)
        assert [row and row.id for row in rows] == [None] * 20 + names("a", 40)[20:]
        assert snapshot.fine.read(0, 40).shape == (40, 16)
    assert len(contents(reader)[0]) == 21


def test_a_reader_that_begins_while_its_segments_vanish(open_store, manifest, batch, monkeypatch):
    """It has read the counters, but not yet mapped the files, when these are compacted away."""
    store, reader = open_store(segment_bytes=10 * 32), open_store()
    store.write_manifest(manifest, None)
    store.upsert(batch(*names("a", 40)))
    store.delete(names("a", 20))
    spans = opened_module.load_spans
    compactions = []

    def slow(*args):
        found = spans(*args)
        if not compactions:
            compactions.append(store.compact)
            with monkeypatch.context() as patch:
                patch.setattr(opened_module, "load_spans", spans)
                compactions[0]()
        return found

    monkeypatch.setattr(opened_module, "load_spans", slow)
    assert sorted(contents(reader)[0]) == sorted(names("a", 40)[20:])
    assert compactions


def test_writes_clean_up_after_themselves(open_store, manifest, batch):
    store = open_store(compact_at=0.5, compact_bytes=2000)
    store.write_manifest(manifest, None)
    store.upsert(batch(*names("kept", 20)))
    for _ in range(40):
        store.upsert(batch(*names("a", 30)))
    state = contents(store)[1]
    assert state.dead <= 140 and state.vectors == 20 + 40 * 30 + (state.vectors - 1220)
    assert state.first > 0 and segment_bytes(store) < 300 * 32
    assert store.verify().ok and len(contents(store)[0]) == 50


def test_one_write_does_a_bounded_part_of_it(open_store, manifest, batch, monkeypatch):
    monkeypatch.setattr(opened_module, "_STEP_ROWS", 5)
    store = open_store(compact_at=1)
    store.write_manifest(manifest, None)
    store.upsert(batch(*names("a", 100)))
    store.delete(names("a", 31))
    store = open_store(compact_at=0.3, compact_bytes=0)
    moved = []
    for i in range(20):
        before = contents(store)[1]
        store.upsert(batch(f"new{i}"))
        after = contents(store)[1]
        moved.append(after.vectors - before.vectors - 1)
    assert max(moved) <= 7 and sum(moved) >= 69
    assert store.verify().ok


def test_it_can_be_turned_off(open_store, manifest, batch):
    store = open_store(compact_at=1, compact_bytes=0)
    store.write_manifest(manifest, None)
    for _ in range(10):
        store.upsert(batch("a"))
    assert contents(store)[1].dead == 9
    for wrong in (-0.1, 1.5, "1", None, True, float("nan")):
        with pytest.raises(InvalidInput, match="compact_at"):
            open_store(compact_at=wrong)


def test_a_failing_step_harms_no_write(open_store, manifest, batch, monkeypatch, caplog):
    store = open_store(compact_at=0, compact_bytes=0)
    store.write_manifest(manifest, None)

    def fail(*_):
        raise BackendError("no room")

    monkeypatch.setattr(opened_module.compaction, "step", fail)
    store.upsert(batch("a", "b"))
    store.upsert(batch("a"))
    assert "compacting" in caplog.text and "no room" in caplog.text
    assert sorted(contents(store)[0]) == ["a", "b"] and store.verify().ok
    monkeypatch.undo()
    store.upsert(batch("c"))
    assert store.verify().ok and contents(store)[1].dead == 0


def test_begun_by_one_and_finished_by_another(open_store, manifest, batch, monkeypatch):
    store = open_store()
    store.write_manifest(manifest, None)
    store.upsert(batch(*names("a", 60)))
    store.delete(names("a", 25))
    monkeypatch.setattr(upkeep_module, "_COMPACT_ROWS", 10)
    step, calls = opened_module.compaction.step, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(*args)

    before = contents(store)[0]
    monkeypatch.setattr(opened_module.compaction, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.compact()
    other = open_store()
    same(contents(other)[0], before)
    assert contents(other)[1].first < contents(other)[1].clean_to and other.verify().ok
    assert other.compact().moved == 15
    same(contents(other)[0], before)
    assert contents(store)[1].dead == 0


def test_while_others_write(open_store, manifest, batch, monkeypatch):
    monkeypatch.setattr(upkeep_module, "_COMPACT_ROWS", 3)
    store, other = open_store(compact_at=1), open_store(compact_at=0.2, compact_bytes=0)
    store.write_manifest(manifest, None)
    store.upsert(batch(*names("stays", 40)))
    errors, stop = [], threading.Event()

    def write():
        try:
            for i in range(25):
                other.upsert(batch(f"w{i}", f"w{i % 5}", f"x{i}") if i % 5 != i else batch(f"w{i}"))
                other.delete([f"x{i}"])
        except Exception as error:
            errors.append(error)
        stop.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not stop.is_set():
        store.compact()
        assert names("stays", 40)[0] in contents(store)[0]
    thread.join()
    assert errors == []
    assert sorted(contents(store)[0]) == sorted([*names("stays", 40), *(f"w{i}" for i in range(25))])
    assert store.verify().ok


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "bare", "gone", "compact"]), st.lists(st.sampled_from("abcdefgh"), max_size=5)
        ),
        max_size=25,
    )
)
def test_any_sequence(tmp_path_factory, manifest, batch, steps):
    from mrl_retrieval.storage import Store

    store = Store(tmp_path_factory.mktemp("s") / "kb", "default", compact_at=0.4, compact_bytes=0, segment_bytes=96)
    store.write_manifest(manifest, None)
    expected = {}
    for what, ids in steps:
        ids = list(dict.fromkeys(ids))
        if what == "compact":
            store.compact()
        elif what == "gone":
            store.delete(ids)
            for id in ids:
                expected.pop(id, None)
        elif ids:
            store.upsert(batch(*ids, bare=tuple(ids) if what == "bare" else ()))
            expected |= dict.fromkeys(ids, what)
        rows, state = contents(store)
        assert {id: "bare" if row.vector is None else "put" for id, row in rows.items()} == expected
        assert state.rows - state.bare_rows == sum(kind == "put" for kind in expected.values())
    report = store.verify()
    store.close()
    assert report.ok, report.problems
