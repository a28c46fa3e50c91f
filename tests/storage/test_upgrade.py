"""A store written by format version 1: read as it is, brought to the present version by the first write."""

import shutil
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mrl_retrieval.errors import CorruptionError, NewerFormatError
from mrl_retrieval.filters import parse_filter
from mrl_retrieval.registry import open_backend
from mrl_retrieval.storage import opened as opened_module
from mrl_retrieval.storage.database import SCHEMA_VERSION

ARCHIVE = Path(__file__).parent / "data" / "format-1.tar"
# What is in it: ten rows a and ten rows b, of which some were overwritten and some deleted.
GONE = ("a0", "a4", "b9")
IDS = sorted({*(f"a{i}" for i in range(10)), *(f"b{i}" for i in range(10))} - set(GONE))
BARE = ("b7",)
TAGGED = [f"a{i}" for i in range(10) if i not in (0, 1, 3, 4)]


@pytest.fixture
def old(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "kb", filter="data")
    return tmp_path / "kb"


def version_of(place):
    with closing(sqlite3.connect(place / "default" / "store.sqlite")) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


def check(store, vector, more=()):
    with store.snapshot() as snapshot:
        parts = list(snapshot.batches(None, vectors=True, documents=True, batch_size=4))
        rows = {row.id: row for part in parts for row in part.rows()}
        assert sorted(rows) == sorted([*IDS, *more])
        for id, row in rows.items():
            assert row.document == f"text of {id}" and row.metadata["name"] == id
            if id in BARE:
                assert row.vector is None
            else:
                np.testing.assert_array_equal(row.vector, vector(id).astype("<f2").astype(np.float32))
        assert [row and row.id for row in snapshot.get(["a5", "a4", "b0"])] == ["a5", None, "b0"]
        for condition, expected in (
            ({"tags": {"$contains": "x"}}, TAGGED),
            ({"n": {"$gt": 7}}, ["a8", "a9"]),
            ({"deep.k": 2.5}, ["a5"]),
            ({"name": {"$in": ["a1", "a4", "b7"]}}, ["a1", "b7"]),
        ):
            pages = snapshot.batches(parse_filter(condition), vectors=False, documents=True, batch_size=100)
            assert sorted(id for page in pages for id in page.ids) == expected


def test_it_is_read_as_it_is(old, open_store, vector):
    store = open_store(path=old)
    assert store.read_manifest().collection_id == "format-one"
    check(store, vector)
    report = store.verify()
    assert report.ok and (report.rows, report.vectors) == (17, 20)
    assert version_of(old) == 1


@pytest.mark.parametrize("write", ["upsert", "delete", "manifest", "compact"])
def test_the_first_write_upgrades(old, open_store, vector, batch, write):
    store, reader = open_store(path=old), open_store(path=old)
    check(reader, vector)
    if write == "upsert":
        store.upsert(batch("new"))
    elif write == "delete":
        store.delete(["a9"])
    elif write == "manifest":
        manifest = store.read_manifest()
        store.write_manifest(manifest.with_plan({"coarse_top_k": 50}), manifest)
    else:
        store.compact()
    assert version_of(old) == SCHEMA_VERSION
    for each in (store, reader, open_store(path=old)):
        report = each.verify()
        assert report.ok, report.problems
    if write == "delete":
        store.upsert(batch("a9", metadatas=[{"name": "a9", "n": 9, "tags": ["x", 1], "deep": {"k": 4.5}}]))
    for each in (store, reader, open_store(path=old)):
        check(each, vector, ["new"] if write == "upsert" else [])


def test_an_upgrade_that_fails_leaves_version_1(old, open_store, vector, batch, monkeypatch):
    store = open_store(path=old)
    upgrade = opened_module.upgrade

    def interrupted(*args):
        upgrade(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(opened_module, "upgrade", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.upsert(batch("new"))
    assert version_of(old) == 1
    check(open_store(path=old), vector)
    monkeypatch.undo()
    store.upsert(batch("new"))
    check(store, vector, ["new"])
    assert store.verify().ok


def test_damaged_vectors_are_not_given_good_checksums(old, open_store, vector, batch):
    path = old / "default" / "segments" / "000002.seg"
    raw = bytearray(path.read_bytes())
    raw[64 + 5] ^= 4
    path.write_bytes(raw)
    store = open_store(path=old)
    assert [problem.part for problem in store.verify().problems] == ["segments"]
    with pytest.raises(CorruptionError, match=r"checksum 0x\w+, expected 0x"):
        store.upsert(batch("new"))
    assert version_of(old) == 1
    report = store.repair()
    assert version_of(old) == SCHEMA_VERSION and store.verify().ok
    # The batch shares one checksum: none of its vectors can be told to be sound.
    assert report.rows == 17 and set(report.without_vector) == {f"b{i}" for i in range(9)} - {"b7"}


def test_the_backend_goes_on_with_its_cache_file(old, vector, caplog):
    with open_backend(f"faiss:{old}") as backend:
        backend.read_manifest()
        assert backend.verify().ok
        sidecar = (old / "default" / "coarse.json").read_bytes()
        found = backend.coarse_search(vector("b3")[None, :8] / np.linalg.norm(vector("b3")[:8]), 1, None)
        assert found[0].ids == ["b3"]
        assert backend.stats().details["format_version"] == 1
        backend.delete(["b3"])
        assert backend.stats().details["format_version"] == 2 and backend.verify().ok
    with open_backend(f"faiss:{old}") as backend:
        backend.read_manifest()
        found = backend.coarse_search(vector("b2")[None, :8] / np.linalg.norm(vector("b2")[:8]), 1, None)
        assert found[0].ids == ["b2"] and (old / "default" / "coarse.json").read_bytes() == sidecar
    assert not caplog.records


def test_a_backup_of_it_is_restored(old, open_store, vector, tmp_path):
    from mrl_retrieval.storage import Store

    open_store(path=old).backup(tmp_path / "b.tar")
    Store.restore(tmp_path / "b.tar", tmp_path / "elsewhere", "default")
    check(open_store(path=tmp_path / "elsewhere"), vector)
    assert version_of(tmp_path / "elsewhere") == 1


def test_a_newer_one_is_refused_and_left_alone(old, open_store, batch, tmp_path):
    with closing(sqlite3.connect(old / "default" / "store.sqlite")) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    shutil.copytree(old, tmp_path / "before")
    for work in (
        lambda store: store.read_manifest(),
        lambda store: store.upsert(batch("a")),
        lambda store: store.verify(),
        lambda store: store.repair(),
        lambda store: store.compact(),
        lambda store: store.backup(tmp_path / "b.tar"),
    ):
        with pytest.raises(NewerFormatError, match=f"version {SCHEMA_VERSION + 1}.*up to {SCHEMA_VERSION}"):
            work(open_store(path=old))
    for path in (tmp_path / "before").rglob("*"):
        if path.is_file() and path.name != "write.lock":
            assert path.read_bytes() == (old / path.relative_to(tmp_path / "before")).read_bytes()
    assert not (tmp_path / "b.tar").exists()


def test_an_attachment_is_a_write_like_any_other(old, open_store, vector):
    store = open_store()
    assert store.read_attachment("rotation") is None and version_of(old) == 1
    store.write_attachment("rotation", b"0123456789")
    assert version_of(old) == SCHEMA_VERSION and store.verify().ok
    check(store, vector)
    assert open_store().read_attachment("rotation") == b"0123456789"
