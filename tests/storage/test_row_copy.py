"""Rows from the copy are those of the database, or come from the database."""

import json
import logging
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from mrl_retrieval.documents import RowBatch
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.storage import NotAtHand, Store, row_copy, save_row_copy
from tests.storage.conftest import DIM, batch_of, vector_of

TEXTS = [
    "plain",
    "",
    None,
    "é, 中文, 🜁 and e\u0301",
    "nul \0 within",
    "x" * 4_095,
    "ü" * 70_000,
    "🜁" * 100_000,
    "line\nline\r\n\u2028",
]
METADATAS = [{}, {"a": {"b": [1, 2.5, None, "中"]}}, {"long": "y" * 9_000}]


@pytest.fixture
def hard(store):
    """A collection of texts that are hard to cut apart; rows without a vector, deleted and overwritten ones."""
    count = 4 * len(TEXTS)
    names = [f"{'🜁' if i % 5 == 0 else 'row'} {i}" for i in range(count)]
    documents = [TEXTS[i % len(TEXTS)] for i in range(count)]
    metadatas = [{**METADATAS[i % 3], "i": i} for i in range(count)]
    batch = batch_of(*names, metadatas=metadatas, bare=("row 3", "row 7"))
    store.upsert(replace(batch, documents=documents))
    store.delete(["row 8", "row 9"])
    store.upsert(RowBatch(["row 1"], ["again"], [{}], vector_of("z")[None], np.array([True])))
    return store


def make(store):
    with store.snapshot() as snapshot:
        save_row_copy(snapshot, store.files, lambda: None)
    store.row_copy.look_again()


def numbers_in(snapshot):
    pages = list(snapshot.pages(10, 10**6))
    return [row[0] for page in pages for row in page], [row[1:4] for page in pages for row in page]


def assert_same(store, *, from_copy):
    with store.snapshot() as snapshot:
        numbers, expected = numbers_in(snapshot)
        order = np.random.default_rng(0).permutation(len(numbers)).tolist()
        asked = [numbers[i] for i in order]
        found = snapshot.texts(asked)
        assert list(zip(*found, strict=True)) == [expected[i] for i in order]
        assert (store.row_copy.texts(snapshot, np.array(asked)) is not None) is from_copy
        return found


def test_without_a_file(hard):
    assert_same(hard, from_copy=False)


def test_texts_of_all_kinds(hard, caplog):
    make(hard)
    found = assert_same(hard, from_copy=True)
    assert set(found.documents) == {*TEXTS, "again"} - {None} | {None}
    assert all(json.loads(metadata) is not None for metadata in found.metadatas)
    assert not caplog.records
    with hard.snapshot() as snapshot:
        assert snapshot.texts([]).ids == []
        number = snapshot.rows_of_ids(["row 2"])["row 2"]
        assert snapshot.texts([number, number]).ids == ["row 2", "row 2"]


def test_a_snapshot_without_its_database_has_texts_and_nothing_else(hard):
    make(hard)
    with hard.snapshot() as snapshot:
        assert snapshot.has_all_texts()
        numbers, expected = numbers_in(snapshot)
        lasting = snapshot.without_database()
    assert list(zip(*lasting.texts(numbers), strict=True)) == expected
    for call in (lasting.manifest, lambda: lasting.get(["row 1"]), lambda: lasting.ids(np.array(numbers[:1]))):
        with pytest.raises(NotAtHand):
            call()


def test_rows_that_came_or_went_since(hard):
    make(hard)
    with hard.snapshot() as before:
        numbers, expected = numbers_in(before)
        hard.upsert(batch_of("new", "row 4"))
        hard.delete(["row 6"])
        with hard.snapshot() as after:
            assert not after.has_all_texts()
        assert_same(hard, from_copy=False)
        make(hard)
        assert_same(hard, from_copy=True)
        # The file is newer than this snapshot, and lacks what was deleted since.
        assert list(zip(*before.texts(numbers), strict=True)) == expected


