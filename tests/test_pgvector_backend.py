"""What is special to PostgreSQL: one statement, the indexes it uses, hostile strings, transactions, a server that goes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'mrl-retrieval[pgvector]'")

import psycopg
from psycopg import errors, sql

from mrl_adapters._pgvector_client import Connections, Statement
from mrl_adapters._pgvector_errors import Errors
from mrl_adapters._pgvector_options import Options
from mrl_adapters._pgvector_search import search_statement
from mrl_adapters._pgvector_values import escape, json_text, jsonb_text, kinds_of, unescape
from mrl_adapters.pgvector import PgvectorBackend
from mrl_retrieval.address import Address
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import (
    AddressError,
    BackendError,
    BackendUnavailable,
    CollectionMismatchError,
    CollectionNotFound,
    ConflictError,
    DimensionError,
    FilterError,
    InvalidInput,
    LockTimeout,
    NotACollection,
)
from mrl_retrieval.filters import And, IdIn, Not, matches, parse_filter
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import normalize, prefix
from mrl_retrieval.registry import open_backend
from mrl_retrieval.scoring import exact_search
from mrl_retrieval.testing.base import clustered
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.postgres_server import PASSWORD, SUPERUSER, USER, PostgresServer, run_postgres

DIM, COARSE = 24, 8
MANIFEST = Manifest(dim=DIM, coarse_dims=COARSE, fine_dims=DIM)
LOGIN = {"user": USER, "password": PASSWORD}
HOSTILE = [
    "'; DROP TABLE mrl_collections; --", '"; DROP SCHEMA public CASCADE; --', "%s", "%(p0)s", "%%", "{}", "{0}", "$1", "\\", "\\'",
    "a\x00b", "\x00", "\x01", "\x02\x03", "\x01\x02\x02", '{"a":1}', '"', "'", "null", "\ud7ff\ue000", "\U0010ffff", "\\u0000", "\\\\u0000",
    "E'\\x00'", "$$", "$tag$", "/*", "--", "\n", "\r\n", "\t", "ａ", "e\u0301", "é", "🎉", "*", "[0]", "{a,b}", "::text", "NaN", "x" * 5000,
]  # fmt: skip


def vectors(n: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    return normalize(clustered(n, dim, seed=seed))


def batch(rows: list[Row], dim: int = DIM) -> RowBatch:
    full = np.zeros((len(rows), dim), dtype=np.float32)
    for i, row in enumerate(rows):
        if row.vector is not None:
            full[i] = row.vector
    has = np.array([row.vector is not None for row in rows], dtype=np.bool_)
    return RowBatch([r.id for r in rows], [r.document for r in rows], [r.metadata for r in rows], full, has)


def rows(n: int, seed: int = 0) -> list[Row]:
    return [Row(f"id{i}", f"text {i}", {"i": i, "third": i % 3}, v) for i, v in enumerate(vectors(n, seed))]


def contents(backend: PgvectorBackend, **options: Any) -> dict[str, Row]:
    return {row.id: row for part in backend.scan(**options) for row in part.rows()}


@pytest.fixture
def superuser(postgres: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def schema(superuser: psycopg.Connection[Any]) -> Iterator[str]:
    name = f'odd "schema" {uuid.uuid4().hex[:8]}; --'
    yield name
    superuser.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))


@pytest.fixture
def connect(postgres: PostgresServer, schema: str) -> Iterator[Callable[..., PgvectorBackend]]:
    """Opens backends in a schema of the test's own."""
    opened: list[PgvectorBackend] = []

    def one(collection: str = "default", **options: Any) -> PgvectorBackend:
        address = f"pgvector+{postgres.url}?collection={collection}"
        backend = open_backend(address, **{**LOGIN, "schema": schema, **options})
        assert isinstance(backend, PgvectorBackend)
        opened.append(backend)
        return backend

    yield one
    for backend in opened:
        backend.close()


@pytest.fixture
def made(connect: Callable[..., PgvectorBackend]) -> Callable[..., PgvectorBackend]:
    """Opens a backend and makes its collection."""

    def one(collection: str = "default", manifest: Manifest = MANIFEST, **options: Any) -> PgvectorBackend:
        backend = connect(collection, **options)
        backend.write_manifest(manifest, None)
        return backend

    return one


class TestValues:
    texts = st.text(st.one_of(st.sampled_from("\x00\x01\x02\x03\x04ab\\\"'"), st.characters(exclude_categories=["Cs"])))

    @given(texts)
    def test_an_escaped_text_is_taken_and_comes_back(self, text: str) -> None:
        assert "\x00" not in escape(text) and unescape(escape(text)) == text

    @given(texts, texts)
    def test_order_is_kept(self, a: str, b: str) -> None:
        assert (a < b) == (escape(a).encode() < escape(b).encode())

    @given(texts, texts, texts)
    def test_substrings_are_kept_and_none_is_made(self, a: str, b: str, c: str) -> None:
        assert escape(b) in escape(a + b + c)
        assert (escape(b) in escape(a)) == (b in a)

    @given(st.dictionaries(texts, st.one_of(texts, st.integers(), st.floats(allow_nan=False, allow_infinity=False))))
    def test_metadata_text_gives_back_what_it_was_given(self, metadata: dict[str, Any]) -> None:
        assert repr(json.loads(json_text(metadata))) == repr(metadata)
        assert "\\u0000" not in jsonb_text(metadata).replace("\\\\", "")

    def test_equal_numbers_are_spelled_alike(self) -> None:
        assert jsonb_text([1.0, -0.0, 1e3, 2.0**60, 0.1]) == "[1,0,1000,1152921504606846976,0.1]"

    def test_kinds_go_as_deep_as_filters_may(self) -> None:
        deep: Any = 1
        for _ in range(30):
            deep = {"k": deep}
        assert len(kinds_of(deep)) == 16
        assert kinds_of({"a.b": 1, "": 2, "x" * 500: "s"})[0].startswith("#")


