"""Qdrant collections as users make them become two-stage collections, and stay as they were."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("qdrant_client", reason="qdrant-client is not installed: pip install 'mrl-retrieval[qdrant]'")

from qdrant_client import QdrantClient, models

from mrl_retrieval import MatryoshkaRetriever, errors
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.moving.importing import Fields, import_collection
from tests.qdrant_server import run_qdrant

DIM = 32
TEXTS = [f"document number {i} about topic {i % 7}" for i in range(250)]
ENCODER = HashingEncoder(DIM)
VECTORS = ENCODER.encode_document(TEXTS)
COSINE = models.VectorParams(size=DIM, distance=models.Distance.COSINE)
DOT = models.VectorParams(size=DIM, distance=models.Distance.DOT)


@contextmanager
def client_of(tmp_path: Path) -> Iterator[QdrantClient]:
    """Somebody's own client on a folder; closed, as it must be before anybody else may open it."""
    client = QdrantClient(path=str(tmp_path / "theirs"))
    try:
        yield client
    finally:
        client.close()


def address(tmp_path: Path, name: str = "docs") -> str:
    return f"qdrant:{tmp_path}/theirs?collection={name}"


def points(payload: Any, *, ids: Any = None, vector: Any = lambda v: v.tolist()) -> list[models.PointStruct]:
    return [
        models.PointStruct(id=ids[i] if ids else i + 1, vector=vector(VECTORS[i] * 3), payload=payload(i, text))
        for i, text in enumerate(TEXTS)
    ]


def make(tmp_path: Path, rows: list[models.PointStruct], vectors: Any = DOT, name: str = "docs", **more: Any) -> None:
    with client_of(tmp_path) as client:
        client.create_collection(name, vectors_config=vectors, **more)
        if rows:
            client.upsert(name, rows)


def snapshot(tmp_path: Path, name: str = "docs") -> Any:
    with client_of(tmp_path) as client:
        found, _ = client.scroll(name, limit=10_000, with_payload=True, with_vectors=True)
        return client.get_collection(name), found


def test_beside_the_original(tmp_path: Path) -> None:
    make(
        tmp_path, points(lambda i, text: {"text": text, "i": i, "half": i / 2, "even": i % 2 == 0, "deep": {"l": [i]}})
    )
    with client_of(tmp_path) as client:
        client.upsert("docs", [models.PointStruct(id=0, vector={}, payload=None)])
    before = snapshot(tmp_path)
    report = import_collection(address(tmp_path), encoder=ENCODER, coarse_dims=16, batch_size=60)
    assert report.target == f"{address(tmp_path)}-mrl" and (report.rows, report.vectors) == (251, 250)
    assert report.shortest == pytest.approx(3, abs=1e-4) == report.longest
    with MatryoshkaRetriever.open(report.target) as retriever:
        assert retriever.count() == 251 and retriever.count({"even": True, "i": {"$lt": 10}}) == 5
        (hit,) = retriever.search(TEXTS[33], 1)
        assert (hit.id, hit.document) == ("34", TEXTS[33]) and hit.score == pytest.approx(1, abs=1e-5)
        assert hit.metadata == {"i": 33, "half": 16.5, "even": False, "deep": {"l": [33]}}
        row, bare = retriever.get(["8", "0"], vectors=True)
        assert row is not None and row.vector is not None and bare is not None and bare.vector is None
        np.testing.assert_allclose(row.vector, VECTORS[7], atol=1e-6)
    assert snapshot(tmp_path) == before


def test_a_name_that_no_address_can_hold(tmp_path: Path) -> None:
    name = "mine & 'yours' é"
    make(tmp_path, points(lambda i, text: {"text": text}), name=name)
    place = f"qdrant:{tmp_path}/theirs"
    with pytest.raises(errors.InvalidInput, match="give its address as target"):
        import_collection(place, collection=name)
    with pytest.raises(errors.InvalidInput, match="leave one of them out"):
        import_collection(f"{place}?collection=docs", f"faiss:{tmp_path}/kb", collection=name)
    for _ in range(2):
        report = import_collection(place, f"faiss:{tmp_path}/kb", collection=name, fields=Fields(text="text"))
        assert (report.rows, report.vectors) == (250, 250)
    with MatryoshkaRetriever.open(f"faiss:{tmp_path}/kb") as retriever:
        assert [hit.document for hit in retriever.search_by_vector(VECTORS[3], 1)] == [TEXTS[3]]


