"""Repairing where there is nothing to repair with, where it is interrupted, and what others see of it."""

import sqlite3
from contextlib import closing

import pytest

from mrl_retrieval.errors import CollectionNotFound, CorruptionError, NotACollection
from mrl_retrieval.storage.database import SCHEMA_VERSION
from tests.storage.repairing import ROWS, check, flip, hand


def test_a_lost_log_is_noticed(open_store, manifest, batch, tmp_path):
    """SQLite alone would show an older state as if nothing had been."""
    import shutil

    store = open_store()
    store.write_manifest(manifest, None)
    store.close()
    store = open_store()
    store.upsert(batch("a"))
    store.delete(["a"])
    store.upsert(batch("b"))
    shutil.copytree(tmp_path / "kb", tmp_path / "copy")  # as a killed process leaves it
    (tmp_path / "copy" / "default" / "store.sqlite-wal").unlink()
    (tmp_path / "copy" / "default" / "store.sqlite-shm").unlink(missing_ok=True)
    again = open_store(path=tmp_path / "copy")
    for work in (again.read_manifest, lambda: again.upsert(batch("c")), lambda: again.delete(["b"])):
        with pytest.raises(CorruptionError, match="at commit 1, expected 4"):
            work()
    report = again.repair()
    assert report.lost_commits == 3 and report.rows == 0
    assert again.verify().ok
    again.upsert(batch("c"))
    with again.snapshot() as snapshot:
        assert snapshot.state.rows == 1 and snapshot.state.generation > 4


def test_another_collections_database_in_its_place(filled, open_store, manifest, batch):
    from dataclasses import replace

    other = open_store(collection="other")
    other.write_manifest(replace(manifest, collection_id="other"), None)
    other.upsert(batch("x"))
    other.close()
    filled.database.write_bytes(other.files.database.read_bytes())
    store = open_store()
    with pytest.raises(CorruptionError):
        store.read_manifest()
    report = store.repair()
    assert report.without_vector == ("x",) and store.verify().ok


def test_what_cannot_be_repaired(filled, open_store, tmp_path):
    with pytest.raises(CollectionNotFound):
        open_store(path=tmp_path / "nowhere").repair()
    with pytest.raises(NotACollection):
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "mine.txt").write_text("mine")
        open_store(path=tmp_path / "x").repair()
    raw = filled.database.read_bytes()
    for content in (b"", b"no database at all " * 500):
        filled.database.write_bytes(content)
        with pytest.raises(CorruptionError, match="backup"):
            open_store().repair()
        assert filled.database.read_bytes() == content and not filled.quarantine.exists()
    filled.database.unlink()
    with pytest.raises(CorruptionError, match="backup"):
        open_store().repair()
    filled.database.write_bytes(raw)
    assert open_store().verify().ok


def test_interrupted_at_every_step(filled, open_store, vector, monkeypatch):
    """Whatever it had done: a second repair finishes it."""
    import os
    from pathlib import Path

    from mrl_retrieval.storage import repair

    flip(filled.segments / "000002.seg", 64 + 3 * 32 + 5)
    for owner, name in (
        (repair, "insert"),
        (repair, "sync_folder"),
        (os, "link"),
        (Path, "replace"),
        (Path, "rename"),
        (repair, "note_commit"),
    ):
        with monkeypatch.context() as patch:

            def interrupted(*_, **__):
                raise KeyboardInterrupt

            patch.setattr(owner, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                open_store().repair()
                pytest.fail(f"{name} was not called")
        if name in ("rename", "note_commit"):
            break  # the new database has its name: that was the last step that counts
    report = open_store().repair()
    assert open_store().verify().ok
    check(open_store(), vector, ["n14"])
    assert report.without_vector in (("n14",), ())


def test_it_is_of_the_present_format_afterwards(filled, open_store):
    hand(filled, "DELETE FROM tombstone")
    hand(filled, "DELETE FROM field")
    open_store().repair()
    with closing(sqlite3.connect(filled.database)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_others_go_on_after_a_repair(filled, open_store, vector, batch):
    reader, writer = open_store(), open_store()
    reader.read_manifest()
    with reader.snapshot() as before:
        assert before.state.rows == ROWS
        flip(filled.segments / "000003.seg", 64 + 9)
        open_store().repair()
        assert before.get(["n2"])[0].document == "text of n2"
    writer.upsert(batch("n21", metadatas=[{"name": "n21", "n": 21}]))
    for store in (reader, writer, open_store()):
        check(store, vector)
