"""The copy of the rows is made where it pays, in the background, and again when much has changed."""

import errno
import logging

import pytest

from mrl_adapters._faiss import row_copies
from mrl_retrieval.errors import BackendError, InvalidInput
from mrl_retrieval.storage import row_copy
from tests.backends.faiss.helpers import folder, ids_of, rows, two_stages, vectors_of


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(row_copies, "_WORTH_ROWS", 100)


def upsert(backend, count, start=0):
    backend.upsert(rows([f"d{i:05}" for i in range(start, start + count)], vectors_of(count, start)))


def copy_of(backend):
    backend._rows._background.wait()
    with backend._store.snapshot() as snapshot:
        return backend._store.row_copy.of(snapshot)


def search(backend, k=5):
    return ids_of(backend.search(two_stages(vectors_of(4, 5), k=k)))


def wide(opened, address, **options):
    """A backend whose database is not larger than its vectors, as it seems."""
    backend = opened(address, **options)
    sizes = backend._store.sizes()
    backend._store.sizes = lambda: {**sizes, "fine": 10**9}
    return backend


@pytest.fixture
def kb(opened, address, manifest):
    backend = wide(opened, address)
    backend.write_manifest(manifest, None)
    return backend


def test_it_is_made_with_the_first_search_where_it_pays(kb):
    upsert(kb, 99)
    search(kb)
    assert copy_of(kb) is None
    upsert(kb, 10, 99)
    before = search(kb)
    assert copy_of(kb).rows == 109 and search(kb) == before


def test_it_is_made_again_when_a_quarter_is_missing_or_gone(kb):
    upsert(kb, 200)
    search(kb)
    first = copy_of(kb)
    upsert(kb, 60, 200)
    search(kb)
    assert copy_of(kb) is first
    upsert(kb, 40, 260)
    search(kb)
    second = copy_of(kb)
    assert second.rows == 300
    kb.delete([f"d{i:05}" for i in range(100)])
    search(kb)
    assert copy_of(kb).rows == 200


def test_flush_makes_it_at_once_and_the_next_process_has_it(kb, opened, address):
    upsert(kb, 200)
    kb.flush()
    assert (folder(kb) / "rows.copy").exists()
    late = opened(address)
    late.read_manifest()
    before = (folder(kb) / "rows.copy").stat().st_mtime_ns
    assert search(late) == search(kb) and copy_of(late).rows == 200
    late.flush()
    assert (folder(kb) / "rows.copy").stat().st_mtime_ns == before


def test_documents_larger_than_the_vectors_are_not_copied_unless_that_is_asked_for(opened, address, manifest):
    backend = opened(address)
    backend.write_manifest(manifest, None)
    upsert(backend, 200)
    assert backend._store.sizes()["rows"] > backend._store.sizes()["fine"]
    search(backend)
    backend.flush()
    assert copy_of(backend) is None
    asked = opened(address, row_copy=True)
    asked.read_manifest()
    search(asked)
    assert copy_of(asked).rows == 200
    refused = opened(address, row_copy=False)
    refused.read_manifest()
    upsert(refused, 200, 200)
    search(refused)
    assert copy_of(refused).rows == 200  # what is there is used, and not made again


@pytest.mark.parametrize("value", [1, "yes", []])
def test_a_wrong_option(opened, address, value):
    with pytest.raises(InvalidInput, match="row_copy="):
        opened(address, row_copy=value)


def test_a_full_disk_leaves_everything_as_it_was(kb, monkeypatch, caplog):
    upsert(kb, 200)
    search(kb)
    assert copy_of(kb).rows == 200
    before = (folder(kb) / "rows.copy").read_bytes()
    upsert(kb, 200, 200)

    def full(written, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as context, caplog.at_level(logging.WARNING):
        context.setattr(row_copy, "publish", full)
        found = search(kb)
        kb._rows._background.wait()
        assert "goes on as it was" in caplog.text
        assert search(kb) == found and len(caplog.records) == 1  # it is not tried again before the next commit
        with pytest.raises(BackendError):
            kb._rows.make_if_due()
    assert (folder(kb) / "rows.copy").read_bytes() == before
    kb.flush()
    assert copy_of(kb).rows == 400


def test_a_backend_that_is_closed_gives_it_up(kb, monkeypatch):
    upsert(kb, 2000)
    monkeypatch.setattr(row_copies, "_BREATH", 1.0)
    search(kb)
    kb.close()
    assert not (folder(kb) / "rows.copy").exists()
    assert not [path for path in folder(kb).iterdir() if path.name.startswith(".tmp")]


def test_without_numba_there_is_none(kb, monkeypatch):
    monkeypatch.setattr(row_copies, "available", lambda: False)
    upsert(kb, 200)
    search(kb)
    kb.flush()
    assert copy_of(kb) is None


def test_repair_and_drop_take_it_away(kb):
    upsert(kb, 200)
    kb.flush()
    kb.repair()
    before = search(kb)
    assert copy_of(kb) is not None and search(kb) == before
    kb.drop()
    assert not folder(kb).exists()


def test_a_collection_that_goes_while_it_is_copied(kb, opened, address, monkeypatch, caplog):
    upsert(kb, 2000)
    other = opened(address)
    other.read_manifest()

    def drop(copies):
        monkeypatch.undo()
        other.drop()

    monkeypatch.setattr(row_copies.RowCopies, "_pause", drop)
    search(kb)
    kb._rows._background.wait()
    assert "everything goes on as it was" in caplog.text


def test_a_folder_that_may_not_be_written_to(kb, monkeypatch, caplog):
    upsert(kb, 200)
    kb.flush()
    upsert(kb, 200, 200)
    monkeypatch.setattr(row_copies.os, "access", lambda *_: False)
    before = search(kb)
    kb._rows.make_if_due()
    assert copy_of(kb).rows == 200 and search(kb) == before and not caplog.records


def test_the_index_is_written_once(kb, monkeypatch):
    upsert(kb, 200)
    kb.flush()
    search(kb)
    assert kb._store.glances.take() is not None
    written = []
    structure = type(kb._index._coarse.structure)
    real = structure.write
    monkeypatch.setattr(structure, "write", lambda self, path: written.append(path) or real(self, path))
    kb._index.save(lambda missing, covered: True, lock_timeout=None)
    assert len(written) == 1
