"""What is damaged is named, what is whole is kept, and nothing damaged is ever an answer."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest

from mrl_retrieval.errors import CorruptionError
from mrl_retrieval.filters import parse_filter
from tests.storage.repairing import IDS, ROWS, check, flip, hand, quarantined


def test_nothing_to_repair(filled, open_store, vector):
    before = sorted((p.name, p.read_bytes()) for p in filled.folder.rglob("*") if p.is_file() and p.suffix == ".seg")
    store = open_store()
    report = store.repair()
    assert report.problems == () and not report.rebuilt and report.rows == ROWS and report.quarantine is None
    assert sorted((p.name, p.read_bytes()) for p in filled.folder.rglob("*") if p.suffix == ".seg") == before
    check(store, vector)


def test_one_damaged_vector_costs_one_vector(filled, open_store, vector, batch):
    flip(filled.segments / "000002.seg", 64 + 3 * 32 + 5)
    store = open_store()
    (problem,) = store.verify().problems
    assert problem.part == "segments" and "vector 13 " in problem.message
    with store.snapshot() as snapshot:
        with pytest.raises(CorruptionError, match=r"000002\.seg.*byte 160"):
            snapshot.get(["n14"], vectors=True)
        assert snapshot.get(["n14"])[0].document == "text of n14"
        assert snapshot.get(["n13", "n15"], vectors=True)[0] is not None
    report = store.repair()
    assert report.rebuilt and report.without_vector == ("n14",) and report.rows == ROWS
    assert report.quarantined == report.lost == () and report.unaccounted == report.lost_commits == 0
    check(store, vector, ["n14"])
    check(open_store(), vector, ["n14"])
    assert sorted(p.name for p in report.quarantine.iterdir()) == [
        "000001.seg", "000002.seg", "000003.seg", "rows.jsonl", "store.sqlite",
    ]  # fmt: skip
    store.upsert(batch("n14", metadatas=[{"name": "n14", "n": 14}]))
    check(store, vector)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "another's"])
def test_a_lost_segment_costs_its_vectors(filled, open_store, vector, damage):
    path = filled.segments / "000002.seg"
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[: 64 + 4 * 32 + 7])
    else:
        path.write_bytes((filled.segments / "000001.seg").read_bytes())
    lost = [f"n{i}" for i in range(11 + (4 if damage == "cut" else 0), 21)]
    store = open_store()
    with pytest.raises(CorruptionError, match=r"000002\.seg"):
        store.read_manifest()
    assert not store.verify().ok
    report = store.repair()
    assert sorted(report.without_vector) == sorted(lost)
    check(store, vector, lost)


def test_a_damaged_segment_header_costs_nothing(filled, open_store, vector):
    flip(filled.segments / "000001.seg", 20)
    store = open_store()
    with pytest.raises(CorruptionError):
        store.read_manifest()
    report = store.repair()
    assert report.rebuilt and report.without_vector == ()
    check(store, vector)


def test_a_lost_list_of_segments_costs_nothing(filled, open_store, vector):
    hand(filled, "DELETE FROM segment")
    store = open_store()
    with pytest.raises(CorruptionError, match="no segment"):
        store.read_manifest()
    assert store.repair().without_vector == ()
    check(store, vector)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE batch SET sums = zeroblob(length(sums))",
        "DELETE FROM batch",
        "DELETE FROM state",
        "UPDATE state SET rows = rows + 1",
        "UPDATE state SET crc32 = crc32 + 1",
        "DELETE FROM tombstone",
        "INSERT INTO tombstone VALUES (3, 7)",
        "DELETE FROM field WHERE row = 12",
        "UPDATE field SET value = 99 WHERE row = 12 AND kind = 2",
        "UPDATE path SET digest = digest + 1",
        "UPDATE path SET name = 'x' || name",
        "DELETE FROM path",
        "DELETE FROM meta WHERE key = 'fine_dims'",
        "UPDATE meta SET value = replace(value, '16', '17') WHERE key = 'manifest'",
        "DROP TABLE meta",
        "DROP TABLE field",
    ],
)
def test_what_can_be_derived_is_derived(filled, open_store, vector, batch, statement):
    store = open_store()
    store.upsert(batch("n4", metadatas=[{"name": "n4", "n": 4}]))
    store.delete(["n4"])
    store.upsert(batch("n4", bare=("n4",), metadatas=[{"name": "n4", "n": 4}]))
    store.close()
    hand(filled, statement)
    report = open_store().verify()
    assert not report.ok
    with pytest.raises(CorruptionError):
        report.raise_if_damaged()
    report = open_store().repair()
    assert report.rebuilt and report.rows == ROWS
    assert report.without_vector == report.quarantined == report.lost == ()
    check(open_store(), vector)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("document", "another text"),
        ("metadata", '{"n": 7}'),
        ("metadata", "{"),
        ("document", b"\xff\xfe"),
        ("vector_sum", 1),
    ],
)
def test_a_damaged_row_is_put_aside(filled, open_store, vector, column, value):
    hand(filled, f"UPDATE row SET {column} = ? WHERE id = 'n9'", value)
    store = open_store()
    for look in (["n9"], IDS):
        with store.snapshot() as snapshot, pytest.raises(CorruptionError, match="n9|UTF-8"):
            snapshot.get(look)
    with store.snapshot() as snapshot:
        assert snapshot.get(["n8"])[0].document == "text of n8"
    if column != "document":  # what has to be known of a row to remove it
        with pytest.raises(CorruptionError, match="n9"):
            store.delete(["n9"])
    report = store.repair()
    assert report.quarantined == ("n9",) == tuple(quarantined(report)) and report.rows == ROWS - 1
    check(store, vector, gone=["n9"])


def test_rows_that_changed_places(filled, open_store, vector):
    """Each is sound in itself; but it is not where it was."""
    hand(filled, "UPDATE row SET row = 1000 WHERE id = 'n1'")
    hand(filled, "UPDATE row SET row = 1 WHERE id = 'n2'")
    hand(filled, "UPDATE row SET row = 2 WHERE id = 'n1'")
    store = open_store()
    with store.snapshot() as snapshot, pytest.raises(CorruptionError):
        snapshot.get(["n1"])
    report = store.repair()
    assert set(report.quarantined) == {"n1", "n2"}
    check(store, vector, gone=["n1", "n2"])


def test_broken_pages_cost_what_was_on_them(open_store, manifest, batch, vector):
    store = open_store()
    store.write_manifest(manifest, None)
    names = [f"n{i}" for i in range(400)]
    store.upsert(batch(*names, metadatas=[{"name": id, "n": i, "pad": "x" * 300} for i, id in enumerate(names)]))
    store.close()
    raw = bytearray(store.files.database.read_bytes())
    pages = [at for at in range(4096, len(raw), 4096) if raw[at] == 13 and b"text of n" in raw[at : at + 4096]]
    for at in pages[3:5]:
        raw[at : at + 4096] = bytes(4096)
    store.files.database.write_bytes(raw)
    fresh = open_store()
    assert not fresh.verify().ok
    report = fresh.repair()
    assert 0 < len(report.lost) + report.unaccounted < 60
    assert report.rows + len(report.lost) + report.unaccounted + len(report.quarantined) == 400
    assert fresh.verify().ok
    with fresh.snapshot() as snapshot:
        rows = [row for row in snapshot.get(names, vectors=True) if row is not None]
    assert len(rows) == report.rows
    for row in rows:
        assert row.document == f"text of {row.id}"
        np.testing.assert_array_equal(row.vector, vector(row.id).astype("<f2").astype(np.float32))


def test_another_definition_of_a_table_is_damage(filled, open_store):
    """SQLite would read the same bytes as something else."""
    with closing(sqlite3.connect(filled.database, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, 'value NOT', 'value TEXT NOT') WHERE name = 'field'"
        )
    with pytest.raises(CorruptionError, match="other tables"):
        open_store().read_manifest()


def test_a_metadata_path_whose_index_entry_is_lost_is_still_found(filled, open_store):
    raw = bytearray(filled.database.read_bytes())
    for page in range(4096, len(raw), 4096):
        if raw[page] == 10 and b"name" in raw[page : page + 4096] and b"n12" not in raw[page : page + 4096]:
            at = raw.index(b"name", page)
            raw[at : at + 4] = b"nbme"
            break
    else:
        pytest.fail("the index of path names was not found")
    filled.database.write_bytes(raw)
    store = open_store()
    with store.snapshot() as snapshot:
        assert np.count_nonzero(snapshot.mask(parse_filter({"name": "n12"}))) == 1
    assert not store.verify().ok
    assert store.repair().rows == ROWS and store.verify().ok


def test_text_that_is_none_in_sqlites_own_words(filled, open_store):
    raw = filled.database.read_bytes()
    at = raw.index(b"CREATE TABLE field") + len("CREATE TABLE field (path ")
    filled.database.write_bytes(raw[:at] + b"\xce" + raw[at + 1 :])
    with pytest.raises(CorruptionError):
        open_store().read_manifest()
