"""Chroma collections as users make them become two-stage collections, and stay as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from chromadb.config import Settings

from mrl_adapters._chroma.client import _sessions
from mrl_retrieval import MatryoshkaRetriever, errors
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.moving.importing import Fields, import_collection

TEXTS = [f"document number {i} about topic {i % 7}" for i in range(250)]
ENCODER = HashingEncoder(64)


def client_of(place: str, tmp_path: Path) -> Any:
    if place.startswith("chroma+http"):
        return chromadb.HttpClient(place.removeprefix("chroma+"), settings=Settings(anonymized_telemetry=False))
    return chromadb.PersistentClient(str(tmp_path / "theirs"), settings=Settings(anonymized_telemetry=False))


@pytest.fixture(params=["folder", "server"])
def theirs(request: pytest.FixtureRequest, tmp_path: Path, chroma_server: str) -> Any:
    """The address of somebody's collection, and the collection."""
    place = f"chroma:{tmp_path}/theirs" if request.param == "folder" else f"chroma+{chroma_server}"
    client = client_of(place, tmp_path)
    collection = client.create_collection("docs", embedding_function=None)
    collection.add(
        ids=[f"id-{i}" for i in range(250)],
        embeddings=ENCODER.encode_document(TEXTS) * 3,
        documents=TEXTS,
        metadatas=[{"i": i, "half": i / 2, "even": i % 2 == 0, "page": f"page text {i}"} for i in range(250)],
    )
    yield f"{place}?collection=docs", collection
    for name in [c.name for c in client.list_collections()]:
        client.delete_collection(name)
    client.close()
    for session in _sessions(client):
        session.close()


def snapshot(collection: Any) -> Any:
    found = collection.get(include=["embeddings", "documents", "metadatas"])
    return sorted(zip(found["ids"], found["documents"], (sorted(m.items()) for m in found["metadatas"]), map(bytes, found["embeddings"]), strict=True))  # fmt: skip


def test_beside_the_original(theirs: Any) -> None:
    address, collection = theirs
    before = snapshot(collection)
    report = import_collection(address, encoder=ENCODER, coarse_dims=16, batch_size=60)
    assert report.target == f"{address}-mrl" and (report.rows, report.vectors) == (250, 250)
    assert report.shortest == pytest.approx(3, abs=1e-4) == report.longest
    with MatryoshkaRetriever.open(report.target) as retriever:
        assert retriever.count() == 250 and retriever.count({"even": True, "i": {"$lt": 10}}) == 5
        (hit,) = retriever.search(TEXTS[33], 1)
        assert (hit.id, hit.document, hit.score) == ("id-33", TEXTS[33], pytest.approx(1, abs=1e-5))
        assert hit.metadata == {"i": 33, "half": 16.5, "even": False, "page": "page text 33"}
        (row,) = retriever.get(["id-7"], vectors=True)
        assert row is not None and row.vector is not None
        np.testing.assert_allclose(row.vector, ENCODER.encode_document(TEXTS[7:8])[0], atol=1e-6)
    assert snapshot(collection) == before


def test_to_another_database_and_again(theirs: Any, tmp_path: Path) -> None:
    address, collection = theirs
    target = f"faiss:{tmp_path}/kb"
    fields = Fields(text="page", metadata=("i",))
    import_collection(address, target, fields=fields, encoder=None)
    collection.upsert(ids=["id-0"], embeddings=[[1.0] * 64], documents=["x"], metadatas=[{"page": "changed", "i": 0}])
    assert import_collection(address, target, fields=fields).rows == 250
    with MatryoshkaRetriever.open(target) as retriever:
        assert retriever.encoder is None
        (row,) = retriever.get(["id-0"])
        assert row is not None and (row.document, row.metadata) == ("changed", {"i": 0})
        assert retriever.search_by_vector([1.0] * 64, 1).ids == ["id-0"]


def test_a_text_field_that_comes_late(theirs: Any, tmp_path: Path) -> None:
    address, collection = theirs
    collection.update(
        ids=[f"id-{i}" for i in range(250)],
        metadatas=[{"late": f"late {i}"} if i >= 200 else {"x": 1} for i in range(250)],
    )
    import_collection(address, f"faiss:{tmp_path}/kb", fields=Fields(text="late"), batch_size=50)
    with MatryoshkaRetriever.open(f"faiss:{tmp_path}/kb") as retriever:
        rows = retriever.get(["id-0", "id-249"])
        assert [row and row.document for row in rows] == [None, "late 249"]


def test_what_is_refused(theirs: Any, tmp_path: Path) -> None:
    address, _ = theirs
    target = f"faiss:{tmp_path}/kb"
    with pytest.raises(errors.CollectionNotFound, match=r"no collection 'none' .*docs"):
        import_collection(address.replace("=docs", "=none"), target)
    with pytest.raises(errors.ModelMismatchError, match="64 components, the encoder's have 32"):
        import_collection(address, target, encoder="hashing:32")
    with pytest.raises(errors.ModelMismatchError, match="not the encoder's"):
        import_collection(address, target, encoder=lambda texts: np.ones((len(texts), 64)))
    with pytest.raises(errors.InvalidInput, match="field 'nothing'"):
        import_collection(address, target, fields=Fields(text="nothing"))
    with pytest.raises(errors.InvalidInput, match="one vector"):
        import_collection(address, target, fields=Fields(vector="v"))
    with pytest.raises(errors.InvalidInput, match="itself"):
        import_collection(address, address)
    assert not (tmp_path / "kb").exists()
    with MatryoshkaRetriever(encoder=None, backend=target) as mine:
        mine.index(["a"], vectors=[[1.0, 2.0]])
        with pytest.raises(errors.ConflictError, match="another collection"):
            import_collection(address, target)
        assert mine.count() == 1
