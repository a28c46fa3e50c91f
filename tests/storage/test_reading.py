"""Snapshots that read again only what a commit has changed: every commit is seen, and no two are mixed."""

import contextlib
import sqlite3
import subprocess
import sys
import threading

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.errors import CollectionMismatchError, CollectionNotFound, CorruptionError, LockTimeout
from mrl_retrieval.storage import rerank
from tests.storage.conftest import DIM, batch_of, vector_of

WRITE = """
import sys
from mrl_retrieval import MatryoshkaRetriever
with MatryoshkaRetriever(None, sys.argv[1]) as retriever:
    exec(sys.argv[2])
"""


def rows_of(store, *ids):
    with store.snapshot() as snapshot:
        return snapshot.get(ids, vectors=True)


def in_another_process(address, code):
    subprocess.run([sys.executable, "-c", WRITE, address, code], check=True, timeout=60)


@pytest.fixture
def address(tmp_path):
    return f"faiss:{tmp_path / 'kb'}"


@pytest.fixture
def retriever(address):
    with MatryoshkaRetriever(None, address, coarse_dims=8) as made:
        names = [f"n{i}" for i in range(30)]
        made.index([f"text of {n}" for n in names], names, [{"name": n} for n in names], [vector_of(n) for n in names])
        yield made


def test_what_no_commit_changed_is_not_read_again(store, batch):
    store.upsert(batch("a", "b"))
    rows_of(store, "a")
    with store.snapshot() as snapshot:
        connection = snapshot._connection
    said = []
    connection.set_trace_callback(said.append)
    with store.snapshot() as snapshot:
        assert snapshot._connection is connection
    assert [line.split()[0] for line in said] == ["BEGIN", "SELECT", "ROLLBACK"]
    store.upsert(batch("c"))  # our own commit, on this very connection
    said.clear()
    with store.snapshot() as snapshot:
        assert snapshot.state.rows == 3
    assert sum(line.startswith("SELECT") for line in said) > 1


@pytest.mark.parametrize(
    "code", ["retriever.index(['new'], ['n3'], vectors=[[1] + [0] * 15])", "retriever.delete(['n3'])"]
)
def test_the_next_search_sees_what_another_process_committed(retriever, address, code):
    assert retriever.search_by_vector(vector_of("n3"), 1)[0].document == "text of n3"
    in_another_process(address, code)
    assert "text of n3" not in [hit.document for hit in retriever.search_by_vector(vector_of("n3"), 30)]
    if "index" in code:
        assert list(retriever.search_by_vector(np.eye(DIM)[0], 1)[0]) == ["n3", pytest.approx(1, abs=1e-3), "new"]


def test_a_search_shows_one_commit_whatever_is_committed_in_its_midst(retriever, address, monkeypatch):
    """All rows are overwritten, deleted in part, and moved, after the coarse search and before the rows are read."""
    real, texts = rerank.rankings, [f"text of n{i}" for i in range(30)]
    assert retriever.search_by_vector(vector_of("n3"), 30)
    with MatryoshkaRetriever(None, address) as other:

        def rankings(*args):
            monkeypatch.setattr(rerank, "rankings", real)
            ids = [f"n{i}" for i in range(30)]
            other.index(["changed"] * 30, ids, vectors=[vector_of(f"other {id}") for id in ids])
            other.delete(ids[:10])
            other.backend.compact()
            return real(*args)

        monkeypatch.setattr(rerank, "rankings", rankings)
        found = retriever.search_by_vector(vector_of("n3"), 30)
        assert sorted(hit.document for hit in found) == sorted(texts) and found[0].id == "n3"
        assert [hit.metadata for hit in found] == [{"name": hit.id} for hit in found]
        after = retriever.search_by_vector(vector_of("other n12"), 30)
    assert [hit.document for hit in after] == ["changed"] * 20 and after[0].id == "n12"


def test_a_snapshot_keeps_its_commit(store, open_store, batch):
    other = open_store()
    store.upsert(batch("a", "b"))
    rows_of(store, "a")
    other.read_manifest()
    with store.snapshot() as snapshot:
        number = snapshot.rows_of_ids(["a"])["a"]
        other.upsert(batch("a", metadatas=[{"name": "changed"}]))
        other.delete(["b"])
        assert snapshot.texts([number]).ids == ["a"] and snapshot.state.rows == 2
        with store.snapshot() as second:  # another connection, of the same process
            assert second.state.rows == 1 and second.get(["a"])[0].metadata == {"name": "changed"}
            with pytest.raises(CorruptionError, match=f"no row {number}"):
                second.texts([number])
        assert snapshot.get(["a"])[0].metadata == {"name": "a"} and snapshot.get(["b"])[0] is not None
    assert rows_of(store, "b") == [None]


def test_a_collection_that_was_dropped_or_made_again(store, open_store, manifest, batch):
    other = open_store()
    store.upsert(batch("a"))
    rows_of(store, "a")
    other.drop()
    with pytest.raises(CollectionNotFound):
        rows_of(store, "a")
    other.write_manifest(type(manifest)(dim=DIM, coarse_dims=8, fine_dims=DIM, collection_id="another"), None)
    other.upsert(batch("a"))
    with pytest.raises(CollectionMismatchError, match="dropped and made again"):
        rows_of(store, "a")
    assert rows_of(other, "a")[0].id == "a"


