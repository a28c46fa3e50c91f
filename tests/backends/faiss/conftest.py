"""Backends, an empty collection, and one with a cache file, for the tests of this folder."""

import pytest

from mrl_retrieval.registry import open_backend
from tests.backends import common
from tests.backends.faiss.helpers import folder, ids_of, rows, two_stages, vectors_of


@pytest.fixture
def manifest():
    return common.manifest()


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
