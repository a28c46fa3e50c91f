"""What is special to the qdrant backend: push-down of filters, layout, local mode, server errors."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from mrl_adapters import _qdrant_client, _qdrant_points, qdrant
from mrl_adapters._qdrant_filters import NATIVE, TAGS, point_id, tags_of
from mrl_adapters.qdrant import QdrantBackend
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import (
    BackendError,
    BackendUnavailable,
    CollectionNotFound,
    ConflictError,
    CorruptionError,
    FilterError,
    InvalidInput,
    LockTimeout,
    NotACollection,
)
from mrl_retrieval.filters import OPERATORS, IdIn, matches, parse_filter
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import normalize, prefix
from mrl_retrieval.registry import open_backend
from mrl_retrieval.scoring import exact_search
from mrl_retrieval.two_stage import SearchRequest, Stage

DIM, COARSE = 24, 6


def batch_of(rows: list[Row], dim: int = DIM) -> RowBatch:
    matrix = np.zeros((len(rows), dim), dtype=np.float32)
    for i, row in enumerate(rows):
        if row.vector is not None:
            matrix[i] = row.vector
    return RowBatch(
        [r.id for r in rows],
        [r.document for r in rows],
        [r.metadata for r in rows],
        matrix,
        np.array([r.vector is not None for r in rows], dtype=np.bool_),
    )


def random_rows(n: int, *, seed: int = 0, dim: int = DIM) -> list[Row]:
    vectors = normalize(np.random.default_rng(seed).standard_normal((n, dim)))
    return [Row(f"id-{i}", f"text {i}", {"n": i, "third": i % 3 == 0}, vectors[i]) for i in range(n)]


def queries(n: int, *, seed: int = 99, dim: int = DIM) -> Any:
    return normalize(np.random.default_rng(seed).standard_normal((n, dim)))


def manifest(funnel: tuple[int, ...] = ()) -> Manifest:
    return Manifest(dim=DIM, coarse_dims=COARSE, fine_dims=DIM, funnel_dims=funnel)


@contextmanager
def filled(address: str = "qdrant:", n: int = 0, **options: Any) -> Iterator[QdrantBackend]:
    backend = open_backend(address, **options)
    assert isinstance(backend, QdrantBackend)
    with backend:
        backend.write_manifest(manifest(), None)
        if n:
            backend.upsert(batch_of(random_rows(n)))
        yield backend


# -- filters -----------------------------------------------------------------------------------------------

KEYS = ["a", "b", "key with space", "é", 'quo"te', "x[0]", "a]", "[]", "0", "_-"]
NUMBERS = [0, 1, -1, 2, 2**53, 2**53 + 1, 2**53 - 1, -(2**63), 2**63 - 1, 0.5, 1.0, -0.0, 1e300, float(2**53), 5e-324]
TEXTS = ["", "a", "A", "1", "true", "null", '"', "é", "x" * 200, "2020-01-01", "2020-01-01T00:00:00Z"]
scalars = st.one_of(st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(TEXTS))
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYS, "a.b", ""]), inner, max_size=3),
    max_leaves=6,
)
metadatas = st.dictionaries(st.sampled_from([*KEYS, "a.b", ""]), values, max_size=4)
paths = st.one_of(st.sampled_from(KEYS), st.builds("{}.{}".format, st.sampled_from(KEYS), st.sampled_from(KEYS)))
orders = st.sampled_from(["$gt", "$gte", "$lt", "$lte"])
conditions = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne", "$contains"]), values),
    st.tuples(st.sampled_from(["$in", "$nin", "$any", "$all"]), st.lists(values, max_size=3)),
    st.tuples(st.sampled_from(["$exists", "$is_empty"]), st.booleans()),
    st.tuples(st.sampled_from(["$text", "$itext"]), st.sampled_from(TEXTS)),
    st.tuples(orders, st.sampled_from(NUMBERS) | st.sampled_from(TEXTS)),
)
leaf_filters = st.builds(lambda path, condition: {path: dict([condition])}, paths, conditions)
filter_dicts = st.recursive(
    leaf_filters,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$and": parts})
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$or": parts})
        | inner.map(lambda part: {"$not": part})
    ),
    max_leaves=4,
)


def expected_ids(filter: Any, rows: list[Row]) -> set[str] | None:
    """The ids that match, None for a FilterError."""
    try:
        return {row.id for row in rows if matches(filter, row.id, row.metadata)}
    except FilterError:
        return None


def check_filter(backend: QdrantBackend, filter: Any, rows: list[Row]) -> None:
    expected = expected_ids(filter, rows)
    if expected is None:
        for call in (backend.count, lambda f: list(backend.scan(f)), backend.resolve_filter):
            with pytest.raises(FilterError):
                call(filter)
        return
    assert backend.count(filter) == len(expected)
    assert {i for batch in backend.scan(filter, documents=False) for i in batch.ids} == expected
    resolved = backend.resolve_filter(filter)
    assert (resolved is filter) == backend.can_filter(filter)
    (found,) = backend.coarse_search(queries(1, dim=COARSE), 1000, resolved)
    assert set(found.ids) == {row.id for row in rows if row.id in expected and row.vector is not None}


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(metadatas, min_size=1, max_size=6), st.lists(filter_dicts, min_size=1, max_size=4))
def test_filters_mean_what_the_core_says(metadata: list[dict[str, Any]], asked: list[dict[str, Any]]) -> None:
    vectors = queries(len(metadata), seed=1)
    rows = [Row(str(i), None, m, vectors[i] if i % 3 else None) for i, m in enumerate(metadata)]
    with filled() as backend:
        backend.upsert(batch_of(rows))
        assert [row and row.metadata for row in backend.get([r.id for r in rows])] == metadata
        for each in asked:
            check_filter(backend, parse_filter(each), rows)


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_each_operator_on_each_pair_of_values(operator: str) -> None:
    """Every operator against every kind of stored value, with every kind of operand it takes."""
    kinds = [None, True, False, 0, 1, 1.0, 1.5, "", "a", "1", [], [1], [True], [None], ["a", 1], [[1]], {}, {"k": 1}]
    operands: list[Any] = kinds
    if operator in ("$in", "$nin", "$any", "$all"):
        operands = [[], [1], [True, "a"], [None], [[1], {}], [1.0, 1.5]]
    elif operator in ("$exists", "$is_empty"):
        operands = [True, False]
    elif operator in ("$gt", "$gte", "$lt", "$lte"):
        operands = [0, 1, 1.25, -3]
    elif operator in ("$text", "$itext"):
        operands = ["", "a", "A", "1"]
    if operator in ("$gt", "$gte", "$lt", "$lte"):
        kinds = [None, 0, 1, 1.0, 1.5, -7, 2**53 + 1]
    rows = [Row(f"r{i}", None, {"v": kind, "o": {"v": kind}}, None) for i, kind in enumerate(kinds)]
    rows.append(Row("without", None, {}, None))
    with filled() as backend:
        backend.upsert(batch_of(rows))
        for operand in operands:
            for path in ("v", "o.v"):
                asked = parse_filter({path: {operator: operand}})
                check_filter(backend, asked, rows)
                check_filter(backend, parse_filter({"$not": asked}), rows)


def test_what_is_pushed_down_and_what_is_not() -> None:
    backend = open_backend("qdrant:")
    pushed = [
        {"a": 1}, {"a": {"$in": [1, "x", None]}}, {"a b.c": {"$gte": 1.5}}, {"a": {"$contains": [1]}},
        {"$or": [{"a": {"$lt": 5}}, {"$not": {"b": {"$exists": True}}}]}, {"a": {"$is_empty": False}},
    ]  # fmt: skip
    listed = [
        {"a": {"$text": "x"}}, {"a": {"$gt": "2020-01-01"}}, {"a": {"$lt": 2**53}}, {'quo"te': {"$lt": 1}},
        {"$and": [{"a": 1}, {"b": {"$itext": "x"}}]}, {".".join("a" * 17): 1},
    ]  # fmt: skip
    assert all(backend.can_filter(parse_filter(f)) for f in pushed)
    assert not any(backend.can_filter(parse_filter(f)) for f in listed)


def test_tags_tell_apart_what_could_be_confused() -> None:
    lists = [tags_of({"a": value}) for value in (1, True, "1", None, [1], [], {}, "", "true", 1.5)]
    for i, one in enumerate(lists):
        for other in lists[i + 1 :]:
            assert set(one) != set(other)
    assert tags_of({"a": 1.0}) == tags_of({"a": 1})
    assert not set(tags_of({'a="b': "c"})) & set(tags_of({"a": 'b="c'}))
    long = "y" * 10_000
    assert all(len(tag) <= 128 for tag in tags_of({long: long, "list": [long]}))


def test_metadata_deeper_than_any_parser_takes_comes_back() -> None:
    deep: Any = "bottom"
    for _ in range(60):
        deep = {"d": [deep]}
    with filled() as backend:
        backend.upsert(batch_of([Row("a", None, {"x": deep}, None)]))
        assert backend.get(["a"]) == [Row("a", None, {"x": deep})]


def test_a_list_of_many_thousand_ids() -> None:
    rows = random_rows(3000)
    allowed = frozenset(row.id for row in rows[::2])
    assert len(allowed) > qdrant._IDS_IN_LOCAL_FILTER
    with filled() as backend:
        backend.upsert(batch_of(rows))
        asked = IdIn(allowed | {"unknown"})
        assert backend.count(asked) == 1500
        assert {i for part in backend.scan(asked) for i in part.ids} == allowed
        full = np.stack([row.vector for row in rows[::2]])
        for dims, search in ((COARSE, backend.coarse_search), (DIM, backend.exact_search)):
            vectors = prefix(queries(3), dims)
            truth = exact_search(queries(3), full, sorted(allowed, key=lambda i: int(i[3:])), 20, dim=dims)
            for found, (ids, scores) in zip(search(vectors, 20, asked), truth, strict=True):
                assert found.ids == ids
                np.testing.assert_allclose(found.scores, scores, atol=1e-5)
        stages = (Stage(COARSE, 2000), Stage(DIM, 5))
        for found in backend.search(SearchRequest(queries(2), stages, asked)):
            assert len(found.rows) == 5
            assert {row.id for row in found.rows} <= allowed
        assert backend.coarse_search(queries(1, dim=COARSE), 5, IdIn(frozenset()))[0].ids == []


# -- search and layout -------------------------------------------------------------------------------------


class Counting:
    """Counts the requests that a client is sent."""

    def __init__(self, backend: QdrantBackend) -> None:
        self.doing: list[str] = []
        run = backend._connection.run

        def counted(action: Callable[[QdrantClient], Any], *, doing: str) -> Any:
            self.doing.append(doing)
            return run(action, doing=doing)

        backend._connection.run = counted


def test_a_funnel_is_one_request() -> None:
    rows = random_rows(200)
    full = np.stack([row.vector for row in rows])
    with open_backend("qdrant:") as backend:
        assert isinstance(backend, QdrantBackend)
        backend.write_manifest(manifest((12,)), None)
        backend.upsert(batch_of(rows))
        requests = Counting(backend)
        for stages in (
            (Stage(DIM, 5),),
            (Stage(COARSE, 200), Stage(DIM, 5)),
            (Stage(COARSE, 200), Stage(12, 100), Stage(DIM, 5)),
        ):
            requests.doing.clear()
            found = backend.search(SearchRequest(queries(4), stages))
            assert requests.doing == ["searching"]
            truth = exact_search(queries(4), full, [row.id for row in rows], 5)
            if len(stages) < 3:
                assert [[row.id for row in r.rows] for r in found] == [ids for ids, _ in truth]
            for ranking in found:
                for row, score in zip(ranking.rows, ranking.scores, strict=True):
                    assert abs(score - float(queries(4)[found.index(ranking)] @ full[int(row.id[3:])])) < 1e-5
        # A stage without a vector of its own, and explain, take the core's way, to the same answer.
        other = backend.search(SearchRequest(queries(4), (Stage(COARSE, 200), Stage(9, 100), Stage(DIM, 5))))
        assert len(requests.doing) > 1
        assert all(len(ranking.rows) == 5 for ranking in other)
        told = backend.search(SearchRequest(queries(4), (Stage(COARSE, 200), Stage(DIM, 5)), explain=True))
        assert [[row.id for row in r.rows] for r in told] == [ids for ids, _ in truth]
        assert told[0].trace is not None
        assert told[0].coarse_scores is not None


def test_the_funnel_in_one_request_equals_the_core_s() -> None:
    rows = random_rows(300)
    stages = (Stage(COARSE, 40), Stage(12, 15), Stage(DIM, 7))
    asked = parse_filter({"third": True})
    with open_backend("qdrant:") as backend, open_backend("memory:") as memory:
        for each in (backend, memory):
            each.write_manifest(manifest((12,)), None)
            each.upsert(batch_of(rows))
        for each in (None, asked):
            request = SearchRequest(queries(5), stages, each)
            for ours, oracle in zip(backend.search(request), memory.search(request), strict=True):
                assert [row.id for row in ours.rows] == [row.id for row in oracle.rows]
                np.testing.assert_allclose(ours.scores, oracle.scores, atol=1e-5)


def test_ties_are_ordered_by_id_and_zero_vectors_score_zero() -> None:
    vector = queries(1)[0]
    rows = [Row(name, None, {}, vector) for name in ("c", "a", "é", "b", "Z")] + [Row("zero", None, {}, 0 * vector)]
    with filled() as backend:
        backend.upsert(batch_of(rows))
        (found,) = backend.search(SearchRequest(vector[None], (Stage(COARSE, 10), Stage(DIM, 10))))
        assert [row.id for row in found.rows] == ["Z", "a", "b", "c", "é", "zero"]
        assert found.scores[-1] == 0
        (nothing,) = backend.search(SearchRequest(0 * vector[None], (Stage(DIM, 10),)))
        assert [row.id for row in nothing.rows] == sorted(row.id for row in rows)
        assert not nothing.scores.any()


def test_how_it_lies_in_qdrant(tmp_path: Path) -> None:
    """The documented layout, seen with Qdrant's own client."""
    with open_backend(f"qdrant:{tmp_path}/kb?collection=notes") as backend:
        backend.write_manifest(manifest((12,)), None)
        meta = {"year": 2020, "by": {"name": "Ada"}, "float": 1.0}
        backend.upsert(batch_of([Row("doc-1", "text", meta, queries(1)[0]), Row("doc-2", None, {}, None)]))
    client = QdrantClient(path=str(tmp_path / "kb"))
    try:
        config = client.get_collection("notes").config
        vectors = config.params.vectors
        assert isinstance(vectors, dict)
        assert {name: params.size for name, params in vectors.items()} == {"coarse": 6, "prefix_12": 12, "full": 24}
        assert all(params.distance == models.Distance.DOT for params in vectors.values())
        graphs = {name: params.hnsw_config.m if params.hnsw_config else None for name, params in vectors.items()}
        assert graphs == {"coarse": None, "prefix_12": 0, "full": 0}
        assert config.metadata is not None
        assert Manifest.loads(config.metadata["mrl_retrieval"]).coarse_dims == COARSE
        one, two = client.retrieve("notes", [point_id("doc-1"), point_id("doc-2")], with_vectors=True)
        assert one.payload is not None
        assert one.payload["document"] == "text"
        assert one.payload[NATIVE] == meta
        assert '"year"=2020' in one.payload[TAGS]
        np.testing.assert_allclose(one.vector["coarse"], prefix(queries(1), COARSE)[0], atol=1e-6)
        assert two.vector == {}
    finally:
        client.close()


