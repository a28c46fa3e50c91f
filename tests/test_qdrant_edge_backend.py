"""What is special to the qdrant-edge backend: folder and locks, crashes, the index, quantization, errors."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdrant_edge
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrl_adapters import _qdrant_edge_shard
from mrl_adapters._qdrant_filters import point_id
from mrl_adapters.qdrant_edge import QdrantEdgeBackend
from mrl_retrieval.backend import Backend
from mrl_retrieval.documents import Row
from mrl_retrieval.errors import (
    AddressError,
    BackendError,
    CollectionNotFound,
    ConflictError,
    InvalidInput,
    LockTimeout,
    ManifestError,
    NewerFormatError,
    NotACollection,
)
from mrl_retrieval.filters import IdIn, parse_filter
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import normalize, prefix
from mrl_retrieval.registry import open_backend
from mrl_retrieval.scoring import exact_search
from mrl_retrieval.testing.base import clustered
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.test_qdrant_backend import (
    COARSE,
    DIM,
    batch_of,
    check_filter,
    filter_dicts,
    manifest,
    metadatas,
    queries,
    random_rows,
)

TWO_STAGES = (Stage(COARSE, 200), Stage(DIM, 5))


@contextmanager
def filled(address: str = "qdrant-edge:", n: int = 0, **options: Any) -> Iterator[QdrantEdgeBackend]:
    backend = open_backend(address, **options)
    assert isinstance(backend, QdrantEdgeBackend)
    with backend:
        if backend.read_manifest() is None:
            backend.write_manifest(manifest((12,)), None)
        if n:
            backend.upsert(batch_of(random_rows(n)))
        yield backend


# -- search and filters ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reused() -> Iterator[QdrantEdgeBackend]:
    with filled() as backend:
        yield backend


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(metadatas, min_size=1, max_size=6), st.lists(filter_dicts, min_size=1, max_size=4))
def test_filters_mean_what_the_core_says(
    reused: QdrantEdgeBackend, metadata: list[dict[str, Any]], asked: list[dict[str, Any]]
) -> None:
    vectors = queries(len(metadata), seed=1)
    rows = [Row(str(i), None, m, vectors[i] if i % 3 else None) for i, m in enumerate(metadata)]
    reused.delete([str(i) for i in range(6)])
    reused.upsert(batch_of(rows))
    assert [row and row.metadata for row in reused.get([r.id for r in rows])] == metadata
    for each in asked:
        check_filter(reused, parse_filter(each), rows)


def test_a_funnel_is_one_call_and_equals_the_core_s(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_rows(300)
    stages = (Stage(COARSE, 40), Stage(12, 15), Stage(DIM, 7))
    with filled() as backend, open_backend("memory:") as memory:
        memory.write_manifest(manifest((12,)), None)
        for each in (backend, memory):
            each.upsert(batch_of(rows))
        doing: list[str] = []
        run = backend._run
        monkeypatch.setattr(backend, "_run", lambda what, action: (doing.append(what), run(what, action))[1])
        for asked in (None, parse_filter({"third": True}), IdIn(frozenset(row.id for row in rows[::7]))):
            doing.clear()
            request = SearchRequest(queries(5), stages, asked)
            found = backend.search(request)
            assert doing == ["searching"]
            for ours, oracle in zip(found, memory.search(request), strict=True):
                assert [row.id for row in ours.rows] == [row.id for row in oracle.rows]
                np.testing.assert_allclose(ours.scores, oracle.scores, atol=1e-5)


@pytest.fixture
def indexes_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph and quantised vectors from a few hundred rows on, where the engine would wait for megabytes."""
    optimizers = qdrant_edge.EdgeOptimizersConfig(indexing_threshold=100)
    graph = qdrant_edge.HnswIndexConfig(16, 100, 10)
    make = qdrant_edge.EdgeConfig
    monkeypatch.setattr(
        qdrant_edge, "EdgeConfig", lambda **known: make(**known, optimizers=optimizers, hnsw_config=graph)
    )


