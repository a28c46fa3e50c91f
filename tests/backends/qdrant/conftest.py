"""Servers that the qdrant backend is tried against."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from mrl_retrieval.registry import open_backend
from tests.backends.common import manifest
from tests.backends.qdrant.stub import Stub, collection_info, ok
from tests.qdrant_server import QdrantServer, run_qdrant


@pytest.fixture
def server() -> Iterator[QdrantServer]:
    with run_qdrant() as running:
        yield running


@pytest.fixture
def stub() -> Iterator[Stub]:
    server = Stub()
    server.answers["GET /collections/default/exists"] = ok({"exists": True})
    server.answers["GET /collections/default"] = ok(collection_info({"mrl_retrieval": manifest().dumps()}))
    yield server
    server.close()


@pytest.fixture
def live() -> Iterator[str]:
    url = os.environ.get("MRL_QDRANT_URL")
    if not url:
        pytest.skip("MRL_QDRANT_URL is not set: no Qdrant server to test against")
    name = f"mrl-test-{uuid.uuid4().hex[:12]}"
    yield f"qdrant+{url}?collection={name}"
    with open_backend(f"qdrant+{url}?collection={name}") as backend:
        backend.drop()