def test_a_batch_is_split_into_requests_and_an_error_says_what_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_rows(10)
    with filled() as backend:
        monkeypatch.setattr(_qdrant_points, "REQUEST_BYTES", 3_000)
        requests = Counting(backend)
        backend.upsert(batch_of(rows))
        assert len(requests.doing) > 3
        assert backend.count() == 10
        parts = list(_qdrant_points.requests_of(batch_of(rows), backend.manifest))
        write, calls = backend._upsert, []

        def fails_third(part: list[models.PointStruct]) -> None:
            calls.append(len(part))
            if len(calls) == 3:
                raise BackendError("gone")
            write(part)

        monkeypatch.setattr(backend, "_upsert", fails_third)
        with pytest.raises(BackendError) as caught:
            backend.upsert(batch_of(rows))
        assert list(caught.value.indexed_ids) == parts[0][0] + parts[1][0]


def test_a_foreign_point_is_named() -> None:
    with filled() as backend:
        backend._run("", lambda c: c.upsert("default", [models.PointStruct(id=1, vector={}, payload={"x": 1})]))
        with pytest.raises(CorruptionError, match="did not write it"):
            list(backend.scan())


# -- local mode --------------------------------------------------------------------------------------------


def test_opening_creates_nothing_and_takes_no_lock(tmp_path: Path) -> None:
    place = tmp_path / "kb"
    with open_backend(f"qdrant:{place}") as backend:
        assert backend.read_manifest() is None
        assert backend.collections() == []
        backend.drop()
        assert not place.exists()
        with pytest.raises(CollectionNotFound):
            backend.count()
        assert not place.exists()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(NotACollection, match="no folder of Qdrant"):
        open_backend(f"qdrant:{tmp_path}")
    with pytest.raises(NotACollection):
        open_backend(f"qdrant:{tmp_path}/thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_collections_of_one_folder_in_one_process(tmp_path: Path) -> None:
    with filled(f"qdrant:{tmp_path}/kb?collection=a", 5) as a, filled(f"qdrant:{tmp_path}/./kb?collection=b", 7) as b:
        assert (a.count(), b.count()) == (5, 7)
        assert a.collections() == ["a", "b"]
        a.close()
        assert b.count() == 7
        with pytest.raises(BackendError, match="was closed"):
            a.count()
    with open_backend(f"qdrant:{tmp_path}/kb?collection=b") as again:
        assert again.count() == 7


def test_another_process_gets_a_clear_error(tmp_path: Path) -> None:
    holder = (
        "import sys; from qdrant_client import QdrantClient; c = QdrantClient(path=sys.argv[1]);"
        "print('open', flush=True); sys.stdin.readline(); c.close()"
    )
    with filled(f"qdrant:{tmp_path}/kb", 3):
        pass
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / "kb")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"open\n"
        with open_backend(f"qdrant:{tmp_path}/kb", lock_timeout=0.1) as backend:
            with pytest.raises(LockTimeout, match=r"lock_timeout=0\.1 s.*Qdrant server"):
                backend.count()
            process.communicate(b"\n", timeout=30)
            assert backend.count() == 3
    finally:
        process.kill()
        process.communicate()


