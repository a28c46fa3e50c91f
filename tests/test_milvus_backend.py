"""What is special to Milvus: rows of any size in strings of a limited one, hashed terms and keys, three kinds of places."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("milvus_lite", reason="milvus-lite is not installed: pip install 'mrl-retrieval[milvus]'")

import grpc
from pymilvus import MilvusClient
from pymilvus.grpc_gen import milvus_pb2_grpc

from mrl_adapters import _milvus_filters, _milvus_lite, _milvus_rows, milvus
from mrl_adapters._milvus_collections import _escaped, _unescaped
from mrl_adapters.milvus import MilvusBackend
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import (
    BackendError,
    BackendUnavailable,
    CollectionMismatchError,
    CollectionNotFound,
    ConflictError,
    FilterError,
    InvalidInput,
    LockTimeout,
    NotACollection,
)
from mrl_retrieval.filters import IdIn, matches, parse_filter
from mrl_retrieval.manifest import Canaries, Manifest
from mrl_retrieval.matryoshka import normalize, prefix
from mrl_retrieval.registry import open_backend
from mrl_retrieval.scoring import exact_search
from tests.milvus_server import run_milvus
from tests.servers import free_port

DIM, COARSE = 24, 8
MANIFEST = Manifest(dim=DIM, coarse_dims=COARSE, fine_dims=DIM)


def vectors(n: int, seed: int = 0) -> Any:
    return normalize(np.random.default_rng(seed).normal(size=(n, DIM)))


def batch(rows: list[Row]) -> RowBatch:
    full = np.zeros((len(rows), DIM), dtype=np.float32)
    for i, row in enumerate(rows):
        if row.vector is not None:
            full[i] = row.vector
    return RowBatch(
        ids=[row.id for row in rows],
        documents=[row.document for row in rows],
        metadatas=[row.metadata for row in rows],
        vectors=full,
        has_vector=np.array([row.vector is not None for row in rows], dtype=np.bool_),
    )


def rows(n: int, start: int = 0, seed: int = 0, **metadata: Any) -> list[Row]:
    return [
        Row(str(start + i), f"text {start + i}", {"i": start + i, **metadata}, vector)
        for i, vector in enumerate(vectors(n, seed))
    ]


Opener = Callable[..., MilvusBackend]


@pytest.fixture
def open_at(tmp_path: Path) -> Iterator[Opener]:
    opened: list[MilvusBackend] = []

    def open_one(address: str | None = None, **options: Any) -> MilvusBackend:
        one = open_backend(address or f"milvus:{tmp_path}/kb", **options)
        assert isinstance(one, MilvusBackend)
        opened.append(one)
        return one

    yield open_one
    for one in opened:
        one.close()


@pytest.fixture
def backend(open_at: Opener) -> MilvusBackend:
    one = open_at()
    one.write_manifest(MANIFEST, None)
    return one


def client_of(backend: MilvusBackend) -> MilvusClient:
    return backend._connection.client()


def indexed(backend: MilvusBackend, open_at: Opener) -> MilvusBackend:
    """The same, opened again: Milvus Lite builds indexes in the background, and waits for them when it closes."""
    backend.flush()
    backend.close()
    return open_at(search_params=backend._options.search_params)


def ids_of(backend: MilvusBackend, condition: dict[str, Any] | None) -> set[str]:
    return {id for page in backend.scan(parse_filter(condition)) for id in page.ids}


# -- places --------------------------------------------------------------------------------------------------


def test_opening_and_reading_create_nothing(open_at: Opener, tmp_path: Path) -> None:
    one = open_at()
    assert one.read_manifest() is None and one.collections() == []
    one.drop()
    one.flush()
    assert not (tmp_path / "kb").exists()


def test_in_memory_leaves_nothing_behind(open_at: Opener) -> None:
    one, other = open_at("milvus:"), open_at("milvus::memory:")
    assert not one.capabilities.persistent
    one.write_manifest(MANIFEST, None)
    one.upsert(batch(rows(3)))
    assert one.count() == 3 and other.read_manifest() is None
    folder = one._connection.folder
    assert folder is not None and folder.exists()
    one.close()
    assert not folder.parent.exists()
    with pytest.raises(BackendError, match="closed"):
        one.count()


def test_other_folders_and_files_are_refused(open_at: Opener, tmp_path: Path) -> None:
    (tmp_path / "old.db").write_bytes(b"SQLite format 3")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    for name, words in (("old.db", "is a file"), ("photos", "not empty")):
        with pytest.raises(NotACollection, match=words):
            open_at(f"milvus:{tmp_path}/{name}")
    assert sorted(p.name for p in (tmp_path / "photos").iterdir()) == ["a.jpg"]


def test_the_socket_is_nobody_elses(backend: MilvusBackend) -> None:
    engine = backend._connection._engine
    assert engine is not None and engine.uri.startswith("unix:")
    socket = Path(engine.uri.removeprefix("unix:"))
    assert socket.parent.stat().st_mode & 0o077 == 0
    backend.close()
    assert not socket.parent.exists()


def test_backends_of_one_process_share_a_folder(backend: MilvusBackend, open_at: Opener, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "kb")
    other = open_at(f"milvus:{tmp_path}/link")
    backend.upsert(batch(rows(5)))
    assert other.read_manifest() == MANIFEST and other.count() == 5
    other.delete(["0"])
    assert backend.get(["0"]) == [None]
    backend.close()
    assert other.count() == 4
    other.drop()
    assert other.collections() == []


def test_a_collection_dropped_by_another(backend: MilvusBackend, open_at: Opener) -> None:
    backend.upsert(batch(rows(2)))
    other = open_at()
    assert other.count() == 2
    backend.drop()
    for _ in range(2):
        with pytest.raises(CollectionNotFound, match="there"):
            other.count()
    backend.write_manifest(replace(MANIFEST, fine_dims=16), None)
    assert other.count() == 0 and other.manifest.fine_dims == 16


def run(code: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments], text=True, **options
    )


def test_a_folder_belongs_to_one_process(open_at: Opener, tmp_path: Path) -> None:
    code = """
        import sys
        from mrl_retrieval.registry import open_backend
        from mrl_retrieval.manifest import Manifest
        one = open_backend(sys.argv[1])
        one.write_manifest(Manifest(dim=4, coarse_dims=2, fine_dims=4), None)
        print("open", flush=True)
        sys.stdin.readline()
        one.close()
    """
    other = run(code, f"milvus:{tmp_path}/kb", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdin is not None and other.stdout is not None
    assert other.stdout.readline() == "open\n"
    hurried, patient = open_at(lock_timeout=0.2), open_at(lock_timeout=60)
    with pytest.raises(LockTimeout, match=r"lock_timeout=0\.2"):
        hurried.read_manifest()
    threading.Timer(0.3, lambda: other.stdin and other.stdin.close()).start()
    read = patient.read_manifest()
    assert read is not None and read.dim == 4
    assert other.wait(30) == 0
    other.stdout.close()


def test_a_process_that_closes_nothing_ends_and_loses_nothing(open_at: Opener, tmp_path: Path) -> None:
    code = """
        import sys
        import numpy as np
        from mrl_retrieval import MatryoshkaRetriever
        one = MatryoshkaRetriever(None, sys.argv[1])
        one.index(["a", "b"], ["a", "b"], vectors=np.eye(24)[:2])
        memory = MatryoshkaRetriever(None, "milvus:")
        memory.index(["a", "b"], ["a", "b"], vectors=np.eye(24)[:2])
    """
    process = run(code, f"milvus:{tmp_path}/kb", stderr=subprocess.PIPE)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert [row and row.document for row in open_at().get(["a", "b"])] == ["a", "b"]


def test_after_a_fork(backend: MilvusBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = backend._connection._engine
    assert engine is not None
    with monkeypatch.context() as patch:
        patch.setattr(engine, "process", os.getpid() + 1)
        with pytest.raises(BackendError, match="forked"):
            backend.count()
    assert backend.count() == 0


def test_what_interrupted_calls_left_is_swept(backend: MilvusBackend, open_at: Opener, tmp_path: Path) -> None:
    backend.upsert(batch(rows(2)))
    backend.close()
    folder = tmp_path / "kb" / "collections"
    (folder / "mrl_half").mkdir()
    (folder / f"{_milvus_lite.DOOMED}1").mkdir()
    (folder / f"{_milvus_lite.DOOMED}1" / "schema.json").write_text("{")
    (folder / "yours").mkdir()
    half = open_at(f"milvus:{tmp_path}/kb?collection=half")
    half.write_manifest(MANIFEST, None)
    assert half.collections() == ["default", "half"] and half.count() == 0
    assert not (folder / f"{_milvus_lite.DOOMED}1").exists() and (folder / "yours").exists()
    assert open_at().count() == 2


def test_a_log_that_was_written_already_is_not_read_again(
    backend: MilvusBackend, open_at: Opener, tmp_path: Path
) -> None:
    """As after a kill between the two: Milvus Lite by itself then has every row of it twice."""
    folder, kept = tmp_path / "kb" / "collections" / "mrl_default" / "wal", tmp_path / "kept"
    backend.upsert(batch(rows(5)))
    backend.delete(["0"])
    backend.upsert(batch(rows(2, start=3, seed=1)))
    shutil.copytree(folder, kept)
    backend.flush()
    backend.upsert(batch(rows(5, start=10)))
    later = tmp_path / "later"
    shutil.copytree(tmp_path / "kb", later)
    shutil.copytree(kept, later / "collections" / "mrl_default" / "wal", dirs_exist_ok=True)
    one = open_at(f"milvus:{later}")
    names = {"1", "2", "3", "4", *map(str, range(10, 15))}
    assert one.count() == 9 == one.stats().vectors and one.get(["0"]) == [None]
    assert sorted(id for page in one.scan() for id in page.ids) == sorted(names)
    assert sorted(one.coarse_search(prefix(vectors(1), COARSE), 50, None)[0].ids) == sorted(names)


# -- options -------------------------------------------------------------------------------------------------


def test_options_are_checked(open_at: Opener) -> None:
    with pytest.raises(InvalidInput, match="index_type.*got colour"):
        open_at(colour="red")
    wrong: list[dict[str, Any]] = [
        {"token": "x"}, {"db_name": "x"}, {"num_shards": 2}, {"tls": {"ca_pem_path": "x"}},
        {"timeout": 0}, {"timeout": "1"}, {"lock_timeout": -1}, {"index_params": 3}, {"index_type": 3},
        {"coarse_quantization": "int4"}, {"coarse_quantization": "sq8", "index_type": "FLAT"},
        {"index_type": "DISKANN"},
    ]  # fmt: skip
    for options in wrong:
        with pytest.raises(InvalidInput, match=next(iter(options))):
            open_at(**options)
    for options in ({"num_shards": 0}, {"replica_number": True}, {"user": "me"}):
        with pytest.raises(InvalidInput, match=next(iter(options))):
            open_at("milvus+http://127.0.0.1:1", **options)


def test_options_reach_the_client(open_at: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    class Client:
        def __init__(self, uri: str, **arguments: Any) -> None:
            seen.append({"uri": uri, **arguments})

        def get_server_version(self, timeout: float) -> str:
            return "2.6.0"

        def close(self) -> None:
            pass

    monkeypatch.setattr("mrl_adapters._milvus_client.MilvusClient", Client)
    monkeypatch.setenv("MILVUS_TOKEN", "from-the-environment")
    for options in (
        {"token": "given", "db_name": "shop", "timeout": 5, "tls": {"ca_pem_path": "/ca"}},
        {"user": "me", "password": "secret"},
        {},
    ):
        one = open_at("milvus+https://host:1234", **options)
        assert not one._connection.lite
    common = {"uri": "https://host:1234", "dedicated": True}
    assert seen == [
        {**common, "timeout": 5, "token": "given", "db_name": "shop", "ca_pem_path": "/ca"},
        {**common, "timeout": 60.0, "token": "me:secret"},
        {**common, "timeout": 60.0, "token": "from-the-environment"},
    ]


def test_search_params_reach_the_index(open_at: Opener) -> None:
    found = []
    made = open_at(index_type="IVF_FLAT", index_params={"nlist": 64})
    made.write_manifest(MANIFEST, None)
    full = vectors(1500)
    made.upsert(batch([Row(str(i), None, {}, vector) for i, vector in enumerate(full)]))
    queries = prefix(vectors(20, seed=5), COARSE)
    ids, _ = zip(*exact_search(queries, prefix(full, COARSE), [str(i) for i in range(1500)], 10), strict=True)
    indexed(made, open_at)
    for nprobe in (1, 64):
        one = open_at(search_params={"nprobe": nprobe})
        answers = one.coarse_search(queries, 10, None)
        found.append(np.mean([len(set(a) & set(b.ids)) for a, b in zip(ids, answers, strict=True)]))
    assert found[0] < 9 and found[1] == 10


def test_what_is_declared(open_at: Opener) -> None:
    flat, graph = open_at(), open_at(index_type="hnsw")
    assert not flat.capabilities.approximate_coarse and flat.capabilities.exact_search
    assert graph.capabilities.approximate_coarse and graph.capabilities.quantization == {"sq8"}
    graph.write_manifest(MANIFEST, None)
    flat.count()
    assert flat.capabilities.approximate_coarse  # it was made with a graph
    with pytest.raises(CollectionMismatchError, match=r"type HNSW, asked for IVF_FLAT"):
        open_at(index_type="IVF_FLAT").read_manifest()
    assert open_at(index_type="HNSW").read_manifest() == MANIFEST


@pytest.mark.parametrize(
    "options",
    [
        {"index_type": "IVF_FLAT", "index_params": {"nlist": 16}, "search_params": {"nprobe": 16}},
        {"coarse_quantization": "sq8"},
        {"coarse_quantization": "sq8", "index_type": "IVF_FLAT", "index_params": {"nlist": 16}},
        {"index_type": "AUTOINDEX"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_every_index_finds_nearly_all(open_at: Opener, options: dict[str, Any]) -> None:
    one = open_at(**options)
    one.write_manifest(MANIFEST, None)
    full = vectors(1500)
    one.upsert(batch([Row(str(i), None, {"even": i % 2 == 0}, vector) for i, vector in enumerate(full)]))
    one = indexed(one, open_at)
    queries = prefix(vectors(20, seed=5), COARSE)
    truth = exact_search(queries, prefix(full, COARSE), [str(i) for i in range(1500)], 50)
    if "index_params" in options:
        assert '"nlist": 16' in json.dumps(client_of(one).describe_index("mrl_default", "coarse")).replace('"16"', "16")
    found = one.coarse_search(queries, 50, None)
    shares = [len(set(a) & set(b.ids)) / 50 for (a, _), b in zip(truth, found, strict=True)]
    assert np.mean(shares) > 0.9
    # Whatever the index misses, as many come back as there are.
    assert all(len(one.coarse_search(queries[:1], limit, None)[0].ids) == limit for limit in (1000, 1500))
    even = one.coarse_search(queries[:1], 2000, parse_filter({"even": True}))[0]
    assert len(set(even.ids)) == 750 and all(int(id) % 2 == 0 for id in even.ids)


# -- the collection ------------------------------------------------------------------------------------------

NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", fullmatch=True)


@given(NAMES, NAMES)
def test_names_are_escaped_without_loss(one: str, other: str) -> None:
    assert re.fullmatch(r"mrl_[A-Za-z0-9_]+", _escaped(one)) and len(_escaped(one)) < 255
    assert _unescaped(_escaped(one)) == one and (_escaped(one) == _escaped(other)) == (one == other)


def test_collections_of_others_are_left_alone(backend: MilvusBackend, open_at: Opener, tmp_path: Path) -> None:
    client = client_of(backend)
    client.create_collection("theirs", dimension=4)
    client.create_collection("mrl_mine", dimension=4)
    assert backend.collections() == ["default"]
    mine = open_at(f"milvus:{tmp_path}/kb?collection=mine")
    for call in (mine.read_manifest, mine.drop, lambda: mine.write_manifest(MANIFEST, None)):
        with pytest.raises(NotACollection, match="mrl_mine"):
            call()
    assert sorted(client.list_collections()) == ["mrl_default", "mrl_mine", "theirs"]


def test_of_many_who_make_a_collection_one_wins(open_at: Opener) -> None:
    backends = [open_at() for _ in range(8)]
    manifests = [replace(MANIFEST, collection_id=str(i)) for i in range(8)]

    def make(i: int) -> bool:
        try:
            backends[i].write_manifest(manifests[i], None)
        except ConflictError:
            return False
        return True

    with futures.ThreadPoolExecutor(8) as pool:
        won = list(pool.map(make, range(8)))
    assert sum(won) == 1 and backends[0].read_manifest() == manifests[won.index(True)]


def test_a_creation_that_was_interrupted_is_finished(open_at: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    one = open_at(index_type="HNSW")
    made = one._collections._schema(MANIFEST)
    client_of(one).create_collection(
        "mrl_default",
        schema=made,
        properties={"mrl_manifest": MANIFEST.dumps(), "mrl_index": '{"index_type": "HNSW", "params": {"M": 8}}'},
    )
    assert one.read_manifest() == MANIFEST
    assert sorted(client_of(one).list_indexes("mrl_default")) == ["coarse", "full"]
    one.upsert(batch(rows(3)))
    assert one.count() == 3


def test_a_creation_that_fails_leaves_nothing(backend: MilvusBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    backend.drop()
    call = backend._connection.call

    def refuse(doing: str, method: str, **arguments: Any) -> Any:
        if method == "create_index":
            raise BackendError("out of memory")
        return call(doing, method, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(backend._connection, "call", refuse)
        with pytest.raises(BackendError, match="out of memory"):
            client_of(backend)
            backend.write_manifest(MANIFEST, None)
    assert backend.read_manifest() is None
    backend.write_manifest(MANIFEST, None)
    assert backend.collections() == ["default"]


def test_a_large_manifest(backend: MilvusBackend, open_at: Opener) -> None:
    many = normalize(np.random.default_rng(0).normal(size=(6, DIM)))
    large = replace(MANIFEST, canaries=Canaries(many, many), plan={"note": "ünï\x00\"'\\\n" * 20_000})
    backend.write_manifest(large, MANIFEST)
    backend.close()
    read = open_at().read_manifest()
    assert read is not None and read.checksum == large.checksum


def test_a_dropped_folder_is_freed(backend: MilvusBackend, tmp_path: Path) -> None:
    backend.upsert(batch(rows(2000)))
    backend.flush()
    backend.drop()
    assert list((tmp_path / "kb" / "collections").iterdir()) == []


# -- rows ----------------------------------------------------------------------------------------------------


def test_rows_of_any_size(backend: MilvusBackend, open_at: Opener) -> None:
    text = "".join(random.Random(1).choices("aé漢🎉\x00\n\"'\\ ", k=800_000))
    assert len(text.encode()) > 1_000_000
    metadata = {"blob": text[:200_000], "list": list(range(3000)), "deep": {str(i): [i] for i in range(500)}}
    id = "🎉" * 50_000
    given = [Row(id, text, metadata, vectors(1)[0]), Row("empty", "", {}, None), Row("none", None, {}, None)]
    backend.upsert(batch(given))
    for one in (backend, open_at()):
        read = one.get([id, "empty", "none"], vectors=True)
        assert [row and (row.id, row.document, row.metadata) for row in read] == [
            (row.id, row.document, row.metadata) for row in given
        ]
        assert read[0] is not None and read[0].vector is not None and np.array_equal(read[0].vector, given[0].vector)
        assert one.coarse_search(prefix(vectors(1), COARSE), 5, None)[0].ids == [id]
        one.flush()
    assert backend.delete([id]) == 1 and backend.count() == 2


def test_a_call_is_split_by_size(backend: MilvusBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    write = backend._write
    monkeypatch.setattr(backend, "_write", lambda part: (sizes.append(len(part)), write(part)))
    backend.upsert(batch([Row(str(i), "x" * 1_500_000, {}, None) for i in range(5)]))
    assert len(sizes) >= 2 and sum(sizes) == 5 == backend.count()


def test_one_component(open_at: Opener) -> None:
    one = open_at()
    one.write_manifest(Manifest(dim=1, coarse_dims=1, fine_dims=1), None)
    plus, minus = np.ones((1, 1), np.float32), -np.ones((1, 1), np.float32)
    both = np.concatenate([plus, minus])
    one.upsert(RowBatch(["p", "m"], [None, None], [{}, {}], both, np.ones(2, np.bool_)))
    for search in (one.coarse_search, one.exact_search):
        found = search(plus, 5, None)[0]
        assert found.ids == ["p", "m"] and found.scores.tolist() == [1, -1]
    assert one.fetch_vectors(["m"])[0].tolist() == [[-1]]
    assert [row.vector.tolist() for page in one.scan(vectors=True) for row in page.rows()] == [[-1], [1]]


def test_beyond_what_milvus_gives_at_once(backend: MilvusBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    given = rows(300)
    given[7] = replace(given[7], vector=None)
    given.append(Row("ö hashed", None, {}, vectors(1, seed=9)[0]))
    backend.upsert(batch(given))
    kept = [row for row in given if row.vector is not None]
    full = np.array([row.vector for row in kept])
    queries = vectors(3, seed=4)
    truth = exact_search(queries, full, [row.id for row in kept], 1000)
    monkeypatch.setattr(milvus, "_MOST_RESULTS", 100)
    monkeypatch.setattr(milvus, "_KEYS_PER_CALL", 90)
    monkeypatch.setattr(milvus, "_RESULTS_PER_CALL", 150)
    for limit in (99, 100, 101, 299, 300, 10**9):
        for (ids, scores), found in zip(truth, backend.exact_search(queries, limit, None), strict=True):
            assert found.ids == ids[:limit]
            np.testing.assert_allclose(found.scores, scores[:limit], atol=1e-6)
    few = backend.exact_search(queries, 10**9, parse_filter({"i": {"$lt": 50}}))
    assert [len(found.ids) for found in few] == [49] * 3
    listed = backend.exact_search(queries, 10**9, IdIn(frozenset(row.id for row in kept)))
    assert [found.ids for found in listed] == [ids for ids, _ in truth]
    assert sum(len(page) for page in backend.scan()) == 301 == backend.count()


def test_upserts_and_deletes_across_flushes(backend: MilvusBackend) -> None:
    """Memory, disk and compaction agree on the newest version of a row."""
    rng, truth = random.Random(3), dict[str, int]()
    for round in range(14):
        chosen = rng.sample(range(400), 150)
        made = vectors(150, seed=round)
        backend.upsert(batch([Row(str(i), str(round), {"round": round}, v) for i, v in zip(chosen, made, strict=True)]))
        truth |= {str(i): round for i in chosen}
        gone = [str(i) for i in rng.sample(range(400), 40)]
        assert backend.delete(gone) == len([truth.pop(id) for id in gone if id in truth])
        if rng.random() < 0.6:
            backend.flush()
        assert backend.count() == len(truth)
        seen = {row.id: int(row.document or "") for page in backend.scan(vectors=True) for row in page.rows()}
        assert seen == truth
        found = backend.coarse_search(prefix(made[:1], COARSE), 1000, None)[0]
        assert sorted(found.ids) == sorted(truth)
        assert ids_of(backend, {"round": round}) == {id for id, r in truth.items() if r == round}


def test_readers_and_writers_in_many_threads(backend: MilvusBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milvus, "_FLUSH_AT", 50)
    fixed = rows(40)
    backend.upsert(batch(fixed))
    gone: set[str] = set()
    stop, failures = threading.Event(), list[BaseException]()

    def look() -> None:
        try:
            while not stop.is_set():
                before = set(gone)
                found = backend.coarse_search(prefix(vectors(1, seed=2), COARSE), 1000, None)[0]
                assert len(set(found.ids)) == len(found.ids)
                assert {row.id for row in fixed} <= set(found.ids) and not before & set(found.ids)
                assert all(row is not None for row in backend.get([row.id for row in fixed]))
        except BaseException as error:
            failures.append(error)

    def write(who: int) -> None:
        try:
            for round in range(6):
                new = [replace(row, id=f"{who}-{round}-{row.id}") for row in rows(20, seed=round)]
                backend.upsert(batch(new))
                assert backend.delete([row.id for row in new]) == 20
                gone.update(row.id for row in new)
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=look) for _ in range(6)]
    writers = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    if failures:
        raise failures[0]
    assert backend.count() == 40


# -- ids, filters and hostile strings ------------------------------------------------------------------------

HOSTILE = [
    '" or pk != "', "'] or true or pk in ['", "\\", '\\"', "%", "_", "a%b_c", "{x}", "{ids}", "$meta", 'terms like "%"',
    "a\x00b", "\n", "]", "~aaaa", "pk", "null", "true", "1", "1.0", "\u202e", "é", "e\u0301", "漢字🎉",
]  # fmt: skip
texts = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
keys = st.one_of(st.sampled_from(["a", "b"]), texts)
EXPRESSION = re.compile(r'"[A-Za-z0-9_.:~%-]*"')


@given(texts.filter(bool), texts.filter(bool))
def test_keys_are_harmless_and_their_own(one: str, other: str) -> None:
    key = _milvus_rows.key_of(one)
    assert re.fullmatch(r"[A-Za-z0-9_.:~-]{1,101}", key)
    assert (key == _milvus_rows.key_of(other)) == (one == other)
    assert _milvus_rows.is_hashed(key) == (key != one)


@given(keys.filter(lambda key: key and "." not in key and not key.startswith("$")), values, st.booleans())
def test_no_byte_of_a_users_is_in_an_expression(key: str, value: Any, listed: bool) -> None:
    for op in ("$eq", "$in", "$contains", "$all", "$gt", "$lte"):
        try:
            tree = parse_filter({key: {op: [value] if op in ("$in", "$all") else value}})
        except FilterError:
            continue
        if tree is not None and _milvus_filters.can_compile(tree):
            rest = EXPRESSION.sub("", _milvus_filters.compile_filter(tree, listed))
            rest = re.sub(r"n_[a-z2-7]{24} [<>]=? -?[0-9.e+-]+", "", rest)
            assert not re.sub(r"terms|like|array_contains|and|or|not|[() ,]", "", rest), rest


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusBackend]:
    with open_backend(f"milvus:{tmp_path_factory.mktemp('hostile')}/kb") as one:
        assert isinstance(one, MilvusBackend)
        one.write_manifest(MANIFEST, None)
        yield one


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(texts.filter(bool), st.dictionaries(keys, values, max_size=3)), min_size=1, max_size=6),
    st.data(),
)
def test_hostile_strings_are_only_strings(
    hostile: MilvusBackend, given_rows: list[tuple[str, dict[str, Any]]], data: st.DataObject
) -> None:
    stored = dict(given_rows)
    hostile.delete([id for page in hostile.scan() for id in page.ids])
    hostile.upsert(
        batch(
            [Row(id, id, metadata, v) for (id, metadata), v in zip(stored.items(), vectors(len(stored)), strict=True)]
        )
    )
    assert {row.id: row.metadata for page in hostile.scan() for row in page.rows()} == stored
    found = hostile.coarse_search(prefix(vectors(1), COARSE), 50, None)[0]
    assert sorted(found.ids) == sorted(stored)
    some = data.draw(st.sampled_from(sorted(stored)))
    assert hostile.count(IdIn(frozenset([some, "nobody"]))) == 1
    for key, value in stored[some].items():
        if not key or "." in key or key.startswith("$"):
            continue
        for op in ("$eq", "$ne", "$contains", "$gt"):
            try:
                tree = parse_filter({key: {op: value}})
                expected = {id for id, metadata in stored.items() if matches(tree, id, metadata)}
            except FilterError:
                continue
            assert {id for page in hostile.scan(tree) for id in page.ids} == expected, (key, op, value)


def test_more_terms_than_a_row_can_hold(backend: MilvusBackend, open_at: Opener) -> None:
    backend.upsert(batch([Row("small", None, {"tags": [1, 2], "n": 1}, vectors(1)[0])]))
    assert backend.can_filter(parse_filter({"n": 1}) or IdIn(frozenset()))
    assert not backend._collections.has_too_many_terms()
    many = {"tags": list(range(_milvus_filters.MOST_TERMS + 1)), "n": 2}
    backend.upsert(batch([Row("large", None, many, vectors(2)[1])]))
    for one in (backend, open_at()):
        assert ids_of(one, {"tags": {"$contains": 2}}) == {"small", "large"}
        assert ids_of(one, {"tags": {"$contains": 2000}}) == {"large"} == ids_of(one, {"n": {"$gt": 1}})
        assert one.count(parse_filter({"n": {"$lt": 2}})) == 1
        with pytest.raises(FilterError, match="'n'"):
            one.count(parse_filter({"n": {"$gt": "x"}}))
        (row,) = one.get(["large"])
        assert row is not None and row.metadata == many


@pytest.mark.parametrize("flush", [False, True])
def test_numbers_of_an_older_version_are_forgotten(backend: MilvusBackend, flush: bool) -> None:
    for metadata, above, below in (
        ({"n": 5}, {"x"}, set()),
        ({"n": None}, set(), set()),
        ({}, set(), set()),
        ({"n": -5.5}, set(), {"x"}),
        ({"m": 5}, set(), set()),
    ):
        backend.upsert(batch([Row("x", None, metadata, vectors(1)[0])]))
        if flush:
            backend.flush()
        assert (ids_of(backend, {"n": {"$gt": 0}}), ids_of(backend, {"n": {"$lt": 0}})) == (above, below)


def test_order_of_awkward_numbers(backend: MilvusBackend) -> None:
    numbers = [0, -0.0, 0.1, -3.25, 5e-324, 1e300, -1e300, 2**53, 2**53 + 1, -(2**63), 2**63 - 1, 1.5, 2, None]
    backend.upsert(batch([Row(str(i), None, {"n": n}, None) for i, n in enumerate(numbers)]))
    for operand in [0, 0.1, -3.25, 5e-324, 1.5, 2.0, 2**53, -(2**53), 1e300, 123456789.125]:
        for op in ("$gt", "$gte", "$lt", "$lte"):
            for condition in ({"n": {op: operand}}, {"$not": {"n": {op: operand}}}):
                tree = parse_filter(condition)
                expected = {str(i) for i, n in enumerate(numbers) if matches(tree, str(i), {"n": n})}
                assert ids_of(backend, condition) == expected, condition


# -- servers and failures ------------------------------------------------------------------------------------


def test_a_server_that_is_down(open_at: Opener) -> None:
    one = open_at(f"milvus+http://127.0.0.1:{free_port()}", timeout=1, token="very-secret")
    for call in (one.read_manifest, one.collections, one.count):
        with pytest.raises(BackendUnavailable, match="cannot be reached") as caught:
            call()
        assert "very-secret" not in str(caught.value)


def test_a_server_that_does_not_answer(open_at: Opener) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        one = open_at(f"milvus+http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.5)
        with pytest.raises(BackendUnavailable, match=r"0\.5 s"):
            one.read_manifest()


class Refusing(milvus_pb2_grpc.MilvusServiceServicer):
    """Knows nobody."""

    def Connect(self, request: Any, context: grpc.ServicerContext) -> None:
        told = dict(context.invocation_metadata()).get("authorization", "")
        context.abort(grpc.StatusCode.UNAUTHENTICATED, f"auth check failure, please check {told} api key is correct")


def test_a_wrong_token(open_at: Opener) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    milvus_pb2_grpc.add_MilvusServiceServicer_to_server(Refusing(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        one = open_at(f"milvus+http://127.0.0.1:{port}", token="very-secret", timeout=2)
        with pytest.raises(BackendError, match="refuses the credentials.*MILVUS_TOKEN") as caught:
            one.read_manifest()
        assert not isinstance(caught.value, BackendUnavailable)
        assert "very-secret" not in str(caught.value) + repr(one._options)
    finally:
        server.stop(0).wait()


def test_a_server_that_is_restarted(open_at: Opener, tmp_path: Path) -> None:
    port = free_port()
    with run_milvus(tmp_path, port) as url:
        one = open_at(f"milvus+{url}", timeout=3)
        assert one.capabilities.persistent
        one.write_manifest(MANIFEST, None)
        one.upsert(batch(rows(5)))
    with pytest.raises(BackendUnavailable):
        one.count()
    with run_milvus(tmp_path, port):
        assert one.count() == 5
        one.upsert(batch(rows(5, start=5)))
        assert len(one.coarse_search(prefix(vectors(1), COARSE), 20, None)[0].ids) == 10
        one.drop()


def test_a_collection_that_somebody_released(backend: MilvusBackend) -> None:
    backend.upsert(batch(rows(5)))
    client_of(backend).release_collection("mrl_default")
    assert backend.count() == 5
    client_of(backend).release_collection("mrl_default")
    assert len(backend.coarse_search(prefix(vectors(1), COARSE), 20, None)[0].ids) == 5


def test_a_refusal_has_milvus_own_words_and_no_noise(
    backend: MilvusBackend, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(BackendError, match=r"(?s)code 6.*unterminated string") as caught:
        backend._query("counting", 'pk == "', ["pk"])
    assert not caplog.records and type(caught.value) is BackendError
    with pytest.raises(BackendError, match="closed"):
        backend.close()
        backend.get(["a"])


WRITER = """
    import sys
    sys.path.insert(0, sys.argv[3])
    from mrl_retrieval.registry import open_backend
    from tests.test_milvus_backend import crash_batch
    number = int(sys.argv[2])
    one = open_backend(sys.argv[1])
    one.read_manifest()
    print("ready", flush=True)
    while True:
        one.upsert(crash_batch(number, 0))
        print("in", number, flush=True)
        if number % 3 == 2:
            one.upsert(crash_batch(number - 1, 1))
            print("again", number - 1, flush=True)
            one.delete([f"{number - 2}-0"])
            print("gone", number - 2, flush=True)
        if number % 4 == 0:
            one.flush()
        number += 1
