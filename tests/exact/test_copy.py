"""The copy follows a store: growth, deletes, compaction, its file, and what a kill or a full disk leaves of it."""

import errno
import json
import logging

import numpy as np
import pytest

import mrl_retrieval.exact.copy as copy_module
import mrl_retrieval.exact.files as files_module
import mrl_retrieval.exact.layout as layout_module
from mrl_retrieval.documents import RowBatch
from mrl_retrieval.errors import BackendError
from mrl_retrieval.exact import ExactCopy
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.storage import Store
from mrl_retrieval.storage.scan import exact_scan
from tests.exact.hard import queries_of, vectors_of

DIM, SMALL = 24, 64


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of 64 documents, in NumPy: the kernels have the size compiled in."""
    for module in (copy_module, files_module, layout_module):
        monkeypatch.setattr(module, "CHUNK", SMALL)
    import mrl_retrieval.exact.passes as passes
    import mrl_retrieval.exact.reference as reference
    import mrl_retrieval.exact.search as search

    monkeypatch.setattr(passes, "CHUNK", SMALL)
    monkeypatch.setattr(reference, "CHUNK", SMALL)
    real = search.search
    monkeypatch.setattr(copy_module, "search", lambda *args, **options: real(*args, **options, compiled=False))


class Filled:
    """A store, and the ways to change it."""

    def __init__(self, path, dtype="float16"):
        self.store = Store(path, "default", fine_dtype=dtype)
        self.store.write_manifest(Manifest(dim=DIM, coarse_dims=8, fine_dims=DIM), None)
        self.count = 0

    def add(self, n, kind="random"):
        ids = [f"d{i}" for i in range(self.count, self.count + n)]
        vectors = vectors_of(kind, n, DIM, seed=self.count)
        self.store.upsert(RowBatch(ids, ids, [{"n": i % 3} for i in range(n)], vectors, np.ones(n, dtype=bool)))
        self.count += n

    def delete(self, numbers):
        self.store.delete([f"d{i}" for i in numbers])

    @property
    def files(self):
        return self.store.files


@pytest.fixture
def filled(tmp_path):
    made = Filled(tmp_path / "kb")
    yield made
    made.store.close()


def follow(filled, before=None):
    with filled.store.snapshot() as snapshot:
        made = ExactCopy.follow(snapshot, before, filled.files)
        check(made, snapshot)
    return made


def save(filled, made):
    with filled.store.snapshot() as snapshot, filled.store.writing_files(None):
        saved = made.save(snapshot, filled.files)
        check(saved, snapshot)
    return saved


def check(made, snapshot):
    """Hold a search over the copy to a scan of everything."""
    assert made.fits(snapshot)
    assert made.first + made.rows == snapshot.state.vectors
    mask = snapshot.vector_mask(None)
    positions = np.flatnonzero(mask) + snapshot.state.first
    queries = queries_of(vectors_of("random", 10, DIM), 6, DIM)
    expected = exact_scan(snapshot.fine, positions, queries, 5)
    for (a, a_scores), (b, b_scores) in zip(made.search(snapshot, queries, 5, mask).found, expected, strict=True):
        np.testing.assert_array_equal(np.sort(a), np.sort(b))
        np.testing.assert_array_equal(a_scores[np.argsort(a)], b_scores[np.argsort(b)])


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_it_follows_growth_and_deletes(tmp_path, dtype):
    filled = Filled(tmp_path / "kb", dtype)
    made = None
    for step in (0, 1, 5, 60, 200, 3):
        if step:
            filled.add(step)
        before, made = made, follow(filled, made)
        if before is not None:
            assert before.rows <= made.rows
    filled.delete(range(0, 100, 2))
    made = follow(filled, made)
    filled.store.close()


def test_an_earlier_copy_stays_as_it_was(filled):
    filled.add(70)
    before = follow(filled)
    contents = [chunk.content.copy() for chunk in before.chunks]
    filled.add(70)
    follow(filled, before)
    for chunk, content in zip(before.chunks, contents, strict=True):
        np.testing.assert_array_equal(chunk.content, content)


def test_it_follows_compaction(filled):
    filled.add(300)
    made = follow(filled)
    filled.delete(range(250))
    filled.store.compact()
    after = follow(filled, made)
    assert after.first > 0
    assert after.rows < 300


def test_dead_chunks_stay_until_they_are_many(filled):
    filled.add(600)
    made = follow(filled)
    filled.delete(range(100))
    filled.store.compact()
    with filled.store.snapshot() as snapshot:
        first = snapshot.state.first
    assert first >= 100
    made = follow(filled, made)
    filled.add(10)
    save(filled, follow(filled, made))
    follow(filled)


def test_nothing_of_it_is_left(filled):
    filled.add(100)
    made = follow(filled)
    filled.delete(range(100))
    filled.store.compact()
    filled.add(90)
    assert follow(filled, made).rows == 90
    save(filled, follow(filled, made))
    follow(filled)


def test_it_is_made_again_when_the_collection_has_outgrown_its_parameters(filled, monkeypatch):
    monkeypatch.setattr(copy_module, "SAMPLE", 10)
    filled.add(20)
    made = follow(filled)
    filled.add(30)
    assert follow(filled, made).coder is made.coder
    filled.add(100)
    assert follow(filled, made).fitted == 150


def test_what_was_saved_is_used_and_grows(filled):
    filled.add(200)
    saved = save(filled, follow(filled))
    assert not any(chunk.content.flags.writeable for chunk in saved.chunks[:3])
    told = json.loads(filled.files.exact_sidecar.read_text())
    assert (told["rows"], told["seen"]) == (192, 200)
    loaded = follow(filled)
    np.testing.assert_array_equal(loaded.coder.mean, saved.coder.mean)
    inode, size = filled.files.exact_codes.stat().st_ino, filled.files.exact_codes.stat().st_size
    filled.add(100)
    save(filled, follow(filled, loaded))
    now = filled.files.exact_codes.stat()
    assert now.st_ino == inode
    assert now.st_size > size
    assert json.loads(filled.files.exact_sidecar.read_text())["rows"] == 256
    save(filled, follow(filled))
    follow(filled)


def test_a_copy_can_be_made_without_holding_it_in_memory(filled):
    filled.add(200)
    with filled.store.snapshot() as snapshot, filled.store.writing_files(None):
        made = ExactCopy.make(snapshot, filled.files)
        check(made, snapshot)
    direct = save(filled, follow(filled))
    assert made.reach[0] <= direct.reach[0]
    for a, b in zip(made.chunks, direct.chunks, strict=True):
        np.testing.assert_array_equal(a.content, b.content)


def test_little_is_not_saved(filled):
    filled.add(10)
    save(filled, follow(filled))
    assert not filled.files.exact_sidecar.exists()


@pytest.mark.parametrize("where", ["parameters", "code", "sidecar", "cut", "missing", "history", "version", "dims"])
def test_a_file_that_does_not_fit_is_not_used(filled, where, caplog):
    filled.add(200)
    save(filled, follow(filled))
    codes, sidecar = filled.files.exact_codes, filled.files.exact_sidecar
    content, told = bytearray(codes.read_bytes()), json.loads(sidecar.read_text())
    if where == "missing":
        codes.unlink()
    elif where == "cut":
        codes.write_bytes(content[:-1])
    elif where in ("parameters", "code"):
        content[5 if where == "parameters" else -400] ^= 1
        codes.write_bytes(content)
    elif where == "sidecar":
        sidecar.write_text("{")
    else:
        told[{"history": "lineage", "version": "version", "dims": "dims"}[where]] = "other" if where == "history" else 7
        sidecar.write_text(json.dumps(told))
    with caplog.at_level(logging.WARNING):
        follow(filled)
    assert "is not used" in caplog.text
    save(filled, follow(filled))
    caplog.clear()
    follow(filled)
    assert not caplog.text


def test_a_file_of_another_collection_is_not_used(filled, tmp_path, caplog):
    other = Filled(tmp_path / "other")
    for one in (filled, other):
        one.add(130)
    save(other, follow(other))
    for name in ("exact_codes", "exact_sidecar"):
        getattr(filled.files, name).write_bytes(getattr(other.files, name).read_bytes())
    other.store.close()
    with caplog.at_level(logging.WARNING):
        follow(filled)
    assert "collection_id" in caplog.text


@pytest.mark.parametrize("grown", [False, True])
@pytest.mark.parametrize("calls", range(5))
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_a_kill_leaves_the_old_file_or_none(filled, monkeypatch, grown, calls, error, caplog):
    filled.add(200)
    if grown:
        save(filled, follow(filled))
        filled.add(100)
    made = follow(filled)
    real, left = files_module.os.fsync, [calls]

    def failing(*arguments):
        if left[0] == 0:
            raise error
        left[0] -= 1
        return real(*arguments)

    monkeypatch.setattr("os.fsync", failing)
    try:
        with filled.store.snapshot() as snapshot, filled.store.writing_files(None):
            made.save(snapshot, filled.files)
    except BackendError as raised:
        assert "No space left" in str(raised)
    except KeyboardInterrupt:
        pass
    monkeypatch.undo()
    for module in (copy_module, files_module, layout_module):
        monkeypatch.setattr(module, "CHUNK", SMALL)
    with caplog.at_level(logging.WARNING), filled.store.snapshot() as snapshot:
        ExactCopy.follow(snapshot, None, filled.files)
    assert not caplog.text


def test_a_read_only_folder_is_no_hindrance_to_following(filled):
    filled.add(100)
    names = set(filled.files.folder.iterdir())
    follow(filled)
    assert set(filled.files.folder.iterdir()) == names
