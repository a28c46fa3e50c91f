"""A collection in memory, and addresses in every kind of place."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("chromadb", reason="chromadb is not installed: pip install 'mrl-retrieval[chroma]'")

from mrl_adapters.chroma import ChromaBackend
from tests.backends.chroma.helpers import made


@pytest.fixture
def memory() -> Iterator[ChromaBackend]:
    with made("chroma:") as backend:
        assert isinstance(backend, ChromaBackend)
        yield backend


@pytest.fixture(params=["memory", "folder", "server"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Gives the address of a collection that does not exist yet, in each kind of place."""

    def address() -> str:
        if request.param == "memory":
            return "chroma:"
        if request.param == "folder":
            return f"chroma:{tmp_path / 'kb'}"
        return f"chroma+{request.getfixturevalue('chroma_server')}?collection=t{uuid.uuid4().hex[:12]}"

    return address