"""


def crash_batch(number: int, version: int) -> RowBatch:
    made = vectors(7, seed=number * 2 + version)
    return batch(
        [
            Row(f"{number}-{i}", f"{number}-{i} v{version}", {"batch": number, "version": version}, made[i])
            for i in range(7)
        ]
    )


def test_a_writer_that_is_killed(backend: MilvusBackend, open_at: Opener, tmp_path: Path) -> None:
    """Whatever was acknowledged is there and found; a batch is there whole or not at all, and nothing twice."""
    backend.close()
    rng, said, number = random.Random(8), list[tuple[str, int]](), 0
    for _ in range(int(os.environ.get("MRL_CRASHES", "4"))):
        root = str(Path(__file__).parent.parent)
        process = run(WRITER, f"milvus:{tmp_path}/kb", str(number), root, stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        lines = [process.stdout.readline() for _ in range(rng.randrange(1, 25))]
        time.sleep(rng.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        lines += [line for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        process.stdout.close()
        process.wait()
        said += [(word, int(n)) for word, n in map(str.split, lines)]
        number = max(n for _, n in said) + 3
        _check_after_crash(open_at(), said)
    assert len(said) > 20


def _check_after_crash(one: MilvusBackend, said: list[tuple[str, int]]) -> None:
    listed = [row for page in one.scan(vectors=True) for row in page.rows()]
    stored = {row.id: row for row in listed}
    assert len(stored) == len(listed) == one.count()
    versions: dict[int, list[int]] = {}
    for row in listed:
        n, version = row.metadata["batch"], row.metadata["version"]
        made = dict(zip((made := crash_batch(n, version)).ids, made.rows(), strict=True))[row.id]
        assert row.document == made.document and row.vector is not None and np.array_equal(row.vector, made.vector)
        versions.setdefault(n, []).append(version)
    assert all(len(set(found)) == 1 and len(found) in (6, 7) for found in versions.values())
    for word, n in said:
        assert word == "gone" or n in versions
        if word == "again":
            assert versions[n] == [1] * 7
        if word == "gone":
            assert f"{n}-0" not in stored
    found = one.coarse_search(prefix(vectors(1), COARSE), 16_000, None)[0]
    assert sorted(found.ids) == sorted(stored)
    one.close()
