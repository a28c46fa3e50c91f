"""Attachments on Qdrant: where their pieces lie, and that nothing of them is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("qdrant_client", reason="qdrant-client is not installed: pip install 'mrl-retrieval[qdrant]'")

from mrl_adapters.qdrant import QdrantBackend
from mrl_retrieval.registry import open_backend
from tests.backends.common import leaves_nothing_behind, manifest
from tests.qdrant_server import run_qdrant


@pytest.fixture(params=["folder", "server"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QdrantBackend]:
    if request.param == "folder":
        with open_backend(f"qdrant:{tmp_path}/kb") as opened:
            assert isinstance(opened, QdrantBackend)
            yield opened
        return
    with run_qdrant() as server, open_backend(f"qdrant+{server.url}", replication_factor=1) as opened:
        assert isinstance(opened, QdrantBackend)
        yield opened


def names(backend: QdrantBackend) -> list[str]:
    listed = backend._run("listing", lambda c: c.get_collections()).collections
    return sorted(each.name for each in listed)


def test_nothing_is_left_behind(backend: QdrantBackend) -> None:
    leaves_nothing_behind(backend, names, lambda first: backend._blobs().find(first), 300_000)


def test_the_rows_are_in_a_collection_of_our_name(backend: QdrantBackend) -> None:
    backend.write_manifest(manifest(), None)
    assert names(backend) == ["default"]


def test_what_an_interrupted_drop_left_is_never_taken_up_again(backend: QdrantBackend) -> None:
    backend.write_manifest(manifest(), None)
    backend.write_attachment("rotation", b"old")
    backend._run("dropping half", lambda c: c.delete_collection("default"))
    assert backend.read_attachment("rotation") is None
    backend.write_manifest(manifest(), None)
    assert backend.read_attachment("rotation") is None
    backend.write_attachment("rotation", b"new")
    assert len(names(backend)) == 3
    backend._run("another's", lambda c: c.create_collection("default.mrl-blobs.theirs", vectors_config=_one()))
    backend.repair()
    assert len(names(backend)) == 3 and "default.mrl-blobs.theirs" in names(backend)
    assert backend.read_attachment("rotation") == b"new"


def test_many_pieces(backend: QdrantBackend) -> None:
    """More keys than are listed at once."""
    backend.write_manifest(manifest(), None)
    for i in range(110):
        backend.write_attachment(f"a{i}", b"1")
    backend.repair()
    assert all(backend.read_attachment(f"a{i}") == b"1" for i in range(110))


def _one() -> dict[str, object]:
    from qdrant_client import models

    return {"none": models.VectorParams(size=1, distance=models.Distance.DOT)}
