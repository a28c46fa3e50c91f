"""Compaction, verifying, repairing, backups, and files that are damaged or gone."""

import logging
import subprocess
import sys
import zlib
from pathlib import Path

import faiss
import pytest

from mrl_adapters.faiss import FaissBackend
from mrl_retrieval.errors import AddressError, CorruptionError
from tests.backends.faiss.cache_damage import DAMAGE, edit
from tests.backends.faiss.helpers import COARSE, DIM, exact, folder, ids_of, rows, two_stages, vectors_of


def test_the_index_follows_a_compaction(kb, opened, address):
    reader = opened(address)
    reader.read_manifest()
    vectors = vectors_of(400)
    ids = [f"d{i}" for i in range(400)]
    queries = vectors_of(4, 9)
    kb.upsert(rows(ids, vectors, bare=("d399",)))
    for keep in (300, 100, 10, 0):
        kb.delete(ids[keep:])
        expected = [ids_of(reader.search(request)) for request in (two_stages(queries, 8, 400), exact(queries, 8))]
        for _ in range(2):  # the second time, rows have come since
            report = kb.compact()
            assert report.moved in (keep, 0)
            late = opened(address)
            late.read_manifest()
            for backend in (reader, kb, late):
                for condition in (None, {"n": {"$gte": 0}}):
                    found = [
                        ids_of(backend.search(two_stages(queries, 8, 400, condition))),
                        ids_of(backend.search(exact(queries, 8, condition))),
                    ]
                    assert found == expected
            assert reader._index._coarse.structure.count <= max(keep * 4 // 3 + 1, 0) + 400 * (keep == 300)
            late.close()
        kb.flush()


def test_a_cache_file_of_what_was_compacted_away_is_nothing_bad(kb, opened, address, caplog):
    kb.upsert(rows([f"d{i}" for i in range(50)]))
    kb.flush()
    kb.delete([f"d{i}" for i in range(40)])
    kb.compact()
    kb.close()
    backend = opened(address)
    assert backend.verify().ok
    assert len(ids_of(backend.search(two_stages(vectors_of(1), 20)))[0]) == 10
    backend.flush()
    assert backend.verify().ok
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("damage", DAMAGE)
def test_verify_and_repair_see_to_the_cache_file(flushed, opened, address, damage):
    place, queries, answers = flushed
    DAMAGE[damage](place)
    backend = opened(address)
    if damage == "no sidecar":  # a file that nothing vouches for is no cache
        assert backend.verify().ok
        return
    (problem,) = backend.verify().problems
    assert problem.part == "coarse index" and "expected" in problem.message
    report = backend.repair()
    assert report.index_rebuilt and not report.rebuilt and report.problems == (problem,)
    assert backend.verify().ok
    assert ids_of(opened(address).search(two_stages(queries, candidates=20))) == answers


def test_verify_compares_the_cache_with_the_vectors(flushed, opened, address):
    """An index that is sound in itself, and whose sidecar fits, but that was made of other vectors."""
    place, _, _ = flushed
    index = faiss.IndexFlatIP(COARSE)
    index.add(vectors_of(240, seed=77, dim=COARSE))
    raw = faiss.serialize_index(index).tobytes()
    (place / "coarse.faiss").write_bytes(raw)
    edit(bytes=len(raw), crc32=zlib.crc32(raw))(place)
    (problem,) = opened(address).verify().problems
    assert "other prefixes" in problem.message
    assert opened(address).repair().index_rebuilt
    assert opened(address).verify().ok


def test_a_damaged_vector_is_an_error_and_then_repaired(kb, opened, address):
    vectors = vectors_of(30)
    kb.upsert(rows([f"d{i}" for i in range(30)], vectors))
    kb.flush()
    kb.close()
    path = folder(kb) / "segments" / "000001.seg"
    raw = bytearray(path.read_bytes())
    raw[64 + 7 * DIM * 2 + 1] ^= 64
    path.write_bytes(raw)
    backend = opened(address)
    manifest = backend.read_manifest()
    for request in (two_stages(vectors[7:8]), exact(vectors[7:8])):
        with pytest.raises(CorruptionError, match=r"000001\.seg"):
            backend.search(request)
    with pytest.raises(CorruptionError):
        backend.fetch_vectors(["d7"])
    report = backend.repair()
    assert report.without_vector == ("d7",) and report.rebuilt and report.index_rebuilt
    assert backend.manifest == manifest and backend.count() == 30
    found = ids_of(backend.search(two_stages(vectors[:1], 30, 30)))[0]
    assert len(found) == 29 and "d7" not in found
    backend.upsert(rows(["d7"], vectors[7:8]))
    assert ids_of(backend.search(two_stages(vectors[7:8], 1)))[0] == ["d7"]
    assert backend.verify().ok


CUT_SHORT = """
import os, sys
sys.path.insert(0, sys.argv[2])
from mrl_retrieval.errors import CorruptionError
from mrl_retrieval.registry import open_backend
from tests.backends.faiss.helpers import *
backend = open_backend(sys.argv[1])
backend.read_manifest()
backend.search(two_stages(vectors_of(1)))
path = next((backend.address.folder / "default" / "segments").iterdir())
os.truncate(path, 100)
for work in (lambda: backend.search(two_stages(vectors_of(1))), lambda: backend.upsert(rows(["x"])), backend.compact):
    try:
        work()
    except CorruptionError as error:
        print("typed", flush=True)
print(backend.verify().ok)
"""


def test_a_file_cut_short_under_a_running_process_does_not_kill_it(kb, address):
    kb.upsert(rows([f"d{i}" for i in range(3000)]))
    kb.close()
    said = subprocess.run(
        [sys.executable, "-c", CUT_SHORT, address, str(Path(__file__).parents[3])], capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.split() == ["typed", "typed", "typed", "False"]


def test_a_damaged_segment_never_gives_hits(kb, opened, address):
    kb.upsert(rows([f"d{i}" for i in range(30)]))
    kb.flush()
    kb.close()
    (folder(kb) / "segments" / "000001.seg").unlink()
    fresh = opened(address)
    with pytest.raises(CorruptionError, match=r"000001\.seg is missing"):
        fresh.search(two_stages(vectors_of(1)))
    with pytest.raises(CorruptionError):
        fresh.read_manifest()


def test_backup_and_restore(kb, opened, address, tmp_path):
    kb.upsert(rows([f"d{i}" for i in range(40)], bare=("d5",)))
    report = kb.backup(tmp_path / "kb.tar")
    assert (report.rows, report.vectors) == (40, 39)
    queries = vectors_of(3, 4)
    expected = ids_of(kb.search(two_stages(queries)))
    with pytest.raises(AddressError, match="folder"):
        FaissBackend.restore(tmp_path / "kb.tar", "faiss:")
    restored = FaissBackend.restore(str(tmp_path / "kb.tar"), f"faiss:{tmp_path}/elsewhere?collection=b")
    assert restored.rows == 40 and restored.path == tmp_path / "elsewhere" / "b"
    backend = opened(f"faiss:{tmp_path}/elsewhere?collection=b")
    assert backend.read_manifest() == kb.manifest
    assert ids_of(backend.search(two_stages(queries))) == expected
    backend.upsert(rows(["more"]))
    assert backend.verify().ok and backend.count() == 41 and kb.count() == 40


def test_refresh(kb, opened, address):
    reader = opened(address)
    reader.read_manifest()
    reader.refresh()
    kb.upsert(rows([f"d{i}" for i in range(20)]))
    reader.refresh()
    assert reader._index._coarse.structure.count == 20
    kb.delete(["d3"])
    assert len(ids_of(reader.search(two_stages(vectors_of(1), 50)))[0]) == 19