def test_after_a_compaction(hard, open_store):
    make(hard)
    hard.upsert(batch_of(*[f"row {i}" for i in range(10, 30)]))
    hard.compact()
    assert_same(hard, from_copy=False)
    make(hard)
    assert_same(hard, from_copy=True)
    again = open_store()
    again.read_manifest()
    assert_same(again, from_copy=True)


def test_every_flipped_byte_is_found(store, caplog):
    store.upsert(batch_of("a", "b", "c"))
    make(store)
    sound = store.files.row_copy.read_bytes()
    with store.snapshot() as snapshot:
        numbers, expected = numbers_in(snapshot)
        for at in range(len(sound)):
            for bit in (1, 128):
                damaged = bytearray(sound)
                damaged[at] ^= bit
                store.files.row_copy.unlink()
                store.files.row_copy.write_bytes(damaged)
                store.row_copy.look_again()
                assert list(zip(*snapshot.texts(numbers), strict=True)) == expected, (at, bit)
    assert any("is not used" in record.message for record in caplog.records)


def test_damage_is_said_once_and_the_file_left_alone_until_it_is_another(store, caplog):
    store.upsert(batch_of("a", "b"))
    make(store)
    content = bytearray(store.files.row_copy.read_bytes())
    content[row_copy._HEADER_BYTES + 45] ^= 4
    store.files.row_copy.write_bytes(content)
    store.row_copy.look_again()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert_same(store, from_copy=False)
    assert len(caplog.records) == 1 and "record of row 0" in caplog.text
    make(store)
    assert_same(store, from_copy=True)


@pytest.mark.parametrize("left", [0, 10, 127, 128, -8, -1])
def test_a_file_that_is_cut_off(store, left):
    store.upsert(batch_of("a", "b", "c"))
    make(store)
    content = store.files.row_copy.read_bytes()
    store.files.row_copy.write_bytes(content[:left])
    store.row_copy.look_again()
    assert_same(store, from_copy=False)


CUT = """
import os, sys
from pathlib import Path
from mrl_retrieval.storage import Store
store = Store(Path(sys.argv[1]), "default")
with store.snapshot() as snapshot:
    assert len(snapshot.texts(range(2000)).ids) == 2000
    assert store.row_copy.of(snapshot) is not None
    os.truncate(store.files.row_copy, 4096)
    assert snapshot.texts(range(2000)).ids == [f"r{i}" for i in range(2000)]
    assert store.row_copy.of(snapshot) is None
"""


