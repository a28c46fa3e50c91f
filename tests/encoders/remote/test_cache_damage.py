"""The embedding cache when its file is damaged, somebody else's, or cannot be written: never an error."""

import os
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from mrl_retrieval.encoders.embedding_cache import CachedEncoder
from mrl_retrieval.encoders.embedding_store import EmbeddingStore
from mrl_retrieval.encoders.hashing import HashingEncoder

from .conftest import python
from .test_cache import TEXTS, Counting
from .test_cache_shared import key, vector

EXPECTED = HashingEncoder(64).encode_document(TEXTS)


@pytest.fixture
def file(tmp_path):
    """A cache with entries for all texts, closed, in one file."""
    path = tmp_path / "cache" / "c.sqlite"
    store = EmbeddingStore(path, 2**30)
    encoder = CachedEncoder(Counting(), path)
    encoder._store = store
    encoder.encode_document(TEXTS)
    store.close()
    assert [entry.name for entry in path.parent.iterdir()] == ["c.sqlite"]
    return path


def encode(path, times=2):
    """Right answers whatever the file is; gives how many texts were asked for, each time."""
    asked = []
    for _ in range(times):
        inner = Counting()
        encoder = CachedEncoder(inner, path)
        encoder._store = EmbeddingStore(path, 2**30)
        assert (encoder.encode_document(TEXTS) == EXPECTED).all()
        encoder._store.close()
        asked.append(sum(len(part) for part in inner.asked))
    return asked


def test_undamaged(file):
    assert encode(file) == [0, 0]


def test_a_value_that_was_changed_is_made_again(file, caplog):
    db = sqlite3.connect(file)
    rows = db.execute("SELECT key, value FROM vectors LIMIT 4").fetchall()
    changed = bytearray(rows[0][1])
    changed[17] ^= 1
    db.execute("UPDATE vectors SET value = ? WHERE key = ?", (bytes(changed), rows[0][0]))
    db.execute("UPDATE vectors SET value = ? WHERE key = ?", (rows[1][1][:-4], rows[1][0]))
    db.execute("UPDATE vectors SET value = 'text' WHERE key = ?", (rows[2][0],))
    other = db.execute("SELECT value, checksum FROM vectors WHERE key = ?", (rows[1][0],)).fetchone()
    db.execute("UPDATE vectors SET value = ?, checksum = ? WHERE key = ?", (*other, rows[3][0]))  # another row's
    db.commit()
    db.close()
    assert encode(file) == [4, 0]
    assert "4 embeddings are damaged" in caplog.text


@pytest.mark.parametrize("seed", range(60))
def test_damaged_bytes(file, seed):
    """Anywhere, of any length: answers stay right, and the third run at the latest has all in its cache again."""
    random = np.random.default_rng(seed)
    content = bytearray(file.read_bytes())
    start = 0 if seed % 10 == 0 else int(random.integers(len(content)))
    length = int(random.choice([1, 16, 100, 4096, 20_000]))
    content[start : start + length] = random.bytes(len(content[start : start + length]))
    if seed % 7 == 0:
        del content[int(random.integers(len(content))) :]
    file.write_bytes(content)
    assert encode(file, times=3)[-1] == 0


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\x00", b"SQLite format 3\x00" + bytes(100)])
def test_a_file_that_was_begun_only(file, content):
    file.write_bytes(content)
    assert encode(file, times=3)[-1] == 0


def test_a_file_that_is_something_else_is_kept(file, caplog):
    file.write_text("my notes\n" * 100)
    assert encode(file) == [100, 0]
    assert file.with_name("c.sqlite.damaged").read_text() == "my notes\n" * 100


def test_a_log_that_is_not_the_files(file):
    file.with_name("c.sqlite-wal").write_bytes(os.urandom(20_000))
    assert encode(file)[-1] == 0


@pytest.mark.parametrize("application", [0, 7])
def test_another_programs_database_is_left_alone(tmp_path, caplog, application):
    path = tmp_path / "theirs.sqlite"
    db = sqlite3.connect(path)
    db.executescript(
        f"PRAGMA application_id = {application}; CREATE TABLE notes (text); INSERT INTO notes VALUES ('mine')"
    )
    db.close()
    before = path.read_bytes()
    assert encode(path) == [100, 100]
    assert path.read_bytes() == before
    assert "another program" in caplog.text


def test_a_newer_versions_file_is_left_alone(file, caplog):
    db = sqlite3.connect(file)
    db.execute("PRAGMA user_version = 2")
    db.close()
    before = file.read_bytes()
    assert encode(file) == [100, 100]
    assert file.read_bytes() == before and "version is 2" in caplog.text


