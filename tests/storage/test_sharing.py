"""Making, dropping, locking and closing a collection, with others at it at the same time."""

import os
import sqlite3
import threading
from dataclasses import replace

import pytest

from mrl_retrieval.errors import (
    BackendError,
    CollectionMismatchError,
    CollectionNotFound,
    ConflictError,
    LockTimeout,
)


def rows_of(store, *ids):
    with store.snapshot() as snapshot:
        return snapshot.get(ids, vectors=True)


def counters(store):
    with store.snapshot() as snapshot:
        return snapshot.state


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
