"""Which Chroma collections are ours, and the manifest that makes them so."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("chromadb", reason="chromadb is not installed: pip install 'mrl-retrieval[chroma]'")

from mrl_adapters._chroma.collections import Collections
from mrl_adapters.chroma import ChromaBackend
from mrl_retrieval.documents import Row
from mrl_retrieval.errors import (
    CollectionNotFound,
    ConflictError,
    ManifestError,
    NotACollection,
)
from mrl_retrieval.filters import parse_filter
from mrl_retrieval.manifest import Canaries, Manifest
from mrl_retrieval.registry import open_backend
from tests.backends.chroma.helpers import MANIFEST, made, rows, vectors
from tests.backends.common import batch_of


def test_collections_are_ours_alone_and_drop_leaves_the_others(opener: Callable[[], str]) -> None:
    with made(opener()) as backend:
        name = backend.address.collection
        client = backend._connection.client()
        client.create_collection(f"users-{name}", embedding_function=None)
        backend.upsert(batch_of(rows(5)))
        assert name in backend.collections()
        assert not any("users" in other for other in backend.collections())
        assert (backend.read_manifest() or MANIFEST).collection_id == MANIFEST.collection_id
        backend.drop()
        backend.drop()
        assert backend.read_manifest() is None
        assert name not in backend.collections()
        left = [c.name for c in client.list_collections() if c.name.endswith(name)]
        assert left == [f"users-{name}"]
        with pytest.raises(CollectionNotFound):
            backend.count()


def test_a_dropped_collection_haunts_no_other(opener: Callable[[], str]) -> None:
    """Chroma keeps the lists of a deleted collection's rows, and gives them to new rows of the same number."""
    with made(opener()) as backend:
        backend.upsert(batch_of([*rows(20), Row("bare", None, {"l": [1]}, None)]))
        backend.drop()
        client = backend._connection.client()
        theirs = client.create_collection(f"t{uuid.uuid4().hex}", embedding_function=None)
        theirs.upsert(ids=[str(i) for i in range(60)], embeddings=vectors(60), documents=["text"] * 60)
        assert not any(theirs.get()["metadatas"])
        theirs.upsert(ids=[str(i) for i in range(60)], embeddings=vectors(60), metadatas=[{"_terms": ["."]}] * 60)
        client.delete_collection(theirs.name)  # as another program would, which leaves its lists behind
        backend.write_manifest(MANIFEST, None)
        backend.upsert(batch_of(rows(20)))
        assert backend.count() == 20
        assert backend.count(parse_filter({"third": {"$ne": 7}})) == 20


def test_what_a_dropped_collection_leaves_is_never_taken_up(memory: ChromaBackend) -> None:
    memory.upsert(batch_of(rows(3)))
    client = memory._connection.client()
    client.get_collection("mrl-coarse.default", embedding_function=None).modify(name="mrl-dropped.0123456789ab.default")
    assert memory.read_manifest() is None
    memory.write_manifest(MANIFEST, None)
    assert memory.count() == 0
    assert len(client.list_collections()) == 4
    memory.repair()
    assert len(client.list_collections()) == 2


def test_a_drop_takes_nothing_that_somebody_else_is_making(memory: ChromaBackend) -> None:
    """Full vectors are made first, and are nobody's until the collection is there."""
    memory.upsert(batch_of(rows(3)))
    client = memory._connection.client()
    making = "mrl-full.0123456789ab.default"
    client.create_collection(making, metadata={"mrl_role": "full"}, embedding_function=None)
    memory.drop()
    assert [c.name for c in client.list_collections()] == [making]
    memory.write_manifest(MANIFEST, None)
    memory.repair()
    assert making not in [c.name for c in client.list_collections()]
    assert memory.count() == 0


def test_a_drop_takes_nothing_of_somebody_elses(memory: ChromaBackend) -> None:
    """Whatever the metadata says that the full vectors are."""
    client, coarse = memory._connection.client(), memory._pair().coarse
    for name in ("None", "theirs"):
        client.create_collection(name, embedding_function=None)
    coarse.modify(metadata={**coarse.metadata, "mrl_full": "theirs"})
    memory.drop()
    assert {"None", "theirs"} <= {c.name for c in client.list_collections()}
    assert memory.read_manifest() is None


