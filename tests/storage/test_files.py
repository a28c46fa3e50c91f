"""Folders, markers and what is not ours."""

import json
import os
from pathlib import Path

import pytest

from mrl_retrieval.errors import CollectionNotFound, NewerFormatError, NotACollection
from mrl_retrieval.storage import CollectionFiles, check_place, collection_names
from mrl_retrieval.storage.files import MARKER, write_atomically


def test_opening_creates_nothing(open_store, tmp_path):
    store = open_store(path=tmp_path / "deep" / "kb")
    assert store.read_manifest() is None
    with pytest.raises(CollectionNotFound), store.snapshot():
        pass
    store.drop()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else(open_store, tmp_path):
    (tmp_path / "kb").mkdir()
    (tmp_path / "kb" / "thesis.txt").write_text("mine")
    with pytest.raises(NotACollection, match=r"thesis\.txt.*mrl-store\.json"):
        open_store()
    with pytest.raises(NotACollection):
        collection_names(tmp_path / "kb")


def test_a_path_that_is_a_file(open_store, tmp_path):
    (tmp_path / "kb").write_text("a file")
    with pytest.raises(NotACollection, match="is a file"):
        open_store()
    with pytest.raises(NotACollection, match="lies below one"):
        open_store(path=tmp_path / "kb" / "sub")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": "other", "version": 1}', '{"format": "mrl-store", "version": "1"}']
)
def test_a_damaged_marker(store, open_store, tmp_path, text):
    (tmp_path / "kb" / "mrl-store.json").write_text(text)
    with pytest.raises(NotACollection, match="mrl-store"):
        open_store()


def test_a_newer_store(store, open_store, tmp_path):
    (tmp_path / "kb" / "mrl-store.json").write_text('{"format": "mrl-store", "version": 7}')
    with pytest.raises(NewerFormatError, match="version 7.*up to 1"):
        open_store()


def test_an_empty_folder_and_one_with_a_killed_writers_leftover_are_free(tmp_path):
    assert not check_place(tmp_path)
    (tmp_path / ".tmp-mrl-store.json-1-abc").write_text("")
    assert not check_place(tmp_path)
    files = CollectionFiles(tmp_path, "default")
    files.create()
    files.create()
    assert check_place(tmp_path)
    assert json.loads((tmp_path / "mrl-store.json").read_text()) == {"format": "mrl-store", "version": 1}
    assert collection_names(tmp_path) == []


def test_a_store_that_is_made_while_the_folder_is_looked_at(store, tmp_path, monkeypatch):
    read = Path.read_bytes
    missing = [tmp_path / "kb" / MARKER]

    def too_early(path):
        if path in missing:
            missing.remove(path)
            raise FileNotFoundError(path)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", too_early)
    assert check_place(tmp_path / "kb")
    assert not missing


def test_drop_takes_nothing_that_is_not_ours(store, tmp_path):
    stranger = tmp_path / "kb" / "default" / "notes.txt"
    stranger.write_text("mine")
    with pytest.raises(NotACollection, match=r"notes\.txt"):
        store.drop()
    assert stranger.exists() and (tmp_path / "kb" / "default" / "store.sqlite").exists()
    stranger.unlink()
    store.drop()
    assert sorted(p.name for p in (tmp_path / "kb").iterdir()) == ["mrl-store.json"]


def test_collections_side_by_side(open_store, manifest, batch, tmp_path):
    one, two = open_store(collection="one"), open_store(collection="two")
    one.write_manifest(manifest, None)
    two.write_manifest(manifest, None)
    two.upsert(batch("a"))
    (tmp_path / "kb" / "stray").mkdir()
    assert collection_names(tmp_path / "kb") == ["one", "two"]
    one.drop()
    assert collection_names(tmp_path / "kb") == ["two"]
    with two.snapshot() as snapshot:
        assert snapshot.state.rows == 1


def test_atomic_write_leaves_no_temporary_file_when_it_fails(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    write_atomically(tmp_path / "f", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "f", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"
