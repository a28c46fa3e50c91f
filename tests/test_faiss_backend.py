"""What is special to the faiss backend: the cache file, following other writers, threads, and equality with memory."""

import json
import logging
import multiprocessing
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mrl_retrieval.documents import RowBatch
from mrl_retrieval.errors import (
    AddressError,
    BackendError,
    CollectionMismatchError,
    CollectionNotFound,
    CorruptionError,
    DimensionError,
    FilterError,
    InvalidInput,
    LockTimeout,
    NotACollection,
)
from mrl_retrieval.filters import IdIn, parse_filter
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import normalize, prefix
from mrl_retrieval.registry import open_backend
from mrl_retrieval.scoring import exact_search
from mrl_retrieval.two_stage import SearchRequest, Stage

DIM, COARSE = 24, 6


def vectors_of(n, seed=0, dim=DIM):
    return normalize(np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32))


def rows(ids, vectors=None, bare=(), metadatas=None):
    ids = list(ids)
    vectors = vectors_of(len(ids)) if vectors is None else vectors.copy()
    has_vector = np.array([id not in bare for id in ids], dtype=np.bool_)
    vectors[~has_vector] = 0
    return RowBatch(
        ids, [f"text of {id}" for id in ids], metadatas or [{"n": i} for i in range(len(ids))], vectors, has_vector
    )


def two_stages(queries, k=5, candidates=50, filter=None, explain=False, coarse=COARSE, dim=DIM):
    return SearchRequest(queries, (Stage(coarse, candidates), Stage(dim, k)), parse_filter(filter), explain)


def exact(queries, k=5, filter=None, dim=DIM):
    return SearchRequest(queries, (Stage(dim, k),), parse_filter(filter))


def ids_of(rankings):
    return [[row.id for row in ranking.rows] for ranking in rankings]


@pytest.fixture
def manifest():
    return Manifest(dim=DIM, coarse_dims=COARSE, fine_dims=DIM)


@pytest.fixture
def opened():
    backends = []

    def open_one(address, **options):
        backends.append(open_backend(address, **options))
        return backends[-1]

    yield open_one
    for backend in backends:
        backend.close()


@pytest.fixture
def address(tmp_path):
    return f"faiss:{tmp_path}/kb"


@pytest.fixture
def kb(opened, address, manifest):
    backend = opened(address)
    backend.write_manifest(manifest, None)
    return backend


def folder(backend):
    return backend.address.folder / backend.address.collection


# -- addresses and options ---------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["faiss:", "faiss::memory:", "faiss+http://localhost:1"])
def test_an_address_without_a_folder(text):
    with pytest.raises(AddressError, match="memory:"):
        open_backend(text)


def test_options(address, opened):
    with pytest.raises(InvalidInput, match=r"fine_dtype.*lock_timeout.*got \['colour'\]"):
        open_backend(address, colour=1)
    with pytest.raises(InvalidInput, match="fine_dtype='int4'"):
        open_backend(address, fine_dtype="int4")
    with pytest.raises(InvalidInput, match="compact_at=2"):
        open_backend(address, compact_at=2)
    assert opened(address, fine_dtype="int8").capabilities.vector_dtype == "int8"
    assert opened(address).capabilities.vector_dtype == "float16"
    assert opened(address, fine_dtype="float32").capabilities.vector_dtype == "float32"


def test_a_place_that_is_not_ours(tmp_path):
    (tmp_path / "kb").mkdir()
    (tmp_path / "kb" / "index.faiss").write_bytes(b"")
    with pytest.raises(NotACollection, match=r"index\.faiss"):
        open_backend(f"faiss:{tmp_path}/kb")