def test_a_process_that_was_faster_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between our look at the lock and Qdrant's taking it, another process may take it."""
    with filled(f"qdrant:{tmp_path}/kb", 3):
        pass
    tries = iter([RuntimeError("Storage folder kb is already accessed by another instance of Qdrant client.")])
    make = _qdrant_client.QdrantClient

    def late(**known: Any) -> QdrantClient:
        for error in tries:
            raise error
        return make(**known)

    monkeypatch.setattr(_qdrant_client, "QdrantClient", late)
    with open_backend(f"qdrant:{tmp_path}/kb") as backend:
        assert backend.count() == 3
    tries = iter([RuntimeError("Storage folder kb is already accessed by another instance of Qdrant client.")])
    with open_backend(f"qdrant:{tmp_path}/kb", lock_timeout=0) as backend, pytest.raises(LockTimeout):
        backend.count()


def test_a_user_s_own_collections_are_left_alone(tmp_path: Path) -> None:
    client = QdrantClient(path=str(tmp_path / "kb"))
    client.create_collection("theirs", vectors_config=models.VectorParams(size=2, distance=models.Distance.COSINE))
    client.create_collection("noted", vectors_config={}, metadata={"owner": "me"})
    client.close()
    with filled(f"qdrant:{tmp_path}/kb", 2) as ours:
        assert ours.collections() == ["default"]
        for name in ("theirs", "noted"):
            with open_backend(f"qdrant:{tmp_path}/kb?collection={name}") as backend:
                for call in (backend.read_manifest, backend.drop, lambda b=backend: b.write_manifest(manifest(), None)):
                    with pytest.raises(NotACollection, match="not made by this library"):
                        call()
        ours.drop()
        ours.drop()
        assert ours.collections() == []
    client = QdrantClient(path=str(tmp_path / "kb"))
    assert {each.name for each in client.get_collections().collections} == {"theirs", "noted"}
    client.close()