def test_another_thread_that_looks_anew_takes_nothing_away(
    memory: ChromaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if one did so between any two steps: the handles are never there for long."""
    memory.upsert(batch_of(rows(3)))
    gone = property(lambda _: None, lambda _, pair: None)
    monkeypatch.setattr(Collections, "_pair", gone, raising=False)
    assert memory.count() == 3
    stored = memory.read_manifest()
    memory.write_manifest(MANIFEST.with_plan({"coarse_top_k": 300}), stored)
    changed = memory.read_manifest()
    assert changed is not None and changed.plan == {"coarse_top_k": 300}


def test_the_manifest_is_compared_before_it_is_replaced(opener: Callable[[], str]) -> None:
    canaries = Canaries(vectors(8, dim=2048), vectors(8, dim=2048))
    large = Manifest(dim=2048, coarse_dims=64, fine_dims=2048, canaries=canaries)
    assert len(large.dumps()) > 40_000
    with made(opener(), large) as backend:
        stored = backend.read_manifest()
        assert stored is not None and stored.checksum == large.checksum
        changed = large.with_plan({"coarse_top_k": 300})
        backend.write_manifest(changed, stored)
        assert (backend.read_manifest() or large).checksum == changed.checksum
        with pytest.raises(ConflictError):
            backend.write_manifest(large.with_plan({"other": 1}), large)
        with pytest.raises(ConflictError):
            backend.write_manifest(large, None)


def test_a_damaged_manifest_is_noticed(tmp_path: Path) -> None:
    with made(f"chroma:{tmp_path}") as backend:
        coarse = backend._pair().coarse
        coarse.modify(metadata={**coarse.metadata, "mrl_manifest": coarse.metadata["mrl_manifest"][:-40]})
        with pytest.raises(ManifestError):
            backend.read_manifest()
        backend.drop()
        assert backend.read_manifest() is None


def test_a_foreign_collection_under_our_name_is_refused(opener: Callable[[], str]) -> None:
    with open_backend(opener()) as backend:
        assert isinstance(backend, ChromaBackend)
        name = f"mrl-coarse.{backend.address.collection}"
        client = backend._connection.client()
        client.create_collection(name, metadata={"by": "somebody"}, embedding_function=None)
        for attempt in (backend.read_manifest, lambda: backend.write_manifest(MANIFEST, None), backend.drop):
            with pytest.raises(NotACollection, match="did not make"):
                attempt()
        assert backend.collections() == [] or backend.address.collection not in backend.collections()
        assert client.get_collection(name, embedding_function=None).metadata == {"by": "somebody"}


def test_attachments_leave_nothing_behind(opener: Callable[[], str]) -> None:
    with made(opener()) as backend:
        name, client = backend.address.collection, backend._connection.client()
        backend.write_attachment("rotation", bytes(250_000))
        backend.write_attachment("rotation", bytes(150_000))
        (blobs,) = [c for c in client.list_collections() if c.name.startswith("mrl-blobs.") and c.name.endswith(name)]
        assert blobs.count() == 4  # a head and three pieces
        blobs.upsert(ids=["rotation.interrupted.000000"], embeddings=[[1.0]], metadatas=[{"text": "a"}])
        backend.repair()
        assert blobs.count() == 4 and backend.read_attachment("rotation") == bytes(150_000)
        backend.drop()
        assert not [c.name for c in client.list_collections() if c.name.endswith(name)]
        backend.write_manifest(MANIFEST, None)
        # Of an interrupted drop.
        client.create_collection(
            f"mrl-blobs.0123456789ab.{name}", metadata={"mrl_role": "blobs"}, embedding_function=None
        )
        backend.write_attachment("rotation", b"1")
        backend.repair()
        assert backend.read_attachment("rotation") == b"1"
        left = [c.name for c in client.list_collections() if c.name.endswith(name)]
        assert len(left) == 3 and f"mrl-blobs.0123456789ab.{name}" not in left


def test_two_make_the_place_of_attachments_in_the_same_moment(
    opener: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chroma refuses the second; both write to the first."""
    find = Collections._find
    with made(opener()) as backend:
        waiting: list[str] = []

        def looked_before(self: Collections, client: object, name: str) -> object:
            if name.startswith("mrl-blobs.") and not waiting:
                waiting.append(name)
                backend.write_attachment("theirs", b"theirs")  # meanwhile
                return None
            return find(self, client, name)

        monkeypatch.setattr(Collections, "_find", looked_before)
        backend.write_attachment("ours", b"ours")
        assert waiting
        assert (backend.read_attachment("theirs"), backend.read_attachment("ours")) == (b"theirs", b"ours")
