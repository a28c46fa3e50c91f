"""``rotation="auto"``: exact until there are vectors enough, then rotated by itself where that helps."""

import threading

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever, as_encoder, errors
from mrl_retrieval.matryoshka import normalize

DIM = 16


def vectors(n, seed=0, turned=True):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(99).standard_normal((DIM, DIM)))[0] if turned else np.eye(DIM)
    return normalize((rng.standard_normal((n, DIM)) * np.arange(1, DIM + 1) ** -1.2) @ basis.T)


@pytest.fixture(params=["memory", "faiss"])
def address(request, tmp_path):
    return f"memory:auto-{tmp_path.name}" if request.param == "memory" else f"faiss:{tmp_path}/kb"


def index(retriever, start, stop, **options):
    given = vectors(2000, **options)[start:stop]
    retriever.index([f"text {i}" for i in range(start, stop)], range(start, stop), vectors=given)


def test_from_a_few_vectors_to_many(address):
    with MatryoshkaRetriever(None, address, coarse_dims=2, coarse_top_k=10, rotation="auto") as retriever:
        assert retriever.search_by_vector(vectors(1)[0]) == retriever.search_by_vector(vectors(1)[0])
        index(retriever, 0, 150)
        assert retriever.search_by_vector(vectors(1, seed=3)[0], 5).certificate == "exact"
        assert retriever.search_by_vector(vectors(1, seed=3)[0], 5, coarse_top_k=50).certificate == "candidates"
        index(retriever, 150, 500)
        assert retriever.manifest.rotation is not None and retriever.backend.address.collection == "default.g1"
        assert retriever.search_by_vector(vectors(1, seed=3)[0], 5).certificate == "candidates"
        index(retriever, 500, 700)
        assert retriever.count() == 700 and retriever.search_by_vector(vectors(2000)[650], 1).ids == ["650"]
        np.testing.assert_allclose(retriever.get(["3"], vectors=True)[0].vector, vectors(2000)[3], atol=4e-3)
    with MatryoshkaRetriever.open(address) as again:
        assert again.manifest.rotation is not None and again.count() == 700


def test_searches_that_are_under_way_go_on(address):
    with MatryoshkaRetriever(None, address, coarse_dims=2, rotation="auto") as retriever:
        index(retriever, 0, 100)
        failures, done = [], threading.Event()

        def search():
            while not done.is_set():
                try:
                    if retriever.search_by_vector(vectors(2000)[7], 1).ids != ["7"]:
                        failures.append("lost")
                except BaseException as error:
                    failures.append(error)

        threads = [threading.Thread(target=search) for _ in range(3)]
        for thread in threads:
            thread.start()
        for start in range(100, 500, 100):
            index(retriever, start, start + 100)
        done.set()
        for thread in threads:
            thread.join(30)
        assert failures == [] and retriever.manifest.rotation is not None


def test_where_it_does_not_help_it_is_tried_again_at_four_times_as_many(address, monkeypatch):
    tried = []
    monkeypatch.setattr(
        "mrl_retrieval.moving.rotating._coverages", lambda current, *_: tried.append(current.count()) or (1.0, 1.0)
    )
    with MatryoshkaRetriever(None, address, coarse_dims=2, rotation="auto") as retriever:
        for start in range(0, 1000, 100):
            index(retriever, start, start + 100)
        assert tried == [200, 800] and retriever.manifest.rotation is None
        assert retriever.search_by_vector(vectors(1)[0], 1).certificate == "candidates"


def test_models_that_were_trained_for_prefixes_are_left_alone(address):
    with MatryoshkaRetriever("hashing:8", address, coarse_dims=4, rotation="auto") as retriever:
        retriever.index([f"text {i}" for i in range(100)])
        assert retriever.manifest.rotation is None
        assert retriever.search("text 5", 1).certificate == "candidates"


def test_an_encoder(address):
    def encode(texts):
        return np.stack([vectors(1, seed=len(text) * 1000 + sum(text.encode()))[0] for text in texts])

    with MatryoshkaRetriever(as_encoder(encode, name="mine"), address, coarse_dims=4, rotation="auto") as retriever:
        retriever.index([f"text {i} {'x' * (i % 17)}" for i in range(300)])
        assert retriever.search("text 77 " + "x" * (77 % 17), 1)[0].document.startswith("text 77")


@pytest.mark.parametrize("address", ["memory:", "memory:?collection=a"])
def test_a_place_that_cannot_be_opened_twice(address):
    with pytest.raises(errors.InvalidInput, match="opened twice"):
        MatryoshkaRetriever(None, address, rotation="auto")
