"""Fresh places for collections on every backend, for tests that go across them."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mrl_retrieval.registry import open_backend
from tests.postgres_server import PASSWORD, USER

__all__ = ["SCHEMES", "Place", "drop_all", "new_place"]

SCHEMES = ["memory", "faiss", "chroma", "qdrant", "qdrant-edge", "pgvector", "milvus", "lancedb"]
Place = tuple[str, dict[str, Any]]
"""An address, and the backend's options."""

_NUMBERS = itertools.count()


def drop_all(place: str) -> None:
    """Drop every collection at an address, so that the next test finds none."""
    with open_backend(place) as backend:
        names = backend.collections()
    for name in names:
        with open_backend(f"{place}?collection={name}") as one:
            one.drop()


@pytest.fixture
def new_place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Place]]:
    """``new_place("faiss")`` gives an empty place that can be opened twice, and stores vectors as float32."""
    schemas: list[str] = []

    def make(scheme: str) -> Place:
        name = f"{scheme}-{next(_NUMBERS)}"
        if scheme == "memory":
            return f"memory:{name}", {}
        if scheme == "pgvector":
            schemas.append(f"test {uuid.uuid4().hex[:12]}")
            server = request.getfixturevalue("postgres")
            return f"pgvector+{server.url}", {"user": USER, "password": PASSWORD, "schema": schemas[-1]}
        return f"{scheme}:{tmp_path / name}", {"fine_dtype": "float32"} if scheme == "faiss" else {}

    yield make
    if schemas:
        import psycopg
        from psycopg import sql

        with psycopg.connect(request.getfixturevalue("postgres").dsn(), autocommit=True) as connection:
            for schema in schemas:
                connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))