class TestAddresses:
    def test_the_environment_of_libpq(
        self, postgres: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in {"PGHOST": postgres.sockets, "PGPORT": postgres.port, "PGDATABASE": "vectors"}.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("PGUSER", USER)
        with open_backend("pgvector:?collection=x", schema=schema) as backend:
            backend.write_manifest(MANIFEST, None)
            assert backend.collections() == ["x"]
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
        with open_backend(f"pgvector+{postgres.url}?collection=x", schema=schema) as backend:
            assert backend.read_manifest() == MANIFEST

    @pytest.mark.parametrize(
        "address", ["pgvector:./folder", "pgvector::memory:", "pgvector+http://host:1", "pgvector+postgresql://h/a/b"]
    )
    def test_what_is_no_postgresql(self, address: str) -> None:
        with pytest.raises(AddressError, match="pgvector"):
            open_backend(address)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"ef": 1}, "no option 'ef'"),
            ({"m": 1}, "from 2 to 100"),
            ({"m": True}, "from 2 to 100"),
            ({"m": 60, "ef_construction": 100}, "twice m"),
            ({"coarse_quantization": "int8"}, "'halfvec'"),
            ({"fine_dtype": None, "iterative_scan": None}, "iterative_scan"),
            ({"fine_dtype": "int8"}, "'float16'"),
            ({"timeout": 0}, "timeout"),
            ({"timeout": "1"}, "timeout"),
            ({"schema": ""}, "schema"),
            ({"schema": "ä" * 32}, "schema"),
            ({"pool_size": 0}, "pool_size"),
            ({"user": 5}, "user= is int"),
            ({"connection": "host=x"}, "connection= is str"),
        ],
    )
    def test_options_are_checked_before_anything_is_connected(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(InvalidInput, match=words):
            open_backend("pgvector+postgresql://nowhere.invalid/x", **options)

    def test_nobody_there(self) -> None:
        with open_backend("pgvector+postgresql://127.0.0.1:1/x", **LOGIN) as backend:
            with pytest.raises(BackendUnavailable, match="127.0.0.1:1") as caught:
                backend.read_manifest()
            assert PASSWORD not in str(caught.value)

    def test_refusals_have_the_servers_words_and_no_password(self, postgres: PostgresServer) -> None:
        place = f"pgvector+{postgres.url}"
        for address, options, words in [
            (place, {"user": USER, "password": "wrong secret"}, "password authentication failed"),
            (place.replace("vectors", "nowhere"), LOGIN, "nowhere"),
            (place, {**LOGIN, "sslmode": "require"}, "SSL"),
            (place, {**LOGIN, "connection": {"no_such_keyword": "1"}}, "no_such_keyword"),
        ]:
            with open_backend(address, **options) as backend:
                with pytest.raises(BackendError, match=words) as caught:
                    backend.read_manifest()
                assert not isinstance(caught.value, BackendUnavailable)
                assert "wrong secret" not in str(caught.value) and PASSWORD not in str(caught.value)
        assert PASSWORD not in repr(Options.parse(LOGIN))

    def test_secrets_are_masked_wherever_they_turn_up(self) -> None:
        mapped = Errors(Address.parse("pgvector:"), 1, lambda: ["s3cret"])
        assert (
            "***" in (words := str(mapped.error("x", psycopg.OperationalError("bad s3cret")))) and "s3cret" not in words
        )

    def test_after_closing(self, made: Callable[..., PgvectorBackend]) -> None:
        backend = made()
        backend.close()
        with pytest.raises(BackendError, match="closed"):
            backend.count()


def plan(backend: PgvectorBackend, filter: Any = None, quantized: int = 1) -> str:
    """What PostgreSQL says it will do for a search of 100 candidates, with the settings of a search."""
    stages = [Stage(COARSE, 100), Stage(DIM, 10)]
    statement = search_statement(
        backend._layout, vectors(1, 9)[0], stages, parse_filter(filter), graph=100 * quantized, rows=True
    )
    explain = Statement(sql.SQL("EXPLAIN (ANALYZE, TIMING OFF) ") + statement.text, statement.parameters)
    (found,) = backend._ask("explaining", [explain], **backend._search_settings(100 * quantized))
    return "\n".join(line for (line,) in found)


def steps(plan: str, name: str) -> str:
    """The part of a plan that is one CTE."""
    return re.split(r"CTE \w+\n", plan.split(f"CTE {name}\n")[1])[0]


class TestOneStatement:
    N = 5000

    @pytest.mark.parametrize("quantization", ["none", "halfvec", "binary"])
    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_the_graph_answers_and_its_answer_is_rescored(
        self, made: Callable[..., PgvectorBackend], quantization: str, dtype: str
    ) -> None:
        backend = made(coarse_quantization=quantization, fine_dtype=dtype, oversampling=10)
        stored = rows(self.N)
        backend.upsert(batch(stored))
        planned = plan(backend, quantized=10 if quantization == "binary" else 1)
        assert "Index Scan using" in steps(planned, "graph") and "Order By" in steps(planned, "graph"), planned
        assert "never executed" in steps(planned, "flat"), planned
        full = np.array([row.vector for row in stored])
        queries = vectors(8, 5)
        ids = [row.id for row in stored]
        truth = exact_search(queries, full, ids, 10)
        found = backend.search(SearchRequest(queries, (Stage(COARSE, 400), Stage(16, 100), Stage(DIM, 10))))
        shares = []
        for ranking, (expected, _), query in zip(found, truth, queries, strict=True):
            shares.append(len({row.id for row in ranking.rows} & set(expected)) / 10)
            for row, score in zip(ranking.rows, ranking.scores, strict=True):
                assert score == pytest.approx(
                    float(query @ full[int(row.id[2:])]), abs=1e-3 if dtype == "float16" else 1e-5
                )
        assert np.mean(shares) > (0.5 if quantization == "binary" else 0.95)  # 8 dims are but 8 bits
        coarse = backend.coarse_search(prefix(queries, COARSE), 50, None)
        for got, (expected, scores) in zip(
            coarse, exact_search(prefix(queries, COARSE), prefix(full, COARSE), ids, 50), strict=True
        ):
            assert len(got.ids) == 50 and got.scores.dtype == np.float32
            if quantization != "binary":
                assert len(set(got.ids) & set(expected)) >= 48
                assert np.allclose(got.scores[:5], scores[:5], atol=1e-3)

    def test_a_selective_filter_uses_the_index_of_metadata(self, made: Callable[..., PgvectorBackend]) -> None:
        backend = made()
        stored = [
            replace(row, metadata={"i": i, "rare": i % 500, "tags": [f"t{i % 500}"]})
            for i, row in enumerate(rows(self.N))
        ]
        backend.upsert(batch(stored))
        for asked in (
            {"rare": 7},
            {"tags": {"$contains": "t7"}},
            {"rare": {"$in": [7, 8]}},
            {"rare": {"$any": [1]}},
            {"gone": {"$exists": True}},
        ):
            planned = plan(backend, asked)
            assert "Bitmap Index Scan" in planned and "kinds_idx" in planned, planned

    def test_all_that_match_come_back_where_the_graph_gives_up(self, made: Callable[..., PgvectorBackend]) -> None:
        """The planner is made to take the graph, and the graph to stop at its first try."""
        only_graph = {"options": "-c enable_bitmapscan=off -c enable_seqscan=off -c enable_sort=off"}
        backend = made(iterative_scan="off", ef_search=10, connection=only_graph)
        full = vectors(self.N)
        far = set(np.argsort(full @ full[0])[:40].tolist())
        backend.upsert(batch([Row(f"id{i}", None, {"far": i in far}, v) for i, v in enumerate(full)]))
        planned = plan(backend, {"far": True})
        assert "Order By" in steps(planned, "graph") and "never executed" not in steps(planned, "flat"), planned
        (found,) = backend.coarse_search(prefix(full[:1], COARSE), 25, parse_filter({"far": True}))
        kept = sorted(far)
        ((expected, scores),) = exact_search(
            prefix(full[:1], COARSE), prefix(full[kept], COARSE), [f"id{i}" for i in kept], 25
        )
        assert len(found.ids) == 25 and np.allclose(found.scores, scores, atol=1e-6)
        assert set(found.ids[:20]) == set(expected[:20])
        (found,) = backend.coarse_search(prefix(full[:1], COARSE), 100, parse_filter({"far": True}))
        assert set(found.ids) == {f"id{i}" for i in far}

    def test_no_worker_is_started_for_what_is_not_run(self, made: Callable[..., PgvectorBackend]) -> None:
        """Starting parallel workers takes longer than a search by the graph."""
        eager = "-c parallel_setup_cost=0 -c parallel_tuple_cost=0 -c min_parallel_table_scan_size=0"
        backend = made(connection={"options": eager})
        backend.upsert(batch(rows(self.N)))
        planned = plan(backend)
        assert "Order By" in steps(planned, "graph"), planned
        assert re.search(r"Gather Merge .*\(never executed\)", steps(planned, "flat")), planned
        assert set(re.findall(r"Workers Launched: (\d+)", planned)) == {"0"}, planned

    def test_deleted_rows_leave_no_hole(self, made: Callable[..., PgvectorBackend]) -> None:
        backend = made(ef_search=10)
        full = vectors(2000)
        backend.upsert(batch([Row(f"id{i}", None, {}, v) for i, v in enumerate(full)]))
        near = np.argsort(-(prefix(full, COARSE) @ prefix(full[:1], COARSE)[0]))[:1900]
        assert backend.delete([f"id{i}" for i in near]) == 1900
        (found,) = backend.coarse_search(prefix(full[:1], COARSE), 100, None)
        assert len(found.ids) == 100

    def test_zero_vectors_are_candidates(self, made: Callable[..., PgvectorBackend]) -> None:
        for quantization in ("none", "halfvec", "binary"):
            for dtype in ("float32", "float16"):
                backend = made(f"{quantization}-{dtype}", coarse_quantization=quantization, fine_dtype=dtype)
                tail = np.zeros(DIM, np.float32)
                tail[-1] = 1.0
                stored = [
                    Row("zero", None, {}, np.zeros(DIM, np.float32)),
                    Row("tail", None, {}, tail),
                    Row("none", None),
                ]
                backend.upsert(batch(stored))
                for query in (tail, np.zeros(DIM, np.float32)):
                    for stages in ((Stage(COARSE, 5), Stage(DIM, 5)), (Stage(DIM, 5),)):
                        (ranking,) = backend.search(SearchRequest(query[None], stages))
                        scores = {row.id: float(s) for row, s in zip(ranking.rows, ranking.scores, strict=True)}
                        assert scores == {"tail": float(query[-1]), "zero": 0.0}
                assert backend.search(SearchRequest(tail[None], (Stage(DIM, 5),)))[0].rows[1].id == "zero"

    def test_one_round_trip(self, made: Callable[..., PgvectorBackend], monkeypatch: pytest.MonkeyPatch) -> None:
        backend = made()
        backend.upsert(batch(rows(50)))
        asked: list[int] = []
        ask = Connections.ask

        def counting(self: Connections, doing: str, statements: Any, options: Any) -> Any:
            asked.append(len(statements))
            return ask(self, doing, statements, options)

        monkeypatch.setattr(Connections, "ask", counting)
        stages = (Stage(COARSE, 30), Stage(12, 20), Stage(16, 15), Stage(DIM, 10))
        found = backend.search(SearchRequest(vectors(3, 4), stages, parse_filter({"third": 1})))
        assert asked == [3] and [len(ranking.rows) for ranking in found] == [10, 10, 10]

    def test_an_extension_in_another_schema(self, postgres: PostgresServer, superuser: psycopg.Connection[Any]) -> None:
        superuser.execute(sql.SQL("CREATE DATABASE elsewhere OWNER {}").format(sql.Identifier(USER)))
        try:
            with psycopg.connect(postgres.dsn("elsewhere"), autocommit=True) as other:
                other.execute('CREATE SCHEMA "Ext ""x"""')
                other.execute('CREATE EXTENSION vector SCHEMA "Ext ""x"""')
                other.execute(sql.SQL('GRANT USAGE ON SCHEMA "Ext ""x""" TO {}').format(sql.Identifier(USER)))
            with open_backend(f"pgvector+{postgres.url.replace('vectors', 'elsewhere')}", **LOGIN) as backend:
                backend.write_manifest(MANIFEST, None)
                backend.upsert(batch(rows(20)))
                (ranking,) = backend.search(SearchRequest(vectors(20)[:1], (Stage(COARSE, 20), Stage(DIM, 3))))
                assert ranking.rows[0].id == "id0"
        finally:
            superuser.execute("DROP DATABASE elsewhere WITH (FORCE)")


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 1, 1.0, 2**53, 2.0**53, 2**53 + 1, 0.1, -0.0, 1e300, 5e-324]),
        st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "b", "0", "a b", "%s", "'"]), inner, max_size=3)),
    max_leaves=6,
)  # fmt: skip
PATHS = ["a", "b", "a.b", "a.0", "0", "a b", "%s", "'", "a.%s.'"]
LEAVES = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne", "$contains"]), JSON),
    st.tuples(st.sampled_from(["$in", "$nin", "$any", "$all"]), st.lists(JSON, max_size=3)),
    st.tuples(st.sampled_from(["$exists", "$is_empty"]), st.booleans()),
    st.tuples(st.sampled_from(["$text"]), st.sampled_from([*HOSTILE, ""])),
    st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), st.one_of(st.integers(-9, 9), st.floats(-9, 9), st.sampled_from(HOSTILE))),
)  # fmt: skip
FILTERS = st.recursive(
    st.builds(lambda path, leaf: {path: {leaf[0]: leaf[1]}}, st.sampled_from(PATHS), LEAVES),
    lambda inner: st.one_of(
        st.builds(lambda part: {"$not": part}, inner),
        st.builds(lambda name, parts: {name: parts}, st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=4,
)  # fmt: skip
SLOW = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


class TestHostileStrings:
    def test_ids_documents_and_metadata_come_back(self, made: Callable[..., PgvectorBackend]) -> None:
        backend = made()
        ids = [*HOSTILE, "y" * 1_000_000, "y" * 1_000_000 + "z"]
        given = [Row(id, id, {id: id, "in": [id, {id: None}]}, v) for id, v in zip(ids, vectors(len(ids)), strict=True)]
        backend.upsert(batch(given))
        got = backend.get(ids, vectors=True)
        for row, back in zip(given, got, strict=True):
            assert back is not None and (back.id, back.document, back.metadata) == (row.id, row.document, row.metadata)
            assert np.array_equal(back.vector, row.vector)
        for id in ids[:-2]:
            assert backend.count(parse_filter({"in": {"$contains": id}})) == 1
            if "." not in id and not id.startswith("$"):
                assert set(contents(backend, filter=parse_filter({id: id}))) == {id}
        (ranking,) = backend.search(SearchRequest(vectors(1), (Stage(DIM, 100),)))
        assert sorted(row.id for row in ranking.rows) == sorted(ids)
        assert backend.delete(ids) == len(ids) and backend.collections() == ["default"]

    def test_ties_are_in_the_order_of_code_points(self, made: Callable[..., PgvectorBackend]) -> None:
        backend = made()
        v = vectors(1)[0]
        backend.upsert(batch([Row(id, None, {}, v) for id in HOSTILE]))
        for stages in ((Stage(COARSE, 99), Stage(DIM, 99)), (Stage(DIM, 99),)):
            (ranking,) = backend.search(SearchRequest(v[None], stages))
            assert [row.id for row in ranking.rows] == sorted(HOSTILE)

    def test_any_row_and_any_filter(self, made: Callable[..., PgvectorBackend]) -> None:
        """Every filter means what :func:`matches` says, or is the same error."""
        backend = made()

        @SLOW
        @given(
            st.lists(
                st.dictionaries(st.sampled_from(["a", "b", "0", "a b", "%s", "'", "a.b"]), JSON, max_size=3),
                min_size=1,
                max_size=6,
            ),
            FILTERS,
        )
        def check(metadatas: list[dict[str, Any]], asked: dict[str, Any]) -> None:
            backend.delete(list(contents(backend)))
            backend.upsert(batch([Row(f"r{i}", None, m, None) for i, m in enumerate(metadatas)]))
            for row in contents(backend).values():
                assert repr(row.metadata) == repr(metadatas[int(row.id[1:])])
            tree = parse_filter(asked)
            try:
                expected = {f"r{i}" for i, m in enumerate(metadatas) if matches(tree, f"r{i}", m)}
                for i, m in enumerate(metadatas):
                    matches(tree, f"r{i}", m)
            except FilterError:
                with pytest.raises(FilterError):
                    backend.count(tree)
                return
            assert set(contents(backend, filter=tree)) == expected and backend.count(tree) == len(expected)

        check()

    def test_numbers_compare_by_value_and_strings_by_code_point(self, made: Callable[..., PgvectorBackend]) -> None:
        backend = made()
        numbers = [0, -0.0, 1, 1.0, 0.1, 0.30000000000000004, 0.3, 2**53, 2**53 + 1, 2.0**53, 2.0**60, 2**60, 2**60 + 1, -(2**63), 1e300, -1e300, 5e-324, 1.5, 9007199254740993]  # fmt: skip
        strings = ["", "a", "A", "ä", "z", "Z", "é", "e\u0301", "\x00", "\x00b", "\x01", "\x02", "a\x00", "a b", "\U0001f389", "\uffff", "10", "9"]  # fmt: skip
        stored = [Row(f"n{i}", None, {"n": v}) for i, v in enumerate(numbers)] + [
            Row(f"s{i}", None, {"s": v}) for i, v in enumerate(strings)
        ]
        backend.upsert(batch(stored))
        for key, values in (("n", numbers), ("s", strings)):
            for value in values:
                for op in ("$eq", "$gt", "$gte", "$lt", "$lte"):
                    tree = parse_filter({key: {op: value}})
                    expected = {row.id for row in stored if matches(tree, row.id, row.metadata)}
                    assert set(contents(backend, filter=tree)) == expected, (op, value)

    def test_what_is_not_pushed_down(self, made: Callable[..., PgvectorBackend]) -> None:
        backend = made()
        deep: Any = "x"
        for _ in range(20):
            deep = {"k": deep}
        backend.upsert(batch([Row("deep", None, deep), Row("flat", None, {"t": "Straße"})]))
        many: Any = {"$or": [{"n": i} for i in range(1000)] + [{"t": "Straße"}]}
        for asked, expected in [
            ({".".join("k" * 20): "x"}, {"deep"}),
            ({"t": {"$itext": "STRASSE"}}, {"flat"}),
            (many, {"flat"}),
        ]:
            tree = parse_filter(asked)
            assert tree is not None and not backend.can_filter(tree)
            assert set(contents(backend, filter=tree)) == expected
        nested: Any = {"t": "Straße"}
        for _ in range(60):
            nested = {"$not": nested}
        tree = parse_filter(nested)
        assert tree is not None and backend.can_filter(tree) and set(contents(backend, filter=tree)) == {"flat"}
        listed = And((IdIn(frozenset(["deep", "x"])), Not(IdIn(frozenset(["flat"])))))
        assert set(contents(backend, filter=listed)) == {"deep"}


class TestTables:
    def test_a_table_that_is_not_ours(
        self, connect: Callable[..., PgvectorBackend], superuser: psycopg.Connection[Any], schema: str
    ) -> None:
        owner, where = sql.Identifier(USER), sql.Identifier(schema)
        superuser.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(where, owner))
        table = sql.Identifier(schema, "mrl_collections")
        superuser.execute(sql.SQL("CREATE TABLE {} (precious text)").format(table))
        superuser.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(table, owner))
        backend = connect()
        for call in (backend.read_manifest, backend.collections, lambda: backend.write_manifest(MANIFEST, None)):
            with pytest.raises(NotACollection, match="mrl_collections"):
                call()
        superuser.execute(sql.SQL("DROP TABLE {}").format(table))
        superuser.execute(sql.SQL("CREATE TABLE {} (precious text)").format(sql.Identifier(schema, "mrl_rows_1")))
        with pytest.raises(NotACollection, match="mrl_rows_1"):
            backend.write_manifest(MANIFEST, None)
        assert backend.collections() == [] and backend.read_manifest() is None
        superuser.execute(sql.SQL("SELECT precious FROM {}").format(sql.Identifier(schema, "mrl_rows_1")))

    def test_dims_beyond_pgvectors(self, connect: Callable[..., PgvectorBackend]) -> None:
        backend = connect()
        with pytest.raises(DimensionError, match=r"2001.*2000.*halfvec"):
            backend.write_manifest(Manifest(dim=4096, coarse_dims=2001, fine_dims=4096), None)
        with pytest.raises(DimensionError, match=r"16001.*16000"):
            backend.write_manifest(Manifest(dim=16001, coarse_dims=64, fine_dims=16001), None)
        assert backend.collections() == []
        half = connect("half", coarse_quantization="halfvec")
        half.write_manifest(Manifest(dim=16_000, coarse_dims=4000, fine_dims=16_000), None)
        wide = normalize(np.random.default_rng(0).standard_normal((2, 16_000)).astype(np.float32))
        half.upsert(batch([Row("a", None, {}, wide[0]), Row("b", None, {}, wide[1])], 16_000))
        (ranking,) = half.search(SearchRequest(wide[1:], (Stage(4000, 2), Stage(16_000, 1))))
        assert ranking.rows[0].id == "b" and ranking.scores[0] == pytest.approx(1.0, abs=1e-5)

    def test_a_batch_of_other_dims(self, made: Callable[..., PgvectorBackend]) -> None:
        backend = made()
        with pytest.raises(DimensionError, match=r"\(1, 3\).*24"):
            backend.upsert(RowBatch(["a"], [None], [{}], np.ones((1, 3), np.float32), np.ones(1, np.bool_)))
        assert backend.count() == 0

    def test_settings_are_those_of_the_collection(
        self, made: Callable[..., PgvectorBackend], connect: Callable[..., PgvectorBackend]
    ) -> None:
        made(fine_dtype="float16", m=8)
        again = connect()
        assert again.read_manifest() == MANIFEST and again.capabilities.vector_dtype == "float16"
        for options, words in [
            ({"m": 16}, "m=8"),
            ({"fine_dtype": "float32"}, "float16"),
            ({"coarse_quantization": "binary"}, "none"),
        ]:
            with pytest.raises(CollectionMismatchError, match=words):
                connect(**options).read_manifest()
        assert connect(m=8).read_manifest() == MANIFEST

    def test_dropped_by_somebody_else(
        self, made: Callable[..., PgvectorBackend], connect: Callable[..., PgvectorBackend]
    ) -> None:
        first, second = made(), connect()
        first.upsert(batch(rows(3)))
        assert second.count() == 3
        second.drop()
        for call in (first.count, lambda: first.upsert(batch(rows(1)))):
            with pytest.raises(CollectionNotFound):
                call()
        second.write_manifest(replace(MANIFEST, collection_id="new"), None)
        assert first.count() == 0

    def test_of_many_makers_one_makes_it(self, connect: Callable[..., PgvectorBackend]) -> None:
        """Schema and list are missing too."""
        backends = [connect(f"c{i % 2}") for i in range(8)]
        start, outcomes = threading.Barrier(8), []

        def make(backend: PgvectorBackend, manifest: Manifest) -> None:
            start.wait()
            try:
                backend.write_manifest(manifest, None)
                outcomes.append("made")
            except ConflictError:
                outcomes.append("conflict")

        threads = [
            threading.Thread(target=make, args=(b, replace(MANIFEST, collection_id=str(i))))
            for i, b in enumerate(backends)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["conflict"] * 6 + ["made"] * 2

    def test_of_many_changes_one_is_made(
        self, made: Callable[..., PgvectorBackend], connect: Callable[..., PgvectorBackend]
    ) -> None:
        made()
        backends = [connect() for _ in range(6)]
        for backend in backends:
            backend.read_manifest()
        outcomes = []

        def change(backend: PgvectorBackend, i: int) -> None:
            try:
                backend.write_manifest(MANIFEST.with_plan({"i": i}), MANIFEST)
                outcomes.append(i)
            except ConflictError:
                pass

        threads = [threading.Thread(target=change, args=(b, i)) for i, b in enumerate(backends)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 1
        read = connect().read_manifest()
        assert read is not None and read.plan == {"i": outcomes[0]}

    def test_a_database_without_the_extension_or_of_another_encoding(
        self, postgres: PostgresServer, superuser: psycopg.Connection[Any]
    ) -> None:
        owner = sql.Identifier(USER)
        superuser.execute(sql.SQL("CREATE DATABASE bare OWNER {}").format(owner))
        superuser.execute(sql.SQL("CREATE DATABASE latin OWNER {} ENCODING 'LATIN1' TEMPLATE template0").format(owner))
        try:
            place = f"pgvector+{postgres.url}"
            with open_backend(place.replace("vectors", "bare"), **LOGIN) as backend:
                assert backend.read_manifest() is None and backend.collections() == []
                with pytest.raises(BackendError, match="superuser run CREATE EXTENSION vector"):
                    backend.write_manifest(MANIFEST, None)
            with (
                open_backend(place.replace("vectors", "latin"), **LOGIN) as backend,
                pytest.raises(BackendError, match="LATIN1"),
            ):
                backend.write_manifest(MANIFEST, None)
        finally:
            for name in ("bare", "latin"):
                superuser.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def test_a_user_without_rights(
        self,
        made: Callable[..., PgvectorBackend],
        connect: Callable[..., PgvectorBackend],
        superuser: psycopg.Connection[Any],
    ) -> None:
        made().upsert(batch(rows(2)))
        role = f"stranger_{uuid.uuid4().hex[:8]}"
        superuser.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x'").format(sql.Identifier(role)))
        try:
            with pytest.raises(BackendError, match="permission denied"):
                connect(user=role, password="x").read_manifest()
        finally:
            superuser.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


class TestWriting:
    def test_a_failed_batch_leaves_nothing(self, made: Callable[..., PgvectorBackend]) -> None:
        """The last of several statements of one batch fails."""
        backend = made()
        backend.upsert(batch(rows(10)))
        wrong = batch([*rows(1200, seed=3), Row("bad", None, {}, vectors(1)[0])])
        assert wrong.vectors is not None
        wrong.vectors[-1, 0] = np.nan
        with pytest.raises(BackendError, match="NaN"):
            backend.upsert(wrong)
        assert backend.count() == 10
        assert np.array_equal(contents(backend, vectors=True)["id3"].vector, vectors(10)[3])

    def test_equal_rows_are_not_written_again(
        self, made: Callable[..., PgvectorBackend], superuser: psycopg.Connection[Any]
    ) -> None:
        backend = made()
        stored = rows(20)
        backend.upsert(batch(stored))
        query = sql.SQL("SELECT id, xmin::text FROM {}").format(backend._layout.table)
        before = dict(superuser.execute(query).fetchall())
        changed = [
            replace(stored[0], metadata={"i": 0.0, "third": 0}),
            replace(stored[1], vector=None),
            replace(stored[2], document=None),
        ]
        backend.upsert(batch([*changed, *stored[3:]]))
        after = dict(superuser.execute(query).fetchall())
        assert {id for id in before if before[id] != after[id]} == {"id0", "id1", "id2"}
        got = backend.get(["id0", "id1", "id2"], vectors=True)
        assert repr(got[0] and got[0].metadata) == "{'i': 0.0, 'third': 0}"
        assert got[1] is not None and got[1].vector is None and got[2] is not None and got[2].document is None

    def test_writers_of_the_same_ids_wait_for_one_another(
        self, connect: Callable[..., PgvectorBackend], made: Callable[..., PgvectorBackend]
    ) -> None:
        made()
        problems: list[BaseException] = []

        def write(backend: PgvectorBackend, seed: int) -> None:
            order = np.random.default_rng(seed).permutation(60)
            try:
                for turn in range(6):
                    some = [
                        Row(f"id{i}", f"{seed}.{turn}", {"w": seed}, v)
                        for i, v in zip(order, vectors(60, seed * 10 + turn), strict=True)
                    ]
                    backend.upsert(batch(some))
                    backend.delete([f"id{i}" for i in order[:20]])
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=write, args=(connect(), seed)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        found = contents(connect(), vectors=True)
        assert len(found) <= 60 and all(row.vector is not None for row in found.values())

    def test_more_threads_than_connections(self, made: Callable[..., PgvectorBackend]) -> None:
        backend = made(pool_size=3)
        backend.upsert(batch(rows(200)))
        problems: list[BaseException] = []

        def work(seed: int) -> None:
            try:
                for turn in range(5):
                    backend.upsert(batch([Row(f"t{seed}.{turn}", None, {}, vectors(1, seed)[0])]))
                    (ranking,) = backend.search(SearchRequest(vectors(1, seed), (Stage(COARSE, 300), Stage(DIM, 1))))
                    assert ranking.scores[0] == pytest.approx(1.0, abs=1e-5)
                    assert backend.delete([f"t{seed}.{turn}"]) == 1
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == [] and backend.count() == 200

    def test_a_killed_writer_leaves_its_batch_whole_or_not_at_all(
        self, made: Callable[..., PgvectorBackend], postgres: PostgresServer, schema: str
    ) -> None:
        backend = made()
        program = textwrap.dedent(
            """
            import sys, os, itertools
            import numpy as np
            from mrl_retrieval.registry import open_backend
            from mrl_retrieval.documents import RowBatch
            backend = open_backend(sys.argv[1], user=os.environ["W_USER"], password=os.environ["W_PASSWORD"], schema=sys.argv[2])
            for turn in itertools.count():
                v = np.zeros((700, 24), np.float32); v[:, turn % 24] = 1
                backend.upsert(RowBatch([f"{sys.argv[3]}.{i}" for i in range(700)], [str(turn)] * 700, [{"turn": turn}] * 700, v, np.ones(700, bool)))
                print(turn, flush=True)
            """
        )
        env = {**os.environ, "W_USER": USER, "W_PASSWORD": PASSWORD}
        rng = np.random.default_rng(int(time.time()))
        for turn in range(4):
            command = [sys.executable, "-c", program, f"pgvector+{postgres.url}", schema, f"w{turn}"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True) as writer:
                assert writer.stdout is not None
                acknowledged = int(writer.stdout.readline())
                time.sleep(float(rng.uniform(0, 0.4)))
                writer.send_signal(signal.SIGKILL)
                acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
            deadline = time.monotonic() + 30
            while True:  # the server may still be committing what it was told to commit
                mine = [row for row in contents(backend, vectors=True).values() if row.id.startswith(f"w{turn}.")]
                turns = {row.metadata["turn"] for row in mine}
                assert len(mine) == 700 and len(turns) == 1
                (last,) = turns
                for row in mine:
                    assert row.document == str(last) and row.vector is not None and row.vector[last % 24] == 1
                if last >= acknowledged or time.monotonic() > deadline:
                    break
            assert last in (acknowledged, acknowledged + 1)
            query = np.eye(24, dtype=np.float32)[last % 24]
            (ranking,) = backend.search(SearchRequest(query[None], (Stage(COARSE, 3000), Stage(DIM, 700))))
            assert len(ranking.rows) == 700


class TestAServerThatGoes:
    @pytest.fixture(scope="class")
    def server(self) -> Iterator[PostgresServer]:
        with run_postgres("max_connections = 10", "superuser_reserved_connections = 3") as server:
            yield server

    @pytest.fixture
    def backend(self, server: PostgresServer) -> Iterator[PgvectorBackend]:
        with open_backend(f"pgvector+{server.url}?collection=c{uuid.uuid4().hex[:8]}", timeout=5, **LOGIN) as backend:
            assert isinstance(backend, PgvectorBackend)
            backend.write_manifest(MANIFEST, None)
            backend.upsert(batch(rows(30)))
            yield backend

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
    def test_the_call_after_a_restart_connects_again(
        self, server: PostgresServer, backend: PgvectorBackend, how: signal.Signals
    ) -> None:
        server.restart(how)
        assert backend.count() == 30
        server.stop(how)
        for call in (backend.count, lambda: backend.upsert(batch(rows(40)))):
            with pytest.raises(BackendUnavailable, match="is it running"):
                call()
        server.start()
        assert backend.count() == 30
        backend.upsert(batch(rows(40)))
        assert backend.count() == 40

    def test_a_restart_in_the_middle_of_a_call(self, server: PostgresServer, backend: PgvectorBackend) -> None:
        caught: list[BaseException] = []

        def slow() -> None:
            try:
                backend._ask("sleeping", [Statement(sql.SQL("SELECT pg_sleep(4)"))])
            except BaseException as error:
                caught.append(error)

        thread = threading.Thread(target=slow)
        thread.start()
        with psycopg.connect(server.dsn(), autocommit=True) as look:
            while not look.execute(
                "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
            ).fetchone():
                time.sleep(0.02)
        server.restart()
        thread.join()
        assert len(caught) == 1 and isinstance(caught[0], BackendUnavailable)
        assert backend.count() == 30

    def test_a_statement_that_takes_too_long(self, server: PostgresServer, backend: PgvectorBackend) -> None:
        with open_backend(str(backend.address), timeout=0.3, **LOGIN) as hasty:
            assert isinstance(hasty, PgvectorBackend)
            with pytest.raises(BackendUnavailable, match=r"statement timeout.*raise timeout=0\.3"):
                hasty._ask("sleeping", [Statement(sql.SQL("SELECT pg_sleep(9)"))])
            assert hasty.count() == 30

    def test_a_server_that_stands_still(
        self, server: PostgresServer, backend: PgvectorBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mrl_adapters._pgvector_client._GRACE_SECONDS", 0.2)
        with open_backend(str(backend.address), timeout=0.3, **LOGIN) as hasty:
            assert isinstance(hasty, PgvectorBackend) and hasty.count() == 30
            with psycopg.connect(server.dsn(), autocommit=True) as look:
                (pid,) = look.execute(
                    "SELECT pid FROM pg_stat_activity WHERE application_name = 'mrl_retrieval' ORDER BY backend_start DESC LIMIT 1"
                ).fetchone() or (0,)
                os.kill(pid, signal.SIGSTOP)
                try:
                    with pytest.raises(BackendUnavailable, match=r"no answer.*timeout=0\.3"):
                        hasty.count()
                finally:
                    os.kill(pid, signal.SIGCONT)
            assert hasty.count() == 30

    def test_more_connections_than_the_server_takes(self, server: PostgresServer, backend: PgvectorBackend) -> None:
        held = [psycopg.connect(server.dsn(user=USER)) for _ in range(6)]
        try:
            with (
                open_backend(str(backend.address), timeout=5, **LOGIN) as late,
                pytest.raises(BackendUnavailable, match="slots|clients"),
            ):
                late.count()
        finally:
            for connection in held:
                connection.close()

    def test_all_connections_busy(self, backend: PgvectorBackend) -> None:
        with open_backend(str(backend.address), timeout=1, pool_size=1, **LOGIN) as small:
            assert isinstance(small, PgvectorBackend) and small.count() == 30
            inside, go = threading.Event(), threading.Event()

            def hold() -> None:
                def work(_: Any) -> None:
                    inside.set()
                    go.wait(30)

                small._connections.transact("holding", work)

            thread = threading.Thread(target=hold)
            thread.start()
            inside.wait(30)
            with pytest.raises(BackendUnavailable, match="pool_size"):
                small.count()
            go.set()
            thread.join()
            assert small.count() == 30

    @pytest.mark.parametrize(
        ("error", "kind", "words"),
        [
            (errors.DiskFull("could not extend file"), BackendError, "make room"),
            (errors.OutOfMemory("out of memory"), BackendError, "smaller batches"),
            (errors.ReadOnlySqlTransaction("cannot execute INSERT"), BackendError, "primary"),
            (errors.DeadlockDetected("deadlock detected"), BackendUnavailable, "repeat"),
            (errors.SerializationFailure("could not serialize"), BackendUnavailable, "repeat"),
            (errors.LockNotAvailable("lock timeout"), LockTimeout, "holds"),
            (errors.AdminShutdown("terminating connection"), BackendUnavailable, "is it running"),
            (errors.TooManyConnections("too many"), BackendUnavailable, "is it running"),
            (psycopg.OperationalError("FATAL: the database system is starting up"), BackendUnavailable, "starting up"),
            (errors.DataException("expected 24 dimensions, not 8"), BackendError, "expected 24"),
        ],
    )
    def test_what_cannot_be_provoked_here(self, error: psycopg.Error, kind: type[BackendError], words: str) -> None:
        mapped = Errors(Address.parse("pgvector:"), 1, list).error("writing rows", error)
        assert type(mapped) is kind and words in str(mapped)


def test_the_superuser_is_not_needed(postgres: PostgresServer, superuser: psycopg.Connection[Any]) -> None:
    """The suite writes as an ordinary user."""
    assert SUPERUSER != USER
    assert superuser.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", [USER]).fetchone() == (False,)


def test_a_forked_child_leaves_the_parents_connections_alone(made: Callable[..., PgvectorBackend]) -> None:
    backend = made()
    given = rows(30)
    backend.upsert(batch(given))
    for _ in range(5):
        children = []
        for _ in range(3):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    right = all(backend.count() == 30 and backend.get([r.id])[0] is not None for r in given[:5])
                    backend.close()
                    status = 0 if right else 2
                finally:
                    os._exit(status)
            children.append(child)
        for row in given[:5]:
            assert backend.get([row.id])[0] is not None and backend.count() == 30
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    assert backend.count() == 30