def test_langchains_layout(tmp_path: Path) -> None:
    ids = [str(uuid.uuid4()) for _ in TEXTS]
    make(tmp_path, points(lambda i, text: {"page_content": text, "metadata": {"i": i, "source": "a"}}, ids=ids), COSINE)
    before = snapshot(tmp_path)
    report = import_collection(address(tmp_path), f"faiss:{tmp_path}/kb", encoder=ENCODER, batch_size=100)
    assert (report.rows, report.vectors) == (250, 250)
    with MatryoshkaRetriever.open(report.target) as retriever:
        (row,) = retriever.get([ids[5]])
        assert row is not None and (row.document, row.metadata) == (TEXTS[5], {"i": 5, "source": "a"})
        assert retriever.search(TEXTS[8], 1).ids == [ids[8]]
    import_collection(address(tmp_path), f"faiss:{tmp_path}/two", fields=Fields(id="i", metadata=("source",)))
    with MatryoshkaRetriever.open(f"faiss:{tmp_path}/two") as retriever:
        (row,) = retriever.get(["5"])
        assert row is not None and (row.document, row.metadata) == (TEXTS[5], {"source": "a"})
    assert snapshot(tmp_path) == before


def test_what_only_looks_like_langchains_stays(tmp_path: Path) -> None:
    payloads: list[dict[str, Any]] = [
        {"page_content": "a", "metadata": {"page_content": "b"}},
        {"page_content": "c", "metadata": "d"},
        {"page_content": "e", "metadata": {"x": 1}, "y": 2},
    ]
    rows = [models.PointStruct(id=i, vector=[1.0] * DIM, payload=payload) for i, payload in enumerate(payloads)]
    make(tmp_path, rows)
    import_collection(address(tmp_path), f"faiss:{tmp_path}/kb")
    with MatryoshkaRetriever.open(f"faiss:{tmp_path}/kb") as retriever:
        found = [(row.document, row.metadata) for row in retriever.get(["0", "1", "2"]) if row is not None]
    assert found == [
        ("a", {"metadata": {"page_content": "b"}}),
        ("c", {"metadata": "d"}),
        ("e", {"metadata": {"x": 1}, "y": 2}),
    ]


def test_named_vectors_and_again(tmp_path: Path) -> None:
    sparse = {"words": models.SparseVectorParams()}
    words = models.SparseVector(indices=[1], values=[1.0])
    vector = lambda v: {"b": v.tolist(), "a": [1.0], "words": words}  # noqa: E731
    vectors = {"a": models.VectorParams(size=1, distance=models.Distance.DOT), "b": DOT}
    rows = points(lambda i, text: {"other": text, "key": f"k{i}"} | ({"rare": 1} if i == 249 else {}), vector=vector)
    make(tmp_path, rows, vectors, sparse_vectors_config=sparse)
    target, fields = f"faiss:{tmp_path}/kb", Fields(vector="b", text="other", id="key", metadata=("rare",))
    assert import_collection(address(tmp_path), target, fields=fields, encoder=ENCODER).vectors == 250
    with client_of(tmp_path) as client:
        client.upsert("docs", [models.PointStruct(id=1, vector={"b": [1.0] * DIM}, payload={"other": 3, "key": "k0"})])
    assert import_collection(address(tmp_path), target, fields=fields).rows == 250
    with MatryoshkaRetriever.open(target, encoder=ENCODER) as retriever:
        first, last = retriever.get(["k0", "k249"])
        assert first is not None and last is not None
        assert (first.document, first.metadata, last.metadata) == ("3", {}, {"rare": 1})
        assert retriever.search_by_vector([1.0] * DIM, 1).ids == ["k0"]


def test_the_only_named_vector_beside_a_sparse_one(tmp_path: Path) -> None:
    for name, key in (("named", "dense"), ("bare", "")):
        sparse = {"words": models.SparseVectorParams()}
        vector = lambda v, key=key: {key: v.tolist(), "words": models.SparseVector(indices=[1], values=[1.0])}  # noqa: E731
        vectors = {key: DOT} if key else DOT
        make(tmp_path, points(lambda i, text: {"n": i}, vector=vector), vectors, name, sparse_vectors_config=sparse)
        report = import_collection(address(tmp_path, name), f"faiss:{tmp_path}/{name}")
        assert report.vectors == 250
        with MatryoshkaRetriever.open(report.target) as retriever:
            (row,) = retriever.get(["4"])
            assert row is not None and (row.document, row.metadata) == (None, {"n": 3})


def test_points_without_a_vector_come_first(tmp_path: Path) -> None:
    rows = points(lambda i, text: {"content": text})
    bare = [models.PointStruct(id=row.id, vector={}, payload=row.payload) for row in rows[:100]]
    make(tmp_path, bare + rows[100:])
    report = import_collection(address(tmp_path), f"faiss:{tmp_path}/kb", batch_size=30)
    assert (report.rows, report.vectors) == (250, 150)