def test_a_missing_package_names_the_extra():
    code = (
        "import sys; sys.modules['faiss'] = None\n"
        "from mrl_retrieval.errors import MissingExtra\n"
        "from mrl_retrieval.registry import open_backend\n"
        "try: open_backend('faiss:/nowhere')\n"
        "except MissingExtra as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'mrl-retrieval[faiss]'" in said


def test_the_store_does_not_need_faiss():
    code = "import sys; sys.modules['faiss'] = None; import mrl_retrieval.storage"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
@pytest.mark.parametrize("n", [1, 7, 500])
def test_scores_are_the_exact_cosines_of_the_stored_vectors(opened, address, manifest, dtype, n):
    backend = opened(address, fine_dtype=dtype)
    backend.write_manifest(manifest, None)
    vectors, queries = vectors_of(n), vectors_of(4, seed=9)
    ids = [f"d{i:03}" for i in range(n)]
    backend.upsert(rows(ids, vectors))
    stored = vectors.astype({"float16": "<f2"}.get(dtype, "<f4")).astype(np.float32)
    if dtype == "int8":
        scales = np.abs(vectors).max(axis=1, keepdims=True) / np.float32(127)
        stored = np.rint(vectors / scales) * scales
    expected = exact_search(queries, stored, ids, 10)
    coarse = dict(zip(ids, prefix(stored, COARSE) @ prefix(queries, COARSE).T, strict=True))
    for request in (two_stages(queries, 10, candidates=n + 5), exact(queries, 10)):
        for q, (ranking, (want, scores)) in enumerate(zip(backend.search(request), expected, strict=True)):
            assert [row.id for row in ranking.rows] == want
            np.testing.assert_allclose(ranking.scores, scores, atol=2e-6)
            assert ranking.trace is None
            if not request.exact:
                np.testing.assert_allclose(ranking.coarse_scores, [coarse[id][q] for id in want], atol=2e-6)
    got, found = backend.fetch_vectors([*ids[:3], "nobody"])
    np.testing.assert_array_equal(got[:-1], stored[:3])
    assert found.tolist() == [True] * min(n, 3) + [False] and not got[-1].any()


def test_ties_are_ordered_by_id_in_both_kinds_of_search(kb):
    same = np.repeat(vectors_of(1), 9, axis=0)
    kb.upsert(rows(["i", "c", "a", "h", "b", "g", "f", "e", "d"], same))
    kb.upsert(rows([f"z{i}" for i in range(40)], vectors_of(40, 3)))
    for request in (two_stages(same[:1], 4), exact(same[:1], 4)):
        ranking = kb.search(request)[0]
        assert [row.id for row in ranking.rows] == ["a", "b", "c", "d"]
        assert len(set(ranking.scores.tolist())) == 1
    assert kb.coarse_search(prefix(same[:1], COARSE), 3, None)[0].ids == sorted(
        kb.coarse_search(prefix(same[:1], COARSE), 3, None)[0].ids
    )


def test_explain(kb):
    kb.upsert(rows([f"d{i}" for i in range(30)]))
    queries = vectors_of(3, 5)
    request = SearchRequest(queries, (Stage(COARSE, 20), Stage(12, 8), Stage(DIM, 5)), None, True)
    trace = kb.search(request)[0].trace
    assert [(s.name, s.dims, s.scored, s.kept) for s in trace.stages] == [
        ("coarse", 6, None, 60), ("rerank", 12, 60, 24), ("rerank", 24, 24, 15),
    ]  # fmt: skip
    trace = kb.search(SearchRequest(queries, (Stage(DIM, 5),), None, True))[0].trace
    assert [(s.name, s.dims, s.scored, s.kept) for s in trace.stages] == [("exact", 24, 90, 15)]


def test_nothing_to_find(kb):
    query = vectors_of(1)
    everything = [two_stages(query), exact(query), two_stages(query, filter={"n": 1}), exact(query, filter={"n": 1})]
    assert [ids_of(kb.search(request)) for request in everything] == [[[]]] * 4
    kb.upsert(rows(["a", "b"], bare=("a", "b")))
    assert [ids_of(kb.search(request)) for request in everything] == [[[]]] * 4
    assert kb.count() == 2 and kb.count(parse_filter({"n": 1})) == 1
    kb.upsert(rows(["c"]))
    assert [ids_of(kb.search(request)) for request in everything] == [[["c"]], [["c"]], [[]], [[]]]
    kb.delete(["c"])
    assert [ids_of(kb.search(request)) for request in everything] == [[[]]] * 4
    assert kb.search(two_stages(np.empty((0, DIM), np.float32))) == []


def test_filters_it_cannot_express_and_order_across_types(kb):
    kb.upsert(rows(["a", "b", "c"], metadatas=[{"n": 1}, {"n": 2**62}, {}]))
    query = vectors_of(1)
    assert set(ids_of(kb.search(two_stages(query, filter={"n": {"$lt": 10**30}})))[0]) == {"a", "b"}
    assert kb.count(parse_filter({"n": {"$lt": 10**30}})) == 2
    with pytest.raises(FilterError, match="row 'a' holds 1"):
        kb.search(two_stages(query, filter={"n": {"$lt": "x"}}))
    many = IdIn(frozenset({"c", *map(str, range(5000))}))
    assert ids_of(kb.search(replace(two_stages(query), filter=many))) == [["c"]]


class AgainstMemory(RuleBasedStateMachine):
    """Any sequence of writes and reopenings leaves what the memory backend has."""

    folder: Path
    ids = st.sampled_from([*"abcdefgh", "é", "nul\0"])

    def __init__(self):
        super().__init__()
        AgainstMemory.number = getattr(AgainstMemory, "number", 0) + 1
        self.address = f"faiss:{self.folder}/{AgainstMemory.number}"
        self.mine, self.oracle = open_backend(self.address, fine_dtype="float32"), open_backend("memory:")
        self.other = open_backend(self.address)
        manifest = Manifest(dim=8, coarse_dims=3, fine_dims=8)
        for backend in (self.mine, self.oracle):
            backend.write_manifest(manifest, None)
        self.other.read_manifest()

    @rule(
        ids=st.lists(ids, min_size=1, max_size=6, unique=True), bare=ids, seed=st.integers(0, 99), other=st.booleans()
    )
    def upsert(self, ids, bare, seed, other):
        batch = rows(ids, vectors_of(len(ids), seed, 8), bare=(bare,), metadatas=[{"s": seed % 3} for _ in ids])
        (self.other if other else self.mine).upsert(batch)
        self.oracle.upsert(batch)

    @rule(ids=st.lists(ids, max_size=4), other=st.booleans())
    def delete(self, ids, other):
        assert (self.other if other else self.mine).delete(ids) == self.oracle.delete(ids)

    @rule()
    def flush(self):
        self.mine.flush()

    @rule(other=st.booleans())
    def compact(self, other):
        (self.other if other else self.mine).compact()

    @rule()
    def repair(self):
        assert self.mine.repair().problems == ()

    @rule()
    def reopen(self):
        self.mine.close()
        self.mine = open_backend(self.address)
        assert self.mine.read_manifest() == self.oracle.read_manifest()

    @rule(
        k=st.integers(1, 6),
        candidates=st.integers(6, 20),
        seed=st.integers(0, 99),
        filter=st.sampled_from([None, {"s": 1}, {"s": {"$ne": 0}}]),
    )
    def search(self, k, candidates, seed, filter):
        queries = vectors_of(2, seed, 8)
        for request in (two_stages(queries, k, candidates, filter, coarse=3, dim=8), exact(queries, k, filter, 8)):
            if not request.exact:  # else both coarse stages may break a tie at their end in their own way
                request = replace(request, stages=(Stage(3, 30), Stage(8, k)))
            for mine, oracle in zip(self.mine.search(request), self.oracle.search(request), strict=True):
                np.testing.assert_allclose(mine.scores, oracle.scores, atol=2e-6)
                gaps = np.abs(np.diff(oracle.scores)) if len(oracle.scores) else np.empty(0)
                if (gaps > 1e-5).all():
                    assert mine.rows[:-1] == oracle.rows[:-1]

    @invariant()
    def the_same_rows(self):
        everything = [*"abcdefgh", "é", "nul\0"]
        for backend in (self.mine, self.other):
            for mine, oracle in zip(
                backend.get(everything, vectors=True), self.oracle.get(everything, vectors=True), strict=True
            ):
                assert (mine is None) == (oracle is None)
                if mine is not None:
                    assert (mine.document, mine.metadata) == (oracle.document, oracle.metadata)
                    np.testing.assert_array_equal(mine.vector, oracle.vector)
            assert backend.count() == self.oracle.count()

    def teardown(self):
        self.mine.verify().raise_if_damaged()
        self.mine.close()
        self.other.close()


def test_any_sequence_of_writes_equals_memory(tmp_path):
    from hypothesis.stateful import run_state_machine_as_test

    AgainstMemory.folder = tmp_path
    run_state_machine_as_test(
        AgainstMemory,
        settings=settings(
            max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


# -- the cache file ----------------------------------------------------------------------------------------


@pytest.fixture
def flushed(kb):
    """A closed collection with a cache file, its queries, and the answers it must give."""
    kb.upsert(rows([f"d{i:03}" for i in range(200)]))
    kb.upsert(rows([f"d{i:03}" for i in range(0, 200, 5)], vectors_of(40, 2)))
    kb.delete(["d001", "d002"])
    queries = vectors_of(5, 7)
    answers = [ids_of(kb.search(two_stages(queries, candidates=20)))]
    kb.flush()
    kb.close()
    return folder(kb), queries, answers[0]


def test_the_cache_file_is_used(flushed, opened, address, monkeypatch):
    _, queries, answers = flushed
    backend = opened(address)
    monkeypatch.setattr("mrl_adapters._faiss_index.prefix", None)  # adding a vector would call it
    assert ids_of(backend.search(two_stages(queries, candidates=20))) == answers


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def edit(**changes):
    def change(place):
        path = place / "coarse.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def shorter_index(place):
    """A sound index file of fewer vectors, under a sidecar that claims more."""
    index = faiss.IndexFlatIP(COARSE)
    index.add(vectors_of(10, dim=COARSE))
    raw = faiss.serialize_index(index).tobytes()
    (place / "coarse.faiss").write_bytes(raw)
    import zlib

    edit(bytes=len(raw), crc32=zlib.crc32(raw))(place)


def nonsense_index(place):
    import zlib

    raw = b"IxXX" + b"\xff" * 60
    (place / "coarse.faiss").write_bytes(raw)
    edit(bytes=len(raw), crc32=zlib.crc32(raw))(place)


DAMAGE = {
    "a flipped bit": lambda place: flip(place / "coarse.faiss"),
    "cut short": lambda place: (place / "coarse.faiss").write_bytes((place / "coarse.faiss").read_bytes()[:-7]),
    "empty": lambda place: (place / "coarse.faiss").write_bytes(b""),
    "missing": lambda place: (place / "coarse.faiss").unlink(),
    "no sidecar": lambda place: (place / "coarse.json").unlink(),
    "a sidecar that is no JSON": lambda place: (place / "coarse.json").write_text("{"),
    "a sidecar that is a list": lambda place: (place / "coarse.json").write_text("[]"),
    "another collection's": edit(collection_id="other"),
    "other dims": edit(coarse_dims=7),
    "more rows than there are": edit(rows=10_000),
    "fewer rows": edit(rows=200),
    "another history": edit(lineage="00"),
    "a newer form": edit(version=3),
    "another index": shorter_index,
    "no index at all": nonsense_index,
}


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
    import shutil

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

    monkeypatch.setattr("mrl_adapters._faiss_index.write_atomically", killed)
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


# -- looking after it ---------------------------------------------------------------------------------------


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
            assert reader._coarse.index.ntotal <= max(keep * 4 // 3 + 1, 0) + 400 * (keep == 300)
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
    import zlib

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
from test_faiss_backend import *
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
        [sys.executable, "-c", CUT_SHORT, address, str(Path(__file__).parent)], capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.split() == ["typed", "typed", "typed", "False"]


def test_backup_and_restore(kb, opened, address, tmp_path):
    from mrl_adapters.faiss import FaissBackend

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
    assert reader._coarse.index.ntotal == 20
    kb.delete(["d3"])
    assert len(ids_of(reader.search(two_stages(vectors_of(1), 50)))[0]) == 19


# -- others at the same time -------------------------------------------------------------------------------

OTHER_PROCESS = """
import sys
sys.path.insert(0, sys.argv[2])
from test_faiss_backend import *
backend = open_backend(sys.argv[1])
for line in sys.stdin:
    what, id, seed = line.split()
    if what == "upsert":
        backend.upsert(rows([id], vectors_of(1, int(seed))))
    else:
        backend.delete([id])
    print("done", flush=True)
backend.close()
"""


def test_a_reader_sees_what_another_process_writes(kb, address):
    kb.upsert(rows([f"d{i}" for i in range(50)]))
    kb.search(two_stages(vectors_of(1)))
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, address, str(Path(__file__).parent)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip

        def tell(*words):
            print(*words, file=other.stdin, flush=True)
            assert other.stdout.readline() == "done\n"

        for seed in range(100, 105):
            tell("upsert", f"new{seed}", seed)
            assert ids_of(kb.search(two_stages(vectors_of(1, seed), 1, 1))) == [[f"new{seed}"]]
            tell("upsert", f"new{seed}", seed + 1000)
            assert ids_of(kb.search(two_stages(vectors_of(1, seed + 1000), 1, 1))) == [[f"new{seed}"]]
            assert ids_of(kb.search(two_stages(vectors_of(1, seed), 1, 1))) != [[f"new{seed}"]]
            tell("delete", f"new{seed}", 0)
            assert f"new{seed}" not in ids_of(kb.search(two_stages(vectors_of(1, seed + 1000), 50)))[0]
        kb.upsert(rows(["mine"]))
        other.stdin.close()
    assert kb.count() == 51


def test_eight_threads_search_while_others_write(kb):
    vectors = vectors_of(64)
    kb.upsert(rows([f"stays{i}" for i in range(32)], vectors[:32]))
    gone, stop, errors, searches = set(), threading.Event(), [], []

    def search(seed):
        generator = np.random.default_rng(seed)
        try:
            while not stop.is_set():
                before = set(gone)
                which = generator.integers(0, 64, 3)
                filter = [None, {"n": {"$gte": 0}}][seed % 2]
                for i, ranking in zip(
                    which, kb.search([two_stages, exact][seed % 3 == 2](vectors[which], 5, filter=filter)), strict=True
                ):
                    found = [row.id for row in ranking.rows]
                    assert len(found) == 5 and not before & set(found)
                    assert all(row.document == f"text of {row.id}" for row in ranking.rows)
                    if i < 32:
                        assert found[0] == f"stays{i}"
                searches.append(1)
        except Exception as error:
            errors.append(error)

    def write(lane):
        try:
            for round in range(25):
                ids = [f"{lane}-{round}-{i}" for i in range(4)]
                kb.upsert(rows(ids, vectors[32 + 4 * lane : 36 + 4 * lane]))
                kb.delete(ids[:3])
                gone.update(ids[:3])
        except Exception as error:
            errors.append(error)

    searchers = [threading.Thread(target=search, args=(i,)) for i in range(8)]
    writers = [threading.Thread(target=write, args=(i,)) for i in range(2)]
    for thread in searchers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in searchers:
        thread.join()
    assert errors == []
    assert len(searches) >= 8
    assert kb.count() == 32 + 2 * 25


def test_a_scan_shows_one_commit(kb):
    kb.upsert(rows([f"d{i}" for i in range(30)]))
    seen = []
    for batch in kb.scan(batch_size=10, vectors=True):
        seen += batch.ids
        kb.delete([f"d{i}" for i in range(30)])
        kb.upsert(rows([f"new{len(seen)}"]))
    assert seen == [f"d{i}" for i in range(30)]
    unfinished = kb.scan(parse_filter({"n": {"$gte": 0}}), batch_size=1)
    next(unfinished)
    kb.close()
    unfinished.close()


def _search_in_child(backend, queries, answers):
    answers.put(ids_of(backend.search(two_stages(queries))))
    backend.upsert(rows(["child"]))
    backend.close()


def test_a_forked_child(kb):
    kb.upsert(rows([f"d{i}" for i in range(30)]))
    queries = vectors_of(3, 4)
    expected = ids_of(kb.search(two_stages(queries)))
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_search_in_child, args=(kb, queries, answers), daemon=True)
    child.start()
    assert answers.get(timeout=60) == expected
    child.join(60)
    assert child.exitcode == 0
    answers.close()
    assert ids_of(kb.search(two_stages(vectors_of(1), 1, 31, {"n": 0})))[0][0] in ("child", "d0")
    assert kb.count() == 31


def test_dropped_and_made_again_by_another(kb, opened, address, manifest):
    kb.upsert(rows([f"d{i}" for i in range(30)]))
    query = vectors_of(1)
    kb.search(two_stages(query))
    other = opened(address)
    other.drop()
    with pytest.raises(CollectionNotFound):
        kb.search(two_stages(query))
    other.write_manifest(Manifest(dim=4, coarse_dims=2, fine_dims=4), None)
    with pytest.raises(CollectionMismatchError, match="open it again"):
        kb.search(two_stages(query))
    assert kb.read_manifest().dim == 4
    assert kb.count() == 0


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


def test_after_closing(kb):
    kb.upsert(rows(["a"]))
    kb.close()
    kb.close()
    with pytest.raises(BackendError, match="was closed"):
        kb.search(two_stages(vectors_of(1)))


def test_stats(kb):
    kb.upsert(rows([f"d{i}" for i in range(10)], bare=("d9",)))
    kb.upsert(rows(["d0", "d1"]))
    kb.delete(["d2"])
    stats = kb.stats()
    assert (stats.rows, stats.vectors) == (9, 8)
    assert stats.bytes["coarse"] == 11 * COARSE * 4 and stats.bytes["fine"] == 64 + 11 * DIM * 2
    assert stats.bytes["rows"] > 4096
    assert stats.details == {
        "index": "flat, exact",
        "fine_dtype": "float16",
        "format_version": 2,
        "generation": 4,
        "tombstones": 3,
        "segments": 1,
    }


def test_wrong_dims_are_not_searched_for(kb):
    kb.upsert(rows(["a"]))
    with pytest.raises(DimensionError):
        kb.coarse_search(np.zeros((1, COARSE - 1), np.float32), 1, None)
