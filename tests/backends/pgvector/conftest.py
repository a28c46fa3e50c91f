"""Backends in a schema of each test's own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from mrl_retrieval.manifest import Manifest
from mrl_retrieval.registry import open_backend
from tests.postgres_server import PASSWORD, USER, PostgresServer

if TYPE_CHECKING:  # without psycopg the tests skip, and this file is read all the same
    import psycopg

    from mrl_adapters.pgvector import PgvectorBackend
    from tests.backends.pgvector.helpers import Connect


@pytest.fixture
def superuser(postgres: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    import psycopg

    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def schema(superuser: psycopg.Connection[Any]) -> Iterator[str]:
    from psycopg import sql

    name = f'odd "schema" {{0}} {uuid.uuid4().hex[:8]}; --'
    yield name
    superuser.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))


@pytest.fixture
def connect(postgres: PostgresServer, schema: str) -> Iterator[Connect]:
    """Opens backends in a schema of the test's own."""
    from mrl_adapters.pgvector import PgvectorBackend

    opened: list[PgvectorBackend] = []

    def one(collection: str = "default", **options: Any) -> PgvectorBackend:
        address = f"pgvector+{postgres.url}?collection={collection}"
        backend = open_backend(address, **{"user": USER, "password": PASSWORD, "schema": schema, **options})
        assert isinstance(backend, PgvectorBackend)
        opened.append(backend)
        return backend

    yield one
    for backend in opened:
        backend.close()


@pytest.fixture
def made(connect: Connect) -> Connect:
    """Opens a backend and makes its collection."""
    from tests.backends.pgvector.helpers import MANIFEST

    def one(collection: str = "default", manifest: Manifest = MANIFEST, **options: Any) -> PgvectorBackend:
        backend = connect(collection, **options)
        backend.write_manifest(manifest, None)
        return backend

    return one