def test_a_file_that_is_cut_off_under_a_reader_kills_nobody(store):
    store.upsert(batch_of(*[f"r{i}" for i in range(2000)]))
    make(store)
    done = subprocess.run(
        [sys.executable, "-c", CUT, store.files.store], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_copy_of_another_collection_or_history_is_refused(store, open_store, tmp_path, caplog):
    store.upsert(batch_of("a", "b"))
    make(store)
    taken = store.files.row_copy.read_bytes()
    other = open_store(path=tmp_path / "other")
    other.write_manifest(Manifest(dim=DIM, coarse_dims=8, fine_dims=DIM), None)
    other.upsert(batch_of("c", "d"))
    other.files.row_copy.write_bytes(taken)
    assert_same(other, from_copy=False)
    assert "of another collection" in caplog.text
    # A backup is put back, and goes on in another way: its numbers are given out a second time.
    archive = tmp_path / "backup.tar"
    store.backup(archive)
    store.upsert(batch_of("e"))
    make(store)
    taken = store.files.row_copy.read_bytes()
    Store.restore(archive, tmp_path / "restored", "default")
    restored = open_store(path=tmp_path / "restored")
    restored.read_manifest()
    restored.upsert(batch_of("f"))
    restored.files.row_copy.write_bytes(taken)
    assert_same(restored, from_copy=False)
    assert "another history" in caplog.text


def test_equal_vectors_with_other_texts_are_another_history(store, open_store, tmp_path, caplog):
    """A backup is put back, and the same import is repeated with corrected texts, into the same folder."""
    store.upsert(batch_of("a", "b"))
    archive = tmp_path / "backup.tar"
    store.backup(archive)
    store.upsert(replace(batch_of("x"), documents=["lost history"]))
    make(store)
    taken = store.files.row_copy.read_bytes()
    Store.restore(archive, tmp_path / "restored", "default")
    restored = open_store(path=tmp_path / "restored")
    restored.read_manifest()
    restored.upsert(replace(batch_of("x"), documents=["the truth"]))
    restored.files.row_copy.write_bytes(taken)
    found = assert_same(restored, from_copy=False)
    assert "the truth" in found.documents and "another history" in caplog.text


def test_a_collection_that_was_restored_under_a_running_process(store, open_store, tmp_path):
    store.upsert(batch_of("a", "b"))
    archive = tmp_path / "backup.tar"
    store.backup(archive)
    store.upsert(replace(batch_of("x"), documents=["old text"]))
    make(store)
    assert "old text" in assert_same(store, from_copy=True).documents
    admin = open_store()
    admin.read_manifest()
    admin.drop()
    Store.restore(archive, store.files.store, "default")
    again = open_store()
    again.read_manifest()
    again.upsert(replace(batch_of("y"), documents=["new text"]))  # the same number, in a commit of the same generation
    found = assert_same(store, from_copy=False)
    assert set(found.documents) == {"text of a", "text of b", "new text"}


def test_an_older_snapshot_does_not_put_the_copy_out_of_use(store, caplog):
    store.upsert(batch_of("a", "b"))
    with store.snapshot() as before:
        store.upsert(batch_of("c"))
        make(store)
        store.row_copy.look_again()
        assert before.texts([0, 1]).ids == ["a", "b"]
        assert_same(store, from_copy=True)
        assert before.texts([1]).ids == ["b"]
    assert_same(store, from_copy=True)
    assert not caplog.records


def test_writers_do_not_sweep_a_copy_away_that_is_being_written(store):
    store.upsert(batch_of(*[f"r{i}" for i in range(30)]))

    def pause():
        with store.writing_files(None):
            pass

    with store.snapshot() as snapshot:
        save_row_copy(snapshot, store.files, pause)
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    left = store.files.folder / f".tmp-rows.copy-{dead.stdout.strip()}-0123abcd"
    left.write_bytes(b"left by one that was killed")
    pause()
    assert not left.exists() and store.files.row_copy.exists()


def test_a_closed_store_lets_go_of_what_is_mapped(store):
    store.upsert(batch_of("a"))
    make(store)
    assert_same(store, from_copy=True)
    store.close()
    assert store.row_copy._found.copy is None


def test_the_copy_that_another_process_made_is_found_within_a_second(store, open_store, monkeypatch):
    monkeypatch.setattr(row_copy, "_LOOK_SECONDS", 0.0)
    store.upsert(batch_of("a", "b"))
    assert_same(store, from_copy=False)
    other = open_store()
    other.read_manifest()
    make(other)
    assert_same(store, from_copy=True)


def test_nothing_is_read_without_numba(hard, monkeypatch):
    make(hard)
    monkeypatch.setattr(row_copy, "available", lambda: False)
    hard.row_copy.look_again()
    assert_same(hard, from_copy=False)


def test_giving_up_leaves_the_file_that_was_there(hard):
    make(hard)
    before = hard.files.row_copy.read_bytes()

    def pause():
        raise InterruptedError("enough")

    hard.upsert(batch_of("more"))
    with pytest.raises(Exception, match="enough"), hard.snapshot() as snapshot:
        save_row_copy(snapshot, hard.files, pause)
    assert hard.files.row_copy.read_bytes() == before
    assert not [path for path in hard.files.folder.iterdir() if path.name.startswith(".tmp")]


def test_it_is_no_stranger_and_goes_with_the_collection(store):
    store.upsert(batch_of("a"))
    make(store)
    assert store.files.strangers() == []
    store.drop()
    assert not store.files.folder.exists()


def test_dims_do_not_matter(open_store, manifest, tmp_path):
    wide = open_store(path=tmp_path / "wide", fine_dtype="int8")
    wide.write_manifest(replace(manifest, dim=3, coarse_dims=2, fine_dims=3), None)
    wide.upsert(batch_of("a", "b", dim=3))
    make(wide)
    assert_same(wide, from_copy=True)