@pytest.mark.parametrize("change", ["generation = generation + 1", "crc32 = crc32 + 1", "rows = 7, crc32 = 0"])
def test_a_damaged_state_is_found_by_one_who_knows_the_sound_one(store, batch, change):
    store.upsert(batch("a"))
    rows_of(store, "a")
    with contextlib.closing(sqlite3.connect(store.files.database)) as connection:
        connection.execute(f"UPDATE state SET {change}")
        connection.commit()
    with pytest.raises(CorruptionError, match="checksum"):
        rows_of(store, "a")


@pytest.mark.parametrize(
    "change",
    (
        "id = 'c'",
        "id = x'ff'",
        "document = 'other'",
        "document = NULL",
        "document = x'00'",
        "metadata = '{}'",
        "vector_sum = 5",
        "vector_sum = NULL",
        "document_crc32 = 1",
        "document_crc32 = NULL",
        "crc32 = 1",
    ),
)
def test_a_damaged_row_is_found_among_sound_ones(store, batch, change):
    store.upsert(batch("a", "b", "d"))
    with store.snapshot() as snapshot:
        numbers = snapshot.rows_of_ids(["a", "b", "d"])
        assert snapshot.texts(list(numbers.values())).ids == list(numbers)
    with contextlib.closing(sqlite3.connect(store.files.database)) as connection:
        connection.execute(f"UPDATE row SET {change} WHERE id = 'b'")
        connection.commit()
    with (
        pytest.raises(CorruptionError, match=rf"row {numbers['b']} .*not as it was written"),
        store.snapshot() as snapshot,
    ):
        snapshot.texts(list(numbers.values()))
    with store.snapshot() as snapshot:
        assert snapshot.texts([numbers["a"], numbers["d"]]).ids == ["a", "d"]


@pytest.mark.parametrize("count", [0, 1, 49, 50, 51, 499, 500, 501, 1200])
def test_any_number_of_rows_comes_whole(store, count):
    names = [f"r{i}" for i in range(1200)]
    store.upsert(batch_of(*names))
    asked = np.random.default_rng(count).permutation(1200)[:count].tolist()
    with store.snapshot() as snapshot:
        assert snapshot.texts(asked).ids == [names[i] for i in asked]
        with pytest.raises(CorruptionError, match="no row 5000"):
            snapshot.texts([*asked, 5000])


def test_an_error_within_gives_the_connection_back_without_its_transaction(store, batch):
    store.upsert(batch("a"))
    with pytest.raises(ZeroDivisionError), store.snapshot() as snapshot:
        connection = snapshot._connection
        raise ZeroDivisionError
    assert not connection.in_transaction
    with pytest.raises(CorruptionError, match="no such table"), store.snapshot() as snapshot:
        assert snapshot._connection is connection
        snapshot._connection.execute("SELECT * FROM absent")
    assert not connection.in_transaction
    with pytest.raises(LockTimeout), store.snapshot():
        raise _busy()
    store.upsert(batch("b"))
    assert [row.id for row in rows_of(store, "a", "b")] == ["a", "b"]


def _busy():
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorname = "SQLITE_BUSY"
    return error


def test_threads_that_read_while_one_writes_see_whole_commits_in_order(store, open_store, batch):
    """Each commit overwrites two rows with the number of the commit: a reader sees equal ones that never go back."""
    writer, failures, done = open_store(), [], threading.Event()
    writer.read_manifest()
    store.upsert(batch("a", "b", metadatas=[{"n": 0}] * 2))

    def read():
        last = 0
        try:
            while not done.is_set():
                a, b = rows_of(store, "a", "b")
                assert a.metadata == b.metadata and a.metadata["n"] >= last
                last = a.metadata["n"]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(1, 40):
        writer.upsert(batch("a", "b", metadatas=[{"n": n}] * 2))
        if failures:
            break
    done.set()
    for thread in threads:
        thread.join(30)
    assert not failures and rows_of(store, "a")[0].metadata == {"n": 39}


def test_a_closed_store_lets_go_of_what_it_knew(store, batch):
    store.upsert(batch("a"))
    rows_of(store, "a")
    store.close()
    assert store._known is None and store._segments is None


CUT = """
import os, sys
from pathlib import Path
from mrl_retrieval.errors import CorruptionError
from mrl_retrieval.storage import Store
from tests.storage.conftest import batch_of
store = Store(Path(sys.argv[1]), "default")
store.upsert(batch_of("more"))  # so that SQLite takes the size from the log
with store.snapshot() as kept:
    assert len(kept.texts(range(2000)).ids) == 2000
size = store.files.database.stat().st_size
os.truncate(store.files.database, size // 8192 * 4096)
try:
    with store.snapshot() as snapshot:
        snapshot.texts(range(2000))
except CorruptionError as error:
    print("found:", error)
"""


def test_a_database_that_is_cut_off_under_a_reader_is_damaged_and_kills_nobody(store):
    """Pages of it are mapped: touching one beyond the end of the file would end the process."""
    store.upsert(batch_of(*(f"r{i}" for i in range(2000))))
    store.close()
    assert store.files.database.stat().st_size > 50 * 4096
    command = [sys.executable, "-c", CUT, str(store.files.store)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("found:"), (done.returncode, done.stderr)


def test_what_is_read_is_mapped_and_connections_are_kept(store, batch):
    store.upsert(batch("a"))
    connections = set()
    for _ in range(3):
        with store.snapshot() as first, store.snapshot() as second:
            connections |= {first._connection, second._connection}
            assert first._connection.execute("PRAGMA mmap_size").fetchone()[0] > 2**28
    assert len(connections) == 2