def test_no_place_to_write(tmp_path, caplog):
    (tmp_path / "file").write_text("x")
    path = tmp_path / "file" / "c.sqlite"  # below a file there can be none
    store = EmbeddingStore(path, 2**30)
    for _ in range(3):
        store.put(b"e", {key(1): vector(1)})
        assert store.get([key(1)], 256) == {}
    assert len([r for r in caplog.records if "without the embedding cache" in r.message]) == 1


def test_a_full_disk(file, caplog):
    """SQLite says "full" beyond ``max_page_count`` as it does on a full disk."""
    store = EmbeddingStore(file, 2**30)
    assert store.get([key(1)], 256) == {}
    store._state.db.execute(f"PRAGMA max_page_count = {file.stat().st_size // 4096 + 5}")
    for i in range(0, 1000, 50):
        store.put(b"e", {key(j): vector(j) for j in range(i, i + 50)})
    assert len([r for r in caplog.records if "no more embeddings are kept" in r.message and "full" in r.message]) == 1
    store.close()
    assert encode(file) == [0, 0]  # what was there is there


@pytest.mark.parametrize("what", ["file", "folder"])
def test_read_only(file, what, caplog):
    if os.geteuid() == 0:
        db = sqlite3.connect(f"file:{file}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
        store = EmbeddingStore(file, 2**30)  # root may write anything, so the connection is made read-only
        store._state.db, store._state.pid = db, os.getpid()
    else:
        (file if what == "file" else file.parent).chmod(0o555 if what == "folder" else 0o444)
        store = EmbeddingStore(file, 2**30)
    try:
        encoder = CachedEncoder(inner := Counting(), file)
        encoder._store = store
        for _ in range(3):
            assert (encoder.encode_document(TEXTS) == EXPECTED).all()
            assert encoder.encode_document(["something new"]).shape == (1, 64)
        assert inner.asked[-1] == ["something new"]
        assert len([r for r in caplog.records if r.name.endswith("embedding_store")]) == 1
    finally:
        store.close()
        file.parent.chmod(0o755)


def test_while_another_holds_it(file, monkeypatch, caplog):
    monkeypatch.setattr("mrl_retrieval.encoders.embedding_file._WAIT", 0.05)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store = EmbeddingStore(file, 2**30)
    store.put(b"e", {key(1): vector(1)})  # not kept, and no word about it
    assert store.get([key(1)], 256) == {}
    other.execute("ROLLBACK")
    other.close()
    store.put(b"e", {key(1): vector(1)})
    assert len(store.get([key(1)], 256)) == 1 and not caplog.records
    store.close()


@pytest.mark.parametrize("trouble", ["read-only", "held"])
def test_what_was_read_is_given_though_nothing_can_be_written(file, monkeypatch, caplog, trouble):
    """Reading writes down which entries were used, and drops damaged ones; neither may cost what was found."""
    monkeypatch.setattr("mrl_retrieval.encoders.embedding_store._TOUCHES", 10)
    monkeypatch.setattr("mrl_retrieval.encoders.embedding_file._WAIT", 0.05)
    db = sqlite3.connect(file)
    keys = [row[0] for row in db.execute("SELECT key FROM vectors ORDER BY key")]
    db.execute("UPDATE vectors SET value = 'damaged' WHERE key = ?", (keys[0],))
    db.commit()
    db.close()
    store = EmbeddingStore(file, 2**30)
    other = sqlite3.connect(file, isolation_level=None)
    if trouble == "read-only":
        store._state.db = sqlite3.connect(
            f"file:{file}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        store._state.pid = os.getpid()
    else:
        other.execute("BEGIN IMMEDIATE")
    for _ in range(3):
        assert len(store.get(keys, 64)) == len(keys) - 1
    assert not store._state.off
    store._state.touched.clear()
    other.close()
    store.close()


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
import mrl_retrieval.encoders.embedding_store as module
module._TOUCHES = 10
store = module.EmbeddingStore(Path(sys.argv[1]), 2**30)
keys = [i.to_bytes(32, "big") for i in range(100)]
store.put(b"e", {key: np.ones(64, dtype=np.float32) for key in keys})
size = Path(sys.argv[1] + "-wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # no file may grow any more
store.put(b"e", {b"new": np.ones(64, dtype=np.float32)})
assert store._state.read_only
for _ in range(3):
    assert len(store.get(keys, 64)) == 100
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits of a process here")
def test_what_was_read_is_given_though_the_file_cannot_grow(tmp_path):
    process = python(FULL, tmp_path / "c.sqlite", stderr=subprocess.PIPE, text=True)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 0, told
    assert told.count("no more embeddings are kept") == 1
