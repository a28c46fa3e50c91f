"""The shipped suite on ``pgvector``, against a real PostgreSQL; each test gets a schema of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from mrl_retrieval.testing import BackendConformance

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'mrl-retrieval[pgvector]'")

import psycopg
from psycopg import sql

from tests.postgres_server import PASSWORD, USER, PostgresServer


class PgvectorConformance(BackendConformance):
    settings: dict[str, Any] = {}  # noqa: RUF012

    @pytest.fixture
    def address(self, postgres: PostgresServer) -> Iterator[str]:
        schema = f"Schema {uuid.uuid4().hex[:12]}"
        self.options = {"user": USER, "password": PASSWORD, "schema": schema, **self.settings}
        yield f"pgvector+{postgres.url}"
        with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))


class TestPgvector(PgvectorConformance):
    pass


@pytest.mark.slow
class TestPgvectorFloat16(PgvectorConformance):
    settings = {"fine_dtype": "float16", "coarse_quantization": "halfvec"}  # noqa: RUF012


@pytest.mark.slow
class TestPgvectorBinary(PgvectorConformance):
    """The suite's 8 coarse dims are 8 bits here: many candidates are needed to make up for it."""

    settings = {"coarse_quantization": "binary", "iterative_scan": "strict_order", "oversampling": 10}  # noqa: RUF012
