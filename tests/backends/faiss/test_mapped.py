"""Pages of mapped files are let go beyond the memory budget, and answers stay."""

import mmap

import pytest

from mrl_adapters._faiss import mapped
from mrl_adapters._faiss.mapped import MappedPages, _mapped_bytes
from tests.backends.faiss.helpers import rows, two_stages, vectors_of

DIM = 16


@pytest.fixture
def every(monkeypatch):
    monkeypatch.setattr(mapped, "_EVERY", 1)
    monkeypatch.setattr(mapped, "_LEAST", 0)


def test_what_a_process_has_mapped(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(64 * 2**20))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
        before = _mapped_bytes()
        assert held[:: mmap.PAGESIZE].count(0) == len(held) // mmap.PAGESIZE
        assert _mapped_bytes() - before > 60 * 2**20
        held.madvise(mmap.MADV_DONTNEED)
        assert _mapped_bytes() - before < 4 * 2**20


def test_a_system_that_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(mapped, "_STATUS", tmp_path / "absent")
    assert _mapped_bytes() is None
    MappedPages().after(1000, None, 0)


class Watched:
    def __init__(self, snapshot):
        self.snapshot, self.advised = snapshot, 0

    def mapped_files(self):
        self.advised += 1
        return self.snapshot.mapped_files()


def test_only_beyond_the_room(kb, every, monkeypatch):
    kb.upsert(rows([f"d{i:04}" for i in range(2000)]))
    pages = MappedPages()
    with kb._store.snapshot() as snapshot:
        watched = Watched(snapshot)
        monkeypatch.setattr(mapped, "_mapped_bytes", lambda: pages._others + 5000)
        pages.after(1, watched, 5000)
        assert watched.advised == 0
        pages.after(1, watched, 4999)
        assert watched.advised == 1


def test_answers_stay_and_the_budget_is_kept(opened, address, manifest, every, monkeypatch):
    kb = opened(address, memory_budget=10**6, row_copy=True)
    kb.write_manifest(manifest, None)
    kb.upsert(rows([f"d{i:04}" for i in range(3000)]))
    kb.flush()
    let_go = []
    real = MappedPages.after

    def after(pages, queries, snapshot, room):
        pages._others = 0  # as if nothing else were mapped, so that there is always too much
        let_go.append(room)
        real(pages, queries, snapshot, 0)

    expected = [[(row.id, row.document) for row in r.rows] for r in kb.search(two_stages(vectors_of(20, 4)))]
    monkeypatch.setattr(MappedPages, "after", after)
    for _ in range(3):
        found = [[(row.id, row.document) for row in r.rows] for r in kb.search(two_stages(vectors_of(20, 4)))]
        assert found == expected
    assert len(let_go) == 3 and 0 < let_go[0] < 10**6
    without = opened(address)
    without.read_manifest()
    without.search(two_stages(vectors_of(1)))
    assert len(let_go) == 3  # without a budget nobody looks