def test_the_manifest_is_compared_and_set(tmp_path: Path) -> None:
    first, second = manifest(), manifest()
    with open_backend(f"qdrant:{tmp_path}/kb") as a, open_backend(f"qdrant:{tmp_path}/kb") as b:
        a.write_manifest(first, None)
        with pytest.raises(ConflictError):
            b.write_manifest(second, None)
        planned = first.with_plan({"coarse_top_k": 7})
        b.write_manifest(planned, first)
        with pytest.raises(ConflictError):
            a.write_manifest(first.with_plan({"coarse_top_k": 8}), first)
        assert a.read_manifest() == planned


def test_threads_share_one_backend(tmp_path: Path) -> None:
    rows = random_rows(120)
    failures: list[BaseException] = []
    with filled(f"qdrant:{tmp_path}/kb") as backend:

        def work(part: int) -> None:
            try:
                mine = rows[part * 20 : part * 20 + 20]
                backend.upsert(batch_of(mine))
                for _ in range(5):
                    found = backend.search(SearchRequest(queries(2), (Stage(COARSE, 20), Stage(DIM, 5))))
                    assert all(len(ranking.rows) == 5 for ranking in found)
                backend.delete([mine[0].id])
            except BaseException as error:  # handed to the main thread
                failures.append(error)

        threads = [threading.Thread(target=work, args=(part,)) for part in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert backend.count() == 114


def test_capabilities_and_stats(tmp_path: Path) -> None:
    with filled(n=4) as memory, filled(f"qdrant:{tmp_path}/kb", 4) as folder:
        assert not memory.capabilities.persistent
        assert folder.capabilities.persistent
        assert not folder.capabilities.approximate_coarse
        folder.upsert(batch_of([Row("bare", "text", {}, None)]))
        stats = folder.stats()
        assert (stats.rows, stats.vectors) == (5, 4)
        assert stats.bytes == {"coarse": 4 * 4 * COARSE, "fine": 4 * 4 * DIM, "rows": None}
    server = open_backend("qdrant+http://localhost:6333")
    assert server.capabilities.concurrent_writers
    assert server.capabilities.approximate_coarse
    server.close()


# -- options and a server ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "options", "words"),
    [
        ("qdrant:", {"hnsw": 1}, "no option 'hnsw'; known: api_key"),
        ("qdrant:", {"api_key": "k"}, "api_key= is for a Qdrant server"),
        ("qdrant+http://h:1", {"timeout": 0}, "timeout=0"),
        ("qdrant+http://h:1", {"coarse_quantization": "ternary"}, "coarse_quantization='ternary'"),
        ("qdrant+http://h:1", {"index_fields": {"year": "int"}}, "known types"),
        ("qdrant:", {"lock_timeout": "soon"}, "lock_timeout='soon'"),
    ],
)
def test_wrong_options(address: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        open_backend(address, **options)


@pytest.mark.parametrize("prefer_grpc", [False, True])
def test_nobody_listens(prefer_grpc: bool) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]  # bound, but nobody listens
        options = {"prefer_grpc": prefer_grpc, "grpc_port": port, "timeout": 5}
        with open_backend(f"qdrant+http://127.0.0.1:{port}", **options) as backend:
            with pytest.raises(BackendUnavailable, match=rf"127\.0\.0\.1:{port}.*is it running"):
                backend.read_manifest()
            with pytest.raises(BackendUnavailable):
                backend.collections()


