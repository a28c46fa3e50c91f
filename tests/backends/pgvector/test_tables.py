"""The tables: whose they are, what they take, and who makes them."""

from __future__ import annotations

import threading
import uuid
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'mrl-retrieval[pgvector]'")

import psycopg
from psycopg import sql

from mrl_adapters.pgvector import PgvectorBackend
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import (
    BackendError,
    CollectionMismatchError,
    CollectionNotFound,
    ConflictError,
    DimensionError,
    NotACollection,
)
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import normalize
from mrl_retrieval.registry import open_backend
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.backends.common import DIM, batch_of
from tests.backends.pgvector.helpers import COARSE, LOGIN, MANIFEST, Connect, rows, vectors
from tests.postgres_server import SUPERUSER, USER, PostgresServer


class TestTables:
    def test_a_table_that_is_not_ours(self, connect: Connect, superuser: psycopg.Connection[Any], schema: str) -> None:
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

    def test_dims_beyond_pgvectors(self, connect: Connect) -> None:
        backend = connect()
        with pytest.raises(DimensionError, match=r"2001.*2000.*halfvec"):
            backend.write_manifest(Manifest(dim=4096, coarse_dims=2001, fine_dims=4096), None)
        with pytest.raises(DimensionError, match=r"16001.*16000"):
            backend.write_manifest(Manifest(dim=16001, coarse_dims=64, fine_dims=16001), None)
        assert backend.collections() == []
        half = connect("half", coarse_quantization="halfvec")
        half.write_manifest(Manifest(dim=16_000, coarse_dims=4000, fine_dims=16_000), None)
        wide = normalize(np.random.default_rng(0).standard_normal((2, 16_000)).astype(np.float32))
        half.upsert(batch_of([Row("a", None, {}, wide[0]), Row("b", None, {}, wide[1])], 16_000))
        (ranking,) = half.search(SearchRequest(wide[1:], (Stage(4000, 2), Stage(16_000, 1))))
        assert ranking.rows[0].id == "b" and ranking.scores[0] == pytest.approx(1.0, abs=1e-5)

    def test_as_many_dims_as_a_graph_of_signs_takes(self, connect: Connect) -> None:
        """More than a vector has cannot be asked for."""
        backend = connect(coarse_quantization="binary")
        with pytest.raises(DimensionError, match=r"coarse_dims=16001.*16000"):
            backend.write_manifest(Manifest(dim=16_001, coarse_dims=16_001, fine_dims=16_001), None)
        assert backend.collections() == []
        backend.write_manifest(Manifest(dim=16_000, coarse_dims=15_999, fine_dims=16_000), None)
        wide = normalize(np.random.default_rng(0).standard_normal((3, 16_000)).astype(np.float32))
        backend.upsert(batch_of([Row(f"id{i}", None, {}, v) for i, v in enumerate(wide)], 16_000))
        (ranking,) = backend.search(SearchRequest(wide[1:2], (Stage(15_999, 2), Stage(16_000, 1))))
        assert ranking.rows[0].id == "id1" and ranking.scores[0] == pytest.approx(1.0, abs=1e-5)

    @pytest.mark.parametrize(("dims", "outside"), [(384, "document"), (512, "coarse")])
    def test_what_goes_out_of_a_long_row(
        self, made: Connect, superuser: psycopg.Connection[Any], dims: int, outside: str
    ) -> None:
        """Beside the full vector: the text, so that prefixes are scored without a look elsewhere; never the metadata."""
        backend = made(manifest=Manifest(dim=1024, coarse_dims=dims, fine_dims=1024))
        rng = np.random.default_rng(0)
        full = normalize(rng.standard_normal((5, 1024)).astype(np.float32))
        texts = [bytes(rng.integers(33, 126, 900).tolist()).decode() for _ in full]  # does not compress
        backend.upsert(batch_of([Row(t[:9], t, {"begins": t[:9]}, v) for t, v in zip(texts, full, strict=True)], 1024))
        columns = ["fine", "coarse", "document", "metadata", "metadata_text", "kinds"]
        query = sql.SQL("SELECT {} FROM {}").format(
            sql.SQL(", ").join(sql.SQL("pg_column_toast_chunk_id({})").format(sql.Identifier(c)) for c in columns),
            backend._session.layout.table,
        )
        for places in superuser.execute(query).fetchall():
            assert {c for c, place in zip(columns, places, strict=True) if place is not None} == {"fine", outside}

    def test_a_batch_of_other_dims(self, made: Connect) -> None:
        backend = made()
        with pytest.raises(DimensionError, match=r"\(1, 3\).*24"):
            backend.upsert(RowBatch(["a"], [None], [{}], np.ones((1, 3), np.float32), np.ones(1, np.bool_)))
        assert backend.count() == 0

    def test_settings_are_those_of_the_collection(self, made: Connect, connect: Connect) -> None:
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

    def test_dropped_by_somebody_else(self, made: Connect, connect: Connect) -> None:
        first, second = made(), connect()
        first.upsert(batch_of(rows(3)))
        assert second.count() == 3
        second.drop()
        for call in (first.count, lambda: first.upsert(batch_of(rows(1)))):
            with pytest.raises(CollectionNotFound):
                call()
        second.write_manifest(replace(MANIFEST, collection_id="new"), None)
        assert first.count() == 0

    def test_of_many_makers_one_makes_it(self, connect: Connect) -> None:
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

    def test_of_many_changes_one_is_made(self, made: Connect, connect: Connect) -> None:
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
        made: Connect,
        connect: Connect,
        superuser: psycopg.Connection[Any],
    ) -> None:
        made().upsert(batch_of(rows(2)))
        role = f"stranger_{uuid.uuid4().hex[:8]}"
        superuser.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x'").format(sql.Identifier(role)))
        try:
            with pytest.raises(BackendError, match="permission denied"):
                connect(user=role, password="x").read_manifest()
        finally:
            superuser.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))

    def test_an_extension_in_another_schema(self, postgres: PostgresServer, superuser: psycopg.Connection[Any]) -> None:
        superuser.execute(sql.SQL("CREATE DATABASE elsewhere OWNER {}").format(sql.Identifier(USER)))
        try:
            with psycopg.connect(postgres.dsn("elsewhere"), autocommit=True) as other:
                other.execute('CREATE SCHEMA "Ext ""x"""')
                other.execute('CREATE EXTENSION vector SCHEMA "Ext ""x"""')
                other.execute(sql.SQL('GRANT USAGE ON SCHEMA "Ext ""x""" TO {}').format(sql.Identifier(USER)))
            with open_backend(f"pgvector+{postgres.url.replace('vectors', 'elsewhere')}", **LOGIN) as backend:
                backend.write_manifest(MANIFEST, None)
                backend.upsert(batch_of(rows(20)))
                (ranking,) = backend.search(SearchRequest(vectors(20)[:1], (Stage(COARSE, 20), Stage(DIM, 3))))
                assert ranking.rows[0].id == "id0"
        finally:
            superuser.execute("DROP DATABASE elsewhere WITH (FORCE)")


def test_the_superuser_is_not_needed(postgres: PostgresServer, superuser: psycopg.Connection[Any]) -> None:
    """The suite writes as an ordinary user."""
    assert SUPERUSER != USER
    assert superuser.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", [USER]).fetchone() == (False,)
