"""Attachments on Milvus Lite: where their pieces lie, and that nothing of them is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pymilvus", reason="pymilvus is not installed: pip install 'mrl-retrieval[milvus]'")
pytest.importorskip("milvus_lite", reason="milvus-lite is not installed: pip install 'mrl-retrieval[milvus]'")

from mrl_adapters.milvus import MilvusBackend
from mrl_retrieval.registry import open_backend
from tests.backends.common import leaves_nothing_behind, manifest


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[MilvusBackend]:
    with open_backend(f"milvus:{tmp_path}/kb") as opened:
        assert isinstance(opened, MilvusBackend)
        yield opened


def names(backend: MilvusBackend) -> list[str]:
    return sorted(backend._connection.call("listing", "list_collections"))


def test_nothing_is_left_behind(backend: MilvusBackend) -> None:
    leaves_nothing_behind(backend, names, lambda first: backend._collections.blobs.find(first), 60_000)


def test_the_rows_are_in_a_collection_of_our_name(backend: MilvusBackend) -> None:
    backend.write_manifest(manifest(), None)
    assert names(backend) == ["mrl_default"]


def test_what_an_interrupted_drop_left_is_never_taken_up_again(backend: MilvusBackend) -> None:
    backend.write_manifest(manifest(), None)
    backend.write_attachment("rotation", b"old")
    backend._connection.call("dropping half", "drop_collection", collection_name="mrl_default")
    assert backend.read_attachment("rotation") is None
    backend.write_manifest(manifest(), None)
    assert backend.read_attachment("rotation") is None
    backend.write_attachment("rotation", b"new")
    assert len(names(backend)) == 3
    backend.repair()
    assert len(names(backend)) == 2 and backend.read_attachment("rotation") == b"new"


def test_an_interrupted_making(backend: MilvusBackend) -> None:
    first = manifest()
    backend.write_manifest(first, None)
    blobs = backend._collections.blobs
    blobs._create(blobs._name(first), first)
    assert backend.read_attachment("rotation") is None
    backend.repair()
    backend.write_attachment("rotation", b"1")
    assert backend.read_attachment("rotation") == b"1"


def test_collections_with_names_alike(tmp_path: Path) -> None:
    """One begins with the other, and with what stands before a collection of attachments."""
    place = f"milvus:{tmp_path}/kb"
    with open_backend(f"{place}?collection=x") as x, open_backend(f"{place}?collection=x_b") as alike:
        for each, content in ((x, b"1"), (alike, b"2")):
            each.write_manifest(manifest(), None)
            each.write_attachment("rotation", content)
        x.repair()
        assert x.collections() == ["x", "x_b"]
        x.drop()
        alike.repair()
        assert alike.read_attachment("rotation") == b"2" and alike.collections() == ["x_b"]