Answer = tuple[int, Any]


class Stub:
    """A server that answers what it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Callable[[Any], Answer]] = {}
        self.asked: list[tuple[str, Any, dict[str, str]]] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                what = f"{self.command} {self.path.split('?')[0]}"
                value = json.loads(body) if body else None
                stub.asked.append((what, value, dict(self.headers)))
                known = stub.answers.get(what, (404, {"status": {"error": f"nothing at {what}"}}))
                status, said = known(value) if callable(known) else known
                text = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def ok(result: Any) -> Answer:
    return 200, {"status": "ok", "time": 0.0, "result": result}


def refused(status: int, words: str) -> Answer:
    return status, {"status": {"error": words}, "time": 0.0}


def collection_info(metadata: dict[str, Any] | None) -> dict[str, Any]:
    config = {
        "params": {"vectors": {"coarse": {"size": 6, "distance": "Dot", "quantization_config": {"binary": {}}}}},
        "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
        "optimizer_config": {
            "deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0,
            "flush_interval_sec": 5,
        },
        "metadata": metadata,
    }  # fmt: skip
    return {
        "status": "green", "optimizer_status": "ok", "segments_count": 1, "points_count": 0, "payload_schema": {},
        "config": config,
    }  # fmt: skip


@pytest.fixture
def stub() -> Iterator[Stub]:
    server = Stub()
    server.answers["GET /collections/default/exists"] = ok({"exists": True})
    server.answers["GET /collections/default"] = ok(collection_info({"mrl_retrieval": manifest().dumps()}))
    yield server
    server.close()


def test_creation_on_a_server(stub: Stub) -> None:
    created: list[Any] = []
    stub.answers["GET /collections/default/exists"] = lambda _: ok({"exists": bool(created)})
    stub.answers["PUT /collections/default"] = lambda body: (created.append(body), ok(True))[1]
    stub.answers["PUT /collections/default/index"] = ok({"operation_id": 1, "status": "completed"})
    stub.answers["GET /collections/default"] = lambda _: ok(collection_info(created[0]["metadata"]))
    options = {"index_fields": {"year": "integer", "full name": "keyword"}, "shard_number": 2}
    with open_backend(f"qdrant+{stub.url}", coarse_quantization="binary", **options) as backend:
        backend.write_manifest(manifest(), None)
    (body,) = created
    assert body["shard_number"] == 2
    assert body["vectors"]["full"]["on_disk"] is True
    assert body["vectors"]["full"]["hnsw_config"] == {"m": 0, "payload_m": 0}
    assert "binary" in body["vectors"]["coarse"]["quantization_config"]
    assert "hnsw_config" not in body["vectors"]["coarse"]
    indexes = {b["field_name"]: b["field_schema"] for what, b, _ in stub.asked if what.endswith("/index")}
    assert indexes == {
        "_mrl_id": "keyword", "_mrl_tags": "keyword", "metadata.year": "float", 'metadata."full name"': "keyword",
    }  # fmt: skip


def test_a_server_too_old_for_metadata(stub: Stub) -> None:
    exists = iter([False, True, True])
    stub.answers["GET /collections/default/exists"] = lambda _: ok({"exists": next(exists)})
    stub.answers["PUT /collections/default"] = ok(True)
    stub.answers["DELETE /collections/default"] = ok(True)
    stub.answers["GET /collections/default"] = ok(collection_info(None))
    with (
        open_backend(f"qdrant+{stub.url}") as backend,
        pytest.raises(BackendError, match=r"from version 1\.16 on: upgrade"),
    ):
        backend.write_manifest(manifest(), None)
    assert stub.asked[-1][0] == "DELETE /collections/default"


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (refused(400, "Bad request: Exact search disabled. Help: Set exact=false."), BackendError, "strict mode"),
        (refused(401, "Must provide an API key"), BackendError, "MRL_QDRANT_API_KEY"),
        (refused(403, "Forbidden"), BackendError, "api_key="),
        (refused(404, "Not found: Collection `default` doesn't exist!"), CollectionNotFound, "no collection"),
        (refused(413, "Payload too large"), BackendError, "fewer"),
        (refused(503, "starting"), BackendUnavailable, "later"),
        (refused(500, "Service internal error: disk"), BackendError, "disk"),
        ((200, {"result": "nonsense"}), BackendError, "failed while searching"),
    ],
)
def test_what_a_server_refuses(stub: Stub, answer: Answer, kind: type[BackendError], words: str) -> None:
    stub.answers["POST /collections/default/points/query/batch"] = answer
    with open_backend(f"qdrant+{stub.url}") as backend:
        with pytest.raises(kind, match=words) as caught:
            backend.search(SearchRequest(queries(1), (Stage(DIM, 3),)))
        assert type(caught.value) is kind
        assert caught.value.__cause__ is not None


def test_the_request_of_a_search(stub: Stub) -> None:
    payload = {"document": "t", "_mrl_id": "a", "_mrl_metadata": '{"year":1.0}', "_mrl_has_vector": True}
    point = {"id": point_id("a"), "version": 1, "score": 0.5, "payload": payload}
    stub.answers["POST /collections/default/points/query/batch"] = ok([{"points": [point]}])
    stub.answers["POST /collections/default/points/count"] = ok({"count": 1})
    stub.answers["POST /collections/default/points/scroll"] = ok({"points": [], "next_page_offset": None})
    with open_backend(f"qdrant+{stub.url}", api_key="s3cret") as backend:
        asked = parse_filter({"year": {"$gte": 1}})
        (found,) = backend.search(SearchRequest(queries(1), (Stage(COARSE, 50), Stage(DIM, 3)), asked))
        assert [repr(row.metadata) for row in found.rows] == ["{'year': 1.0}"]
    bodies = [body for what, body, _ in stub.asked if what.endswith("query/batch")]
    ((search,),) = [body["searches"] for body in bodies]  # fewer than asked for, but the count says: all there are
    assert search["using"] == "full"
    assert search["limit"] == 3
    assert search["prefetch"]["using"] == "coarse"
    assert search["prefetch"]["limit"] == 50
    quantized = {"rescore": True, "oversampling": 8.0}
    assert search["prefetch"]["params"] == {"hnsw_ef": 400, "quantization": quantized}
    tag, bound = search["prefetch"]["filter"]["must"]
    assert tag == {"key": "_mrl_tags", "match": {"value": '"year":number'}}
    assert bound == {"key": "metadata.year", "range": {"gte": 1.0}}
    assert {headers["api-key"] for _, _, headers in stub.asked} == {"s3cret"}


def test_a_graph_that_gave_too_little_is_left_out(stub: Stub) -> None:
    def point(name: str) -> dict[str, Any]:
        kept = {"_mrl_id": name, "_mrl_metadata": "{}"}
        return {"id": point_id(name), "version": 1, "score": 0.5, "payload": kept}

    def answer(body: Any) -> Answer:
        names = "abc" if (body["searches"][0].get("params") or {}).get("exact") else "a"
        return ok([{"points": [point(name) for name in names]}])

    stub.answers["POST /collections/default/points/query/batch"] = answer
    stub.answers["POST /collections/default/points/count"] = ok({"count": 3})
    with open_backend(f"qdrant+{stub.url}") as backend:
        (found,) = backend.coarse_search(queries(1, dim=COARSE), 10, parse_filter({"a": 1}))
        assert found.ids == ["a", "b", "c"]


def test_the_api_key_is_never_shown(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = "top-secret-key"
    monkeypatch.setenv("MRL_QDRANT_API_KEY", key)
    stub.answers["GET /collections/default/exists"] = refused(403, f"Forbidden: key {key} is read-only")
    with caplog.at_level(logging.DEBUG), open_backend(f"qdrant+{stub.url}") as backend:
        with pytest.raises(BackendError, match=r"key \*\*\* is read-only") as caught:
            backend.read_manifest()
        assert key not in str(caught.value)
        assert key not in repr(backend._settings)
    assert key not in caplog.text
    assert stub.asked[0][2]["api-key"] == key
    with open_backend("qdrant+http://qdrant.example:6333", api_key=key, timeout=1) as remote:
        assert isinstance(remote, QdrantBackend)
        with caplog.at_level(logging.WARNING):
            remote._connection._server()
        assert "unencrypted" in caplog.text
        assert key not in caplog.text


@pytest.fixture
def live() -> Iterator[str]:
    url = os.environ.get("MRL_QDRANT_URL")
    if not url:
        pytest.skip("MRL_QDRANT_URL is not set: no Qdrant server to test against")
    name = f"mrl-test-{uuid.uuid4().hex[:12]}"
    yield f"qdrant+{url}?collection={name}"
    with open_backend(f"qdrant+{url}?collection={name}") as backend:
        backend.drop()


@pytest.mark.parametrize("prefer_grpc", [False, True])
def test_a_live_server_agrees_with_the_core(live: str, prefer_grpc: bool) -> None:
    rows = random_rows(500)
    odd = [{"v": v} for v in [*NUMBERS, *TEXTS, None, True, [], [1], {}, {"k": None}]]
    rows += [Row(f"odd-{i}", None, meta, None) for i, meta in enumerate(odd)]
    with filled(live, prefer_grpc=prefer_grpc, index_fields={"n": "integer"}) as backend:
        backend.upsert(batch_of(rows))
        back = backend.get([row.id for row in rows])
        assert [repr(row and row.metadata) for row in back] == [repr(row.metadata) for row in rows]
        asked = [{"v": {"$eq": value["v"]}} for value in odd] + [{"n": {"$gte": 490}}, {"n": {"$lt": 3.5}}]
        asked += [{"v": {"$exists": True}}, {"v": {"$is_empty": True}}, {"v": {"$contains": 1}}, {"third": False}]
        for each in asked:
            check_filter(backend, parse_filter(each), rows)
            check_filter(backend, parse_filter({"$not": each}), rows)
        with pytest.raises(FilterError):
            backend.count(parse_filter({"v": {"$gt": 1}}))
        full = np.stack([row.vector for row in rows if row.vector is not None])
        truth = exact_search(queries(3), full, [row.id for row in rows[:500]], 10)
        for stages in ((Stage(DIM, 10),), (Stage(COARSE, 500), Stage(DIM, 10))):
            for found, (ids, scores) in zip(backend.search(SearchRequest(queries(3), stages)), truth, strict=True):
                assert [row.id for row in found.rows] == ids
                np.testing.assert_allclose(found.scores, scores, atol=1e-5)
        assert backend.delete(["id-0", "unknown"]) == 1
        assert backend.stats().vectors == 499


def test_what_nobody_closed_is_closed_in_silence(tmp_path: Path) -> None:
    code = (
        "from mrl_retrieval import MatryoshkaRetriever as R\n"
        "for place in ('qdrant:kb', 'qdrant:'):\n"
        "    r = R('hashing', place); r.index(['a']); print(len(r.search('a')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("1\n1\n", "")