@pytest.mark.usefixtures("indexes_early")
@pytest.mark.parametrize(("kind", "least"), [("none", 0.99), ("scalar", 0.99), ("turbo", 0.99), ("binary", 0.8)])
def test_searches_are_right_before_and_after_indexing(kind: str, least: float, tmp_path: Path) -> None:
    dim, short, n = 96, 32, 2000
    vectors = normalize(clustered(n, dim, seed=3))
    ids = [f"id-{i}" for i in range(n)]
    asked = normalize(clustered(20, dim, seed=4))
    rows = [Row(id, None, {"even": i % 2 == 0, "rare": i % 500 == 3}, vectors[i]) for i, id in enumerate(ids)]
    address = f"qdrant-edge:{tmp_path}/kb"

    def check(backend: Backend, kept: list[int]) -> None:
        names, matrix = [ids[i] for i in kept], vectors[kept]
        truth = exact_search(asked, matrix, names, 50, dim=short)
        found = backend.coarse_search(prefix(asked, short), 50, None)
        shares = [len(set(one.ids) & set(best)) / 50 for one, (best, _) in zip(found, truth, strict=True)]
        assert np.mean(shares) >= least
        best = exact_search(asked, matrix, names, 10)
        for stages in ((Stage(short, len(kept)), Stage(dim, 10)), (Stage(dim, 10),)):
            for ranking, (right, scores) in zip(backend.search(SearchRequest(asked, stages)), best, strict=True):
                assert [row.id for row in ranking.rows] == right
                np.testing.assert_allclose(ranking.scores, scores, atol=1e-5)
        for field, matching in (("even", [i for i in kept if i % 2 == 0]), ("rare", [i for i in kept if i % 500 == 3])):
            request = SearchRequest(asked, (Stage(short, 10), Stage(dim, 10)), parse_filter({field: True}))
            for ranking in backend.search(request):
                assert len(ranking.rows) == min(10, len(matching))
                assert {int(row.id[3:]) for row in ranking.rows} <= set(matching)

    everything = list(range(n))
    kept = [i for i in everything if i % 5]
    with open_backend(address, coarse_quantization=kind) as backend:
        backend.write_manifest(Manifest(dim=dim, coarse_dims=short, fine_dims=dim), None)
        backend.upsert(batch_of(rows, dim))
        assert backend.stats().details["indexed_vectors"] == 0
        check(backend, everything)
        backend.flush()
        assert backend.stats().details["indexed_vectors"] > 0
        check(backend, everything)
        assert backend.delete(ids[::5]) == n // 5
        check(backend, kept)
        backend.flush()
        check(backend, kept)
    with open_backend(address) as again:
        assert again.read_manifest() is not None
        assert again.stats().details["coarse_quantization"] == kind
        check(again, kept)


def test_many_new_rows_are_indexed_by_the_write_that_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_qdrant_edge_shard, "_UNINDEXED", 100)
    calls: list[int] = []
    optimize = _qdrant_edge_shard.SharedShard._optimize
    monkeypatch.setattr(
        _qdrant_edge_shard.SharedShard, "_optimize", lambda self, shard: (calls.append(1), optimize(self, shard))[1]
    )
    rows = random_rows(400)
    with filled() as backend:
        for start in (0, 60, 120, 180, 240, 300, 360):  # 120, and then as many again
            backend.upsert(batch_of(rows[start : start + 60]))
        assert len(calls) == 2
        assert backend.count() == 400
    assert len(calls) == 2  # too few new ones to make closing slow


