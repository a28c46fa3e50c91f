"""Collections where other users can get to them."""

from __future__ import annotations

import pytest

from tests.backends import common
from tests.backends.faiss.helpers import rows, vectors_of
from tests.backends.faiss.permissions.nobody import IDS, visible_folder


@pytest.fixture
def place():
    with visible_folder() as folder:
        yield folder


@pytest.fixture
def address(place):
    return f"faiss:{place}/kb"


@pytest.fixture
def filled(opened, address):
    backend = opened(address)
    backend.write_manifest(common.manifest(), None)
    backend.upsert(rows(IDS, vectors_of(40)))
    return backend