def test_what_is_refused(tmp_path: Path) -> None:
    make(tmp_path, points(lambda i, text: {"text": text, "half": i // 2, "f": 0.5} | ({"some": i} if i else {})))
    many = models.VectorParams(size=2, distance=models.Distance.DOT, multivector_config={"comparator": "max_sim"})  # type: ignore[arg-type]  # pydantic reads it
    make(
        tmp_path,
        [],
        {"a": DOT, "b": DOT, "m": many},
        "several",
        sparse_vectors_config={"s": models.SparseVectorParams()},
    )
    make(tmp_path, [], {"m": many}, "multi")
    before = snapshot(tmp_path)

    def refused(error: type[Exception], words: str, name: str = "docs", **fields: Any) -> None:
        options = {key: fields.pop(key) for key in ("encoder", "source_options") if key in fields}
        with pytest.raises(error, match=words):
            import_collection(address(tmp_path, name), f"faiss:{tmp_path}/kb", fields=Fields(**fields), **options)
        assert not (tmp_path / "kb").exists()

    refused(errors.CollectionNotFound, "no collection 'x' .*docs, multi, several", "x")
    refused(errors.InvalidInput, r"several vectors \(dense: 'a', 'b'; others: m, s\)", "several")
    refused(errors.InvalidInput, "'m' is sparse, or several a point", "several", vector="m")
    refused(errors.InvalidInput, "'s' is sparse, or several a point", "several", vector="s")
    refused(errors.InvalidInput, "no vector that can be taken over", "multi")
    refused(errors.InvalidInput, "'x' is not there .*one without a name", vector="x")
    refused(errors.InvalidInput, "no payload has a key 'x' for --text-field .*text, half", text="x")
    refused(errors.InvalidInput, "key 'x' for --metadata-fields", metadata=("half", "x"))
    refused(errors.InvalidInput, "a row has no 'some'", id="some")
    refused(errors.InvalidInput, "two rows have '0' as 'half'", id="half")
    refused(errors.InvalidInput, "'f' is float", id="f")
    refused(errors.InvalidInput, "no rows", "several", vector="a")
    refused(errors.InvalidInput, "takes no option 'shard_number'", source_options={"shard_number": 2})
    refused(errors.ModelMismatchError, "not the encoder's", encoder=lambda texts: np.ones((len(texts), DIM)))
    assert snapshot(tmp_path) == before
    import_collection(address(tmp_path))
    with pytest.raises(errors.InvalidInput, match="made by this library: copy it"):
        import_collection(address(tmp_path, "docs-mrl"), f"faiss:{tmp_path}/kb")
    for place in (tmp_path / "nothing", tmp_path / "empty"):
        with pytest.raises(errors.CollectionNotFound, match=r"there: none"):
            import_collection(f"qdrant:{place}?collection=docs", f"faiss:{tmp_path}/kb")
        assert not place.exists()


def test_beside_a_backend_that_has_the_folder_open(tmp_path: Path) -> None:
    make(tmp_path, points(lambda i, text: {"document": text}))
    with MatryoshkaRetriever(ENCODER, address(tmp_path, "mine")) as mine:
        mine.index(["a text"], ["a"])
        assert import_collection(address(tmp_path)).rows == 250
        assert mine.count() == 1


def test_a_server(tmp_path: Path) -> None:
    """One that speaks Qdrant's protocol over Qdrant's own engine, with an API key."""
    with run_qdrant() as server:
        client = QdrantClient(url=server.url, check_compatibility=False)
        client.create_collection("docs", vectors_config={"v": DOT})
        ids = [str(uuid.uuid4()) for _ in TEXTS]
        vector = lambda v: {"v": v.tolist()}  # noqa: E731
        client.upsert("docs", points(lambda i, text: {"text": text, "i": i}, ids=ids, vector=vector))
        client.close()
        server.api_key = "s3cret"
        source, key = f"qdrant+{server.url}?collection=docs", {"api_key": "s3cret"}
        with pytest.raises(errors.BackendError, match="api_key=") as caught:
            import_collection(source, f"faiss:{tmp_path}/kb", source_options={"api_key": "wr0ng"})
        assert "wr0ng" not in str(caught.value)
        report = import_collection(source, encoder=ENCODER, source_options=key, backend_options=key, batch_size=100)
        assert (report.target, report.rows) == (f"{source}-mrl", 250)
        with MatryoshkaRetriever.open(report.target, backend_options=key) as retriever:
            assert retriever.search(TEXTS[3], 1).ids == [ids[3]]
        assert (
            sorted(server.collections) == ["docs", "docs-mrl"]
            and server.collections["docs"].shard.info().points_count == 250
        )
        server.stop()
        with pytest.raises(errors.BackendUnavailable, match="is it running"):
            import_collection(source, f"faiss:{tmp_path}/kb", source_options=key)
