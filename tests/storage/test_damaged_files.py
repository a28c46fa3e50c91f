"""A database or a segment that is gone, changed, or somebody else's: found, and said."""

import os
import sqlite3

import pytest

from mrl_retrieval.errors import (
    CorruptionError,
    ManifestError,
    NewerFormatError,
    NotACollection,
)


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
