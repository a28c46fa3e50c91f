"""The cache file of the index: used where it fits, made again where not, and never in the way."""

import logging
import shutil
from dataclasses import replace

import faiss
import numpy as np
import pytest

from mrl_retrieval.errors import (
    BackendError,
    LockTimeout,
)
from mrl_retrieval.matryoshka import prefix
from tests.backends.faiss.cache_damage import DAMAGE
from tests.backends.faiss.helpers import folder, ids_of, rows, two_stages, vectors_of


def test_the_cache_file_is_used(flushed, opened, address, monkeypatch):
    _, queries, answers = flushed
    backend = opened(address)
    monkeypatch.setattr("mrl_adapters._faiss.index.prefix", None)  # adding a vector would call it
    assert ids_of(backend.search(two_stages(queries, candidates=20))) == answers


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_file_is_made_again(flushed, opened, address, damage, caplog):
    place, queries, answers = flushed
    DAMAGE[damage](place)
    backend = opened(address)
    with caplog.at_level(logging.WARNING, "mrl_adapters"):
        assert ids_of(backend.search(two_stages(queries, candidates=20))) == answers
    assert len(caplog.records) == (damage != "no sidecar")
    backend.flush()
    backend.close()
    caplog.clear()
    again = opened(address)
    with caplog.at_level(logging.WARNING, "mrl_adapters"):
        assert ids_of(again.search(two_stages(queries, candidates=20))) == answers
    if damage != "more rows than there are":
        assert not caplog.records


def test_the_cache_of_a_later_history_is_not_believed(kb, opened, address, tmp_path):
    """A backup is restored, but the cache file is from after it; then other rows are written."""
    kb.upsert(rows([f"old{i}" for i in range(20)]))
    kb.close()
    shutil.copytree(tmp_path / "kb", tmp_path / "backup")
    later = opened(address)
    later.upsert(rows([f"lost{i}" for i in range(20)], vectors_of(20, 5)))
    later.flush()
    later.close()
    for name in ("coarse.faiss", "coarse.json"):
        shutil.copy(folder(kb) / name, tmp_path / "backup" / "default" / name)
    restored = opened(f"faiss:{tmp_path}/backup")
    vectors = vectors_of(30, 6)
    restored.upsert(rows([f"new{i}" for i in range(30)], vectors))
    assert ids_of(restored.search(two_stages(vectors, 1, 1))) == [[f"new{i}"] for i in range(30)]


def test_closing_saves_the_index_where_it_is_worth_it(opened, address, manifest):
    backend = opened(address)
    backend.write_manifest(manifest, None)
    backend.upsert(rows(["a"]))
    backend.close()
    assert not (folder(backend) / "coarse.faiss").exists()
    backend = opened(address)
    backend.upsert(rows([f"d{i}" for i in range(1000)]))
    backend.close()
    saved = (folder(backend) / "coarse.faiss").stat().st_mtime_ns
    backend = opened(address)
    backend.upsert(rows(["b"]))
    backend.close()
    assert (folder(backend) / "coarse.faiss").stat().st_mtime_ns == saved
    assert not [p.name for p in folder(backend).iterdir() if p.name.startswith(".")]


def test_a_save_that_fails_harms_nothing(kb, opened, address, monkeypatch, caplog):
    kb.upsert(rows([f"d{i}" for i in range(1000)]))

    def fail(*_):
        raise RuntimeError("no space left")

    monkeypatch.setattr(faiss, "write_index", fail)
    with pytest.raises(BackendError, match="no space left"):
        kb.flush()
    with caplog.at_level(logging.INFO, "mrl_adapters"):
        kb.close()
    assert "was not saved" in caplog.text
    assert opened(address).count() == 1000


def test_killed_between_the_index_and_its_sidecar(kb, opened, address, monkeypatch, caplog):
    kb.upsert(rows([f"d{i}" for i in range(30)]))
    kb.flush()
    kb.upsert(rows(["more"]))

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mrl_adapters._faiss.cache.write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        kb.flush()
    monkeypatch.undo()
    backend = opened(address)
    backend.read_manifest()
    assert backend.verify().ok
    assert len(ids_of(backend.search(two_stages(vectors_of(1), 40)))[0]) == 31
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_flush_waits_for_the_writer(kb, opened, address):
    kb.upsert(rows(["a"]))
    impatient = opened(address, lock_timeout=0.05)
    with kb._store.writing_files(5), pytest.raises(LockTimeout):
        impatient.flush()


def test_other_coarse_dims_make_another_index(kb, opened, address, manifest):
    vectors = vectors_of(300)
    kb.upsert(rows([f"d{i}" for i in range(300)], vectors))
    other = opened(address)
    other.read_manifest()
    other.search(two_stages(vectors[:2]))
    kb.flush()
    kb.write_manifest(replace(manifest, coarse_dims=12), manifest)
    for backend in (kb, other):
        (found,) = backend.coarse_search(prefix(vectors[7:8], 12), 300, None)
        assert len(found.ids) == 300 and found.ids[0] == "d7"
        expected = np.sort(prefix(vectors.astype(np.float16), 12) @ prefix(vectors[7:8], 12)[0])[::-1]
        np.testing.assert_allclose(found.scores, expected, atol=1e-5)