def test_threads_write_search_and_index_at_once(tmp_path: Path) -> None:
    rows = random_rows(600)
    failures: list[BaseException] = []
    with filled(f"qdrant-edge:{tmp_path}/kb") as backend:

        def work(part: int) -> None:
            try:
                mine = rows[part * 100 : part * 100 + 100]
                backend.upsert(batch_of(mine))
                for _ in range(5):
                    found = backend.search(SearchRequest(queries(2), TWO_STAGES))
                    assert all(len(ranking.rows) == 5 for ranking in found)
                    if part == 0:
                        backend.flush()
                assert backend.delete([mine[0].id]) == 1
            except BaseException as error:  # handed to the main thread
                failures.append(error)

        threads = [threading.Thread(target=work, args=(part,)) for part in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert backend.count() == 594


# -- the folder --------------------------------------------------------------------------------------------


def test_opening_creates_nothing_and_takes_no_lock(tmp_path: Path) -> None:
    place = tmp_path / "kb"
    with open_backend(f"qdrant-edge:{place}") as backend:
        assert backend.read_manifest() is None
        assert backend.collections() == []
        backend.drop()
        backend.flush()
        with pytest.raises(CollectionNotFound):
            backend.count()
    assert not place.exists()


def test_a_temporary_collection_is_gone_after_closing() -> None:
    with filled(n=3) as one, filled(n=5) as other:
        assert (one.count(), other.count()) == (3, 5)
        place = one._place
        assert place is not None and place.exists()
    assert not place.exists()
    with pytest.raises(BackendError, match="was closed"):
        one.count()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(NotACollection, match="did not make it"):
        open_backend(f"qdrant-edge:{tmp_path}")
    with pytest.raises(NotACollection):
        open_backend(f"qdrant-edge:{tmp_path}/thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    for said, kind in (
        ("{}", NotACollection),
        ("[1", NotACollection),
        ('{"format": "mrl-qdrant-edge", "version": 2}', NewerFormatError),
    ):
        (tmp_path / "mrl-qdrant-edge.json").write_text(said)
        with pytest.raises(kind):
            open_backend(f"qdrant-edge:{tmp_path}")


def test_files_of_somebody_else_are_not_dropped(tmp_path: Path) -> None:
    with filled(f"qdrant-edge:{tmp_path}/kb", 3) as backend:
        (tmp_path / "kb" / "default" / "notes.txt").write_text("mine")
        with pytest.raises(NotACollection, match=r"notes\.txt"):
            backend.drop()
        assert backend.count() == 3
        (tmp_path / "kb" / "mine").mkdir()
        (tmp_path / "kb" / "mine" / "x").write_text("")
        assert backend.collections() == ["default"]
        with open_backend(f"qdrant-edge:{tmp_path}/kb?collection=mine") as other:
            for call in (other.read_manifest, lambda: other.write_manifest(manifest(), None), other.drop):
                with pytest.raises(NotACollection):
                    call()
    assert (tmp_path / "kb" / "mine" / "x").exists()


def test_how_it_lies_in_the_folder(tmp_path: Path) -> None:
    """The documented layout, read with Qdrant's own library."""
    meta = {"year": 2020, "by": {"name": "Ada"}}
    with filled(f"qdrant-edge:{tmp_path}/kb?collection=notes", index_fields={"year": "integer"}) as backend:
        backend.upsert(batch_of([Row("doc-1", "text", meta, queries(1)[0]), Row("doc-2", None, {}, None)]))
    place = tmp_path / "kb"
    assert {path.name for path in place.iterdir()} == {"mrl-qdrant-edge.json", "notes"}
    assert {path.name for path in (place / "notes").iterdir()} == {"collection.json", "lock", "shard"}
    shard = qdrant_edge.EdgeShard.load(str(place / "notes" / "shard"))
    try:
        one, two = shard.retrieve([point_id("doc-1"), point_id("doc-2")], with_payload=True, with_vector=True)
        assert one.payload["metadata"] == meta
        np.testing.assert_allclose(one.vector["coarse"], prefix(queries(1), COARSE)[0], atol=1e-6)
        assert set(one.vector) == {"coarse", "prefix_12", "full"}
        assert not two.vector
        assert set(shard.info().payload_schema) == {"_mrl_tags", "_mrl_id", "metadata.year"}
    finally:
        shard.close()


def test_an_interrupted_creation_is_begun_again(tmp_path: Path) -> None:
    with filled(f"qdrant-edge:{tmp_path}/kb", 3):
        pass
    (tmp_path / "kb" / "default" / "collection.json").unlink()
    with open_backend(f"qdrant-edge:{tmp_path}/kb") as backend:
        assert backend.read_manifest() is None
        assert backend.collections() == []
        with pytest.raises(CollectionNotFound):
            backend.count()
        backend.write_manifest(manifest(), None)
        assert backend.count() == 0


def test_a_damaged_collection_is_a_typed_error(tmp_path: Path) -> None:
    with filled(f"qdrant-edge:{tmp_path}/kb", 50):
        pass
    folder = tmp_path / "kb" / "default"
    config = folder / "shard" / "edge_config.json"
    kept = config.read_bytes()
    config.write_bytes(kept[: len(kept) // 2])
    with open_backend(f"qdrant-edge:{tmp_path}/kb") as backend, pytest.raises(BackendError, match="opening the shard"):
        backend.count()
    config.write_bytes(kept)
    with open_backend(f"qdrant-edge:{tmp_path}/kb") as backend:
        assert backend.count() == 50
    for said in (b"", b"{}", b'{"manifest": "x", "coarse_quantization": "none"}'):
        (folder / "collection.json").write_bytes(said)
        with open_backend(f"qdrant-edge:{tmp_path}/kb") as backend, pytest.raises(ManifestError):
            backend.read_manifest()


def test_indexes_that_are_missing_are_made_by_repair(tmp_path: Path) -> None:
    with filled(f"qdrant-edge:{tmp_path}/kb", 5):
        pass
    with filled(f"qdrant-edge:{tmp_path}/kb", index_fields={"n": "integer"}) as backend:
        schema = backend._run("", lambda shard: shard.info().payload_schema)
        assert "metadata.n" not in schema
        backend.repair()
        backend.repair()
        schema = backend._run("", lambda shard: shard.info().payload_schema)
        assert schema["metadata.n"].data_type == qdrant_edge.PayloadSchemaType.Float
        assert backend.count(parse_filter({"n": {"$gte": 3}})) == 2


# -- sharing -----------------------------------------------------------------------------------------------


def test_backends_of_one_process_share_a_shard(tmp_path: Path) -> None:
    with filled(f"qdrant-edge:{tmp_path}/kb", 5) as a, filled(f"qdrant-edge:{tmp_path}/./kb") as b:
        assert (a.count(), b.count()) == (5, 5)
        b.upsert(batch_of([Row("new", None, {}, None)]))
        assert a.count() == 6
        a.close()
        assert b.count() == 6
        with pytest.raises(BackendError, match="was closed"):
            a.count()
        with filled(f"qdrant-edge:{tmp_path}/kb?collection=other", 2) as c:
            assert c.collections() == ["default", "other"]
        b.drop()
        with pytest.raises(CollectionNotFound), open_backend(f"qdrant-edge:{tmp_path}/kb") as d:
            d.count()
        b.write_manifest(manifest(), None)
        assert b.count() == 0


def test_the_manifest_is_compared_and_set(tmp_path: Path) -> None:
    first = manifest()
    with open_backend(f"qdrant-edge:{tmp_path}/kb") as a, open_backend(f"qdrant-edge:{tmp_path}/kb") as b:
        a.write_manifest(first, None)
        with pytest.raises(ConflictError):
            b.write_manifest(manifest(), None)
        planned = first.with_plan({"coarse_top_k": 7})
        b.write_manifest(planned, first)
        with pytest.raises(ConflictError):
            a.write_manifest(first.with_plan({"coarse_top_k": 8}), first)
        assert a.read_manifest() == planned


HOLDER = """
import sys
from mrl_retrieval.registry import open_backend
with open_backend(sys.argv[1]) as backend:
    backend.read_manifest()
    print(backend.count(), flush=True)
    sys.stdin.readline()
"""


def test_another_process_gets_a_clear_error(tmp_path: Path) -> None:
    address = f"qdrant-edge:{tmp_path}/kb"
    with filled(address, 3):
        pass
    process = subprocess.Popen([sys.executable, "-c", HOLDER, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"3\n"
        with open_backend(address, lock_timeout=0.1) as backend:
            assert backend.read_manifest() is not None  # looking takes no lock
            assert backend.collections() == ["default"]
            for call in (backend.count, backend.drop, lambda: backend.upsert(batch_of(random_rows(1)))):
                with pytest.raises(LockTimeout, match=rf"process {process.pid}.*one process at a time"):
                    call()
            process.communicate(b"\n", timeout=30)
            assert backend.count() == 3
    finally:
        process.kill()
        process.communicate()


def test_a_shard_that_another_program_has_open(tmp_path: Path) -> None:
    with filled(f"qdrant-edge:{tmp_path}/kb", 3):
        pass
    shard = qdrant_edge.EdgeShard.load(str(tmp_path / "kb" / "default" / "shard"))
    try:
        with open_backend(f"qdrant-edge:{tmp_path}/kb") as backend:
            with pytest.raises(LockTimeout, match="another program"):
                backend.count()
            shard.close()
            assert backend.count() == 3
    finally:
        shard.close()


FORKER = """
import os, sys
from mrl_retrieval.errors import BackendError, LockTimeout
from mrl_retrieval.registry import open_backend
backend = open_backend(sys.argv[1], lock_timeout=0.1)
backend.read_manifest()
assert backend.count() == 3
child = os.fork()
if child == 0:
    code = 1
    try:
        backend.count()
    except BackendError as error:
        code = 0 if "forked" in str(error) else 2
    try:
        with open_backend(sys.argv[1], lock_timeout=0.1) as other:
            other.count()
        code = 3
    except LockTimeout:
        pass
    backend.close()
    os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert backend.count() == 3  # and the lock is still ours
with open_backend(sys.argv[1]) as same:
    assert same.count() == 3
backend.close()
print("good")
"""


def test_a_forked_child_leaves_the_parents_shard_alone(tmp_path: Path) -> None:
    with filled(f"qdrant-edge:{tmp_path}/kb", 3):
        pass
    command = [sys.executable, "-c", FORKER, f"qdrant-edge:{tmp_path}/kb"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("good\n", 0), done.stderr


# -- crashes -----------------------------------------------------------------------------------------------

ROWS, BATCH = 600, 40

WRITER = """
import sys
from mrl_retrieval.registry import open_backend
from tests.test_qdrant_edge_backend import versioned
with open_backend(sys.argv[1]) as backend:
    backend.read_manifest()
    for number in range(int(sys.argv[2]), 10**6):
        backend.upsert(versioned(number))
        print(number, flush=True)
        if number % 6 == 5:
            backend.flush()
"""


def ids_of(number: int) -> list[int]:
    """The rows that the batch of this number writes; others of them are written again later."""
    return [(number * 23 + i) % ROWS for i in range(BATCH)]


def vector_of(id: int, number: int) -> Any:
    return queries(1, seed=id * 100_003 + number)[0]


def versioned(number: int) -> Any:
    return batch_of([Row(str(i), f"{i} of {number}", {"v": number}, vector_of(i, number)) for i in ids_of(number)])


def check_after_crash(address: str, acknowledged: dict[int, int], pending: int) -> dict[int, int]:
    """Every acknowledged row is there and searchable, none half, none twice. Returns the versions found."""
    unsure = set(ids_of(pending))
    with open_backend(address) as backend:
        batches = list(backend.scan(vectors=True, batch_size=97))
        rows = [row for batch in batches for row in batch.rows()]
        found = {int(row.id): row.metadata["v"] for row in rows}
        assert len(rows) == len(found) == backend.count() == backend.stats().vectors
        assert set(acknowledged) <= set(found) <= set(acknowledged) | unsure
        applied = {id for id in unsure if found.get(id) == pending}
        assert applied in (set(), unsure)  # a batch is there whole or not at all
        for row in rows:
            id = int(row.id)
            assert found[id] == acknowledged.get(id, pending) or id in applied
            assert row.document == f"{id} of {found[id]}"
            np.testing.assert_allclose(row.vector, vector_of(id, found[id]), atol=1e-6)
        asked = np.stack([row.vector for row in rows if row.vector is not None])
        for row, ranking in zip(
            rows, backend.search(SearchRequest(asked, (Stage(COARSE, 20), Stage(DIM, 2)))), strict=True
        ):
            assert ranking.rows[0].id == row.id and ranking.scores[0] == pytest.approx(1, abs=1e-5)
            assert len({each.id for each in ranking.rows}) == len(ranking.rows)
        for number in sorted(set(found.values()))[:5]:
            assert backend.count(parse_filter({"v": number})) == sum(v == number for v in found.values())
        for id, number in list(acknowledged.items())[:50]:  # what was overwritten is not found any more
            if found[id] == number and number >= 26:
                old = vector_of(id, number - 26)
                (ranking,) = backend.search(SearchRequest(old[None], (Stage(COARSE, 20), Stage(DIM, 1))))
                assert ranking.scores[0] < 0.9999
    return found


def test_a_writer_killed_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    address = f"qdrant-edge:{tmp_path}/kb"
    with filled(address):
        pass
    chance = random.Random(5)
    acknowledged: dict[int, int] = {}
    number = 0
    for _ in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, address, str(number)],
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent,
        )  # fmt: skip
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(chance.random() * 0.4)
        writer.send_signal(signal.SIGKILL)
        rest = writer.communicate()[0]
        lines = (first + rest).split("\n")[:-1]
        assert lines, "the writer wrote nothing"
        for line in lines:
            acknowledged.update(dict.fromkeys(ids_of(int(line)), int(line)))
        number = int(lines[-1]) + 1
        acknowledged = check_after_crash(address, acknowledged, number)
        number += 1


# -- options, errors, what is declared ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "options", "kind", "words"),
    [
        ("qdrant-edge:", {"api_key": "k"}, InvalidInput, "no option 'api_key'"),
        ("qdrant-edge:", {"coarse_quantization": "product"}, InvalidInput, "use one of 'none', 'scalar'"),
        ("qdrant-edge:", {"coarse_quantization": None}, InvalidInput, "coarse_quantization=None"),
        ("qdrant-edge:", {"oversampling": 0.5}, InvalidInput, "oversampling=0.5"),
        ("qdrant-edge:", {"hnsw_ef": 0}, InvalidInput, "hnsw_ef=0"),
        ("qdrant-edge:", {"on_disk": "yes"}, InvalidInput, "on_disk='yes'"),
        ("qdrant-edge:", {"index_fields": {"year": "int"}}, InvalidInput, "known types"),
        ("qdrant-edge+http://localhost:6333", {}, AddressError, r"use qdrant\+http://localhost:6333"),
    ],
)
def test_wrong_options(address: str, options: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        open_backend(address, **options)


def test_what_the_engine_refuses_is_ours_with_its_words() -> None:
    with filled(n=3) as backend:
        point = {"id": point_id("x"), "vector": {"full": [1.0]}, "payload": {}}
        with pytest.raises(BackendError, match="writing rows.*expected dim: 24, got 1") as caught:
            backend._upsert([point])
        assert caught.value.__cause__ is not None
        with pytest.raises(BackendError, match="searching.*nowhere"):
            backend._query_batch([{"query": [1.0], "using": "nowhere", "limit": 1, "with_payload": False}])
        assert backend.count() == 3


def test_a_panic_of_the_engine_is_an_error_of_ours(tmp_path: Path) -> None:
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(BackendError, match="index out of bounds"), _qdrant_edge_shard.engine_errors("x", tmp_path):
        raise panic("index out of bounds")
    with pytest.raises(KeyboardInterrupt), _qdrant_edge_shard.engine_errors("x", tmp_path):
        raise KeyboardInterrupt


def test_capabilities_and_stats(tmp_path: Path) -> None:
    with filled(n=4) as memory, filled(f"qdrant-edge:{tmp_path}/kb", 4) as folder:
        assert not memory.capabilities.persistent
        assert folder.capabilities.persistent
        assert folder.capabilities.server_side_funnel
        assert folder.capabilities.quantization == {"none", "scalar", "binary", "turbo"}
        folder.upsert(batch_of([Row("bare", "text", {}, None)]))
        stats = folder.stats()
        assert (stats.rows, stats.vectors) == (5, 4)
        assert stats.bytes["fine"] == 4 * 4 * (DIM + 12)
        assert stats.details["coarse_quantization"] == "none"
