"""Attachments in the embedded store: kept by everything that makes the collection anew, and held to their checksums."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mrl_retrieval.attachments import MOST_BYTES, seal_text
from mrl_retrieval.cli import main
from mrl_retrieval.errors import CorruptionError
from mrl_retrieval.storage import Store
from tests.storage.repairing import IDS, check, flip, hand

CONTENT = np.random.default_rng(0).integers(256, size=1_000_000, dtype=np.uint8).tobytes()


@pytest.fixture
def attached(filled, open_store):
    """The files of a closed collection with two attachments."""
    with closing(open_store()) as store:
        store.write_attachment("rotation", CONTENT)
        store.write_attachment("other", b"2")
    return filled


def meta_of(files):
    with closing(sqlite3.connect(files.database)) as connection:
        return dict(connection.execute("SELECT key, value FROM meta"))


def test_where_it_is(attached, open_store, manifest):
    assert meta_of(attached)["attachment:rotation"] == seal_text("rotation", CONTENT)
    store = open_store()
    found = store.read_manifest()
    store.write_manifest(found.with_plan({"coarse_top_k": 7}), found)
    copied = json.loads(json.loads(attached.copy.read_bytes())["meta"])
    assert set(copied) == {"manifest", "fine_dtype", "fine_dims", "rows_per_segment"}
    assert store.read_attachment("rotation") == CONTENT and store.verify().ok


def test_the_largest(store, open_store):
    largest = np.random.default_rng(1).integers(256, size=MOST_BYTES, dtype=np.uint8).tobytes()
    store.write_attachment("largest", largest)
    assert open_store().read_attachment("largest") == largest


def test_a_backup_holds_it(attached, open_store, tmp_path):
    open_store().backup(tmp_path / "kb.tar")
    Store.restore(tmp_path / "kb.tar", tmp_path / "new", "other")
    store = open_store(path=tmp_path / "new", collection="other")
    assert store.read_attachment("rotation") == CONTENT and store.read_attachment("other") == b"2"
    assert "attachment" not in store.files.copy.read_text()
    assert store.verify().ok


def test_compaction_leaves_it(attached, open_store):
    store = open_store()
    store.delete(IDS[:20])
    store.compact()
    assert store.read_attachment("rotation") == CONTENT and store.verify().ok


def test_a_repair_keeps_it(attached, open_store, vector):
    flip(attached.segments / "000002.seg", 64 + 3 * 32 + 5)
    store = open_store()
    report = store.repair()
    assert report.rebuilt and report.without_vector == ("n14",) and report.lost_attachments == ()
    check(store, vector, ["n14"])
    for again in (store, open_store()):
        assert again.read_attachment("rotation") == CONTENT and again.read_attachment("other") == b"2"


def test_a_repair_that_takes_the_settings_from_their_copy_keeps_it(attached, open_store, vector):
    hand(attached, "DELETE FROM meta WHERE key = 'fine_dims'")
    store = open_store()
    assert store.repair().rebuilt
    check(store, vector)
    assert store.read_attachment("rotation") == CONTENT


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meta SET value = substr(value, 1, 1000) WHERE key = 'attachment:rotation'",
        "UPDATE meta SET value = replace(value, 'A', 'B') WHERE key = 'attachment:rotation'",
        "UPDATE meta SET value = zeroblob(99) WHERE key = 'attachment:rotation'",
        "UPDATE meta SET value = (SELECT value FROM meta WHERE key = 'attachment:other') "
        "WHERE key = 'attachment:rotation'",
    ],
)
def test_damage_is_noticed(attached, open_store, vector, statement, capsys):
    hand(attached, statement)
    store = open_store()
    with pytest.raises(CorruptionError, match="'rotation' of .*kb"):
        store.read_attachment("rotation")
    assert store.read_attachment("other") == b"2"
    (problem,) = store.verify().problems
    assert problem.part == "attachments" and "'rotation'" in problem.message
    with pytest.raises(CorruptionError):
        store.backup(Path(attached.store) / "kb.tar")
    store.close()
    assert main(["repair", f"faiss:{attached.store}"]) == 1
    assert "1 attachment lost: write these again:\n  rotation\n" in capsys.readouterr().out
    store = open_store()
    assert store.read_attachment("rotation") is None and store.read_attachment("other") == b"2"
    check(store, vector)
    store.write_attachment("rotation", CONTENT)
    assert store.read_attachment("rotation") == CONTENT


def test_a_key_that_no_attachment_can_have(attached, open_store):
    hand(attached, "INSERT INTO meta VALUES ('attachment:a/b', 'x')")
    (problem,) = open_store().verify().problems
    assert problem.part == "attachments" and "a/b" in problem.message
    assert open_store().repair().lost_attachments == ("a/b",)


def test_of_a_collection_that_was_made_again(attached, open_store, manifest):
    reader, writer = open_store(), open_store()
    assert reader.read_manifest() is not None
    writer.drop()
    assert reader.read_attachment("rotation") is None
    writer.write_manifest(manifest, None)
    assert writer.read_attachment("rotation") is None
