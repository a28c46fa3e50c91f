"""A collection with a rotation: the same answers at full length, better prefixes, and vectors that nobody sees turned."""

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever, errors, fit_rotation, load_encoder
from mrl_retrieval.matryoshka import normalize
from mrl_retrieval.registry import open_backend
from mrl_retrieval.rotations import ATTACHMENT

DIM = 32
SCHEMES = ["memory:rotated", "faiss"]


def vectors(n, seed=0):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(99).standard_normal((DIM, DIM)))[0]
    return normalize((rng.standard_normal((n, DIM)) * np.arange(1, DIM + 1) ** -1.0) @ basis.T)


@pytest.fixture(params=SCHEMES)
def address(request, tmp_path):
    if request.param != "faiss":
        yield f"{request.param}-{tmp_path.name}"
    else:
        yield f"faiss:{tmp_path}/kb"


@pytest.fixture
def rotation():
    return fit_rotation(None, vectors(1000))


@pytest.fixture
def rotated(address, rotation):
    with MatryoshkaRetriever(None, address, coarse_dims=4, rotation=rotation) as made:
        made.index([f"text {i}" for i in range(500)], range(500), vectors=vectors(500))
        yield made


def test_full_scores_are_those_without_it(rotated):
    with MatryoshkaRetriever(None, "memory:", coarse_dims=4) as plain:
        plain.index([f"text {i}" for i in range(500)], range(500), vectors=vectors(500))
        for query in vectors(10, seed=1):
            ours, expected = (r.search_by_vector(query, 10, exact=True) for r in (rotated, plain))
            np.testing.assert_allclose([h.score for h in ours], [h.score for h in expected], atol=2e-3)
            assert ours[0].document == expected[0].document


def test_its_prefixes_find_more(rotated):
    with MatryoshkaRetriever(None, "memory:", coarse_dims=4) as plain:
        plain.index([f"text {i}" for i in range(500)], range(500), vectors=vectors(500))
        queries = vectors(50, seed=1)

        def found(retriever):
            exact = retriever.search_batch_by_vector(queries, 10, exact=True)
            two = retriever.search_batch_by_vector(queries, 10, coarse_top_k=30)
            return np.mean([len(set(a.ids) & set(b.ids)) for a, b in zip(exact, two, strict=True)])

        assert found(rotated) > found(plain) + 3


def test_vectors_come_back_as_they_were_given(rotated):
    (row,) = rotated.get(["7"], vectors=True)
    np.testing.assert_allclose(row.vector, vectors(500)[7], atol=2e-3)
    (stored,) = rotated.backend.get(["7"], vectors=True)
    assert np.abs(stored.vector - vectors(500)[7]).max() > 0.1
    rotated.index(["no vector", "one"], ["bare", "last"], vectors=[None, vectors(1, seed=5)[0]])
    bare, last = rotated.get(["bare", "last"], vectors=True)
    assert bare.vector is None
    np.testing.assert_allclose(last.vector, vectors(1, seed=5)[0], atol=2e-3)
    assert rotated.search_by_vector(vectors(1, seed=5)[0], 1).ids == ["last"]


def test_the_next_opening_has_it_without_being_told(rotated, address, rotation):
    before = rotated.search_by_vector(vectors(1, seed=3)[0], 5)
    for given in ({}, {"rotation": rotation}):
        with MatryoshkaRetriever(None, address, **given) as again:
            assert again.manifest.rotation == {"fingerprint": rotation.fingerprint, "fitted_on": 1000}
            assert again.search_by_vector(vectors(1, seed=3)[0], 5).ids == before.ids
    other = fit_rotation(None, vectors(1000, seed=8))
    with pytest.raises(errors.CollectionMismatchError, match=f"{rotation.fingerprint}.*{other.fingerprint}"):
        MatryoshkaRetriever(None, address, rotation=other)


def test_texts(address):
    texts = [f"{a} {b} number {n}" for a in ("red", "blue") for b in ("cat", "dog") for n in range(100)]
    encoder = load_encoder("hashing:32")
    rotation = fit_rotation(encoder, texts)
    with MatryoshkaRetriever(encoder, address, coarse_dims=8, rotation=rotation) as retriever:
        retriever.index(texts)
        assert retriever.search("red dog number 55", 1, coarse_top_k=100)[0].document == "red dog number 55"
    with MatryoshkaRetriever.open(address) as again:
        assert again.search("blue cat number 7", 1, coarse_top_k=100)[0].document == "blue cat number 7"


def test_a_copy_takes_it_along(rotated, address, rotation):
    with open_backend("memory:") as target:
        report = rotated.copy_to(target, allow_lossy=True)
        assert report.rows == 500 and target.read_attachment(ATTACHMENT) == rotation.to_bytes()
        with MatryoshkaRetriever(None, target) as copy:
            query = vectors(1, seed=4)[0]
            assert copy.search_by_vector(query, 5).ids == rotated.search_by_vector(query, 5).ids


def test_an_interrupted_making_is_taken_up(address, rotation, monkeypatch):
    with MatryoshkaRetriever(None, address, coarse_dims=4, rotation=rotation) as made, monkeypatch.context() as context:
        context.setattr("mrl_retrieval.rotations.save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            made.index(["a"], ["a"], vectors=vectors(1))
    with (
        MatryoshkaRetriever(None, address) as other,
        pytest.raises(errors.CorruptionError, match="same rotation= again"),
    ):
        other.index(["a"], ["a"], vectors=vectors(1))
    with MatryoshkaRetriever(None, address, rotation=rotation) as again:
        again.index(["a"], ["a"], vectors=vectors(1))
        assert again.search_by_vector(vectors(1)[0], 1)[0].score == pytest.approx(1, abs=1e-3)


def test_a_damaged_or_exchanged_matrix(address, rotation):
    with MatryoshkaRetriever(None, address, coarse_dims=4, rotation=rotation) as made:
        made.index(["a"], ["a"], vectors=vectors(1))
        made.backend.write_attachment(ATTACHMENT, fit_rotation(None, vectors(900, seed=2)).to_bytes())
    with MatryoshkaRetriever(None, address) as again, pytest.raises(errors.CorruptionError, match="expected"):
        again.search_by_vector(vectors(1)[0])


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"rotation": np.eye(DIM)}, errors.InvalidInput, "fit_rotation"),
        ({"rotation": "other"}, errors.InvalidInput, "fit_rotation"),
        ({"fine_dims": 16}, errors.DimensionError, "fine_dims=16 of 32"),
    ],
)
def test_what_cannot_be(address, rotation, options, error, match):
    settings = {"coarse_dims": 4, "rotation": rotation, **options}
    with pytest.raises(error, match=match), MatryoshkaRetriever(None, address, **settings) as made:
        made.index(["a"], ["a"], vectors=vectors(1))


def test_another_length_or_a_collection_without_one(address, rotation):
    with (
        MatryoshkaRetriever(None, address, coarse_dims=2, rotation=rotation) as made,
        pytest.raises(errors.DimensionError, match="32 components, these have 3"),
    ):
        made.index(["a"], ["a"], vectors=[[1, 2, 3]])
    with MatryoshkaRetriever(None, address, coarse_dims=4) as plain:
        plain.index(["a"], ["a"], vectors=vectors(1))
    with pytest.raises(errors.CollectionMismatchError, match="rotation none"):
        MatryoshkaRetriever(None, address, rotation=rotation)


@pytest.mark.parametrize("scheme", ["memory", "faiss", "chroma", "lancedb"])
def test_a_matrix_beyond_one_attachment(scheme, new_place, rotation, monkeypatch):
    """As that of 3,072 dims is: 36 MiB."""
    monkeypatch.setattr("mrl_retrieval.attachments.MOST_BYTES", 500)
    monkeypatch.setattr("mrl_retrieval.rotations.MOST_BYTES", 500)
    address = new_place(scheme)[0]
    with MatryoshkaRetriever(None, address, coarse_dims=4, rotation=rotation) as retriever:
        retriever.index(["a", "b"], ["a", "b"], vectors=vectors(2))
    with MatryoshkaRetriever(None, address) as again, open_backend("memory:") as target:
        assert again.search_by_vector(vectors(2)[1], 1).ids == ["b"]
        again.copy_to(target, allow_lossy=True)
        with MatryoshkaRetriever(None, target) as copy:
            assert copy.search_by_vector(vectors(2)[1], 1).ids == ["b"]
    parts = -(-len(rotation.to_bytes()) // 500)
    assert parts > 3
    with open_backend(address) as backend:
        backend.write_attachment(f"{ATTACHMENT}-{parts}", b"another")
    with MatryoshkaRetriever(None, address) as again, pytest.raises(errors.CorruptionError):
        again.search_by_vector(vectors(2)[1], 1)


def test_killed_between_the_parts_of_a_matrix(address, rotation, monkeypatch):
    """It is as if none had been written: the making is taken up."""
    monkeypatch.setattr("mrl_retrieval.attachments.MOST_BYTES", 500)
    monkeypatch.setattr("mrl_retrieval.rotations.MOST_BYTES", 500)
    written = []
    with MatryoshkaRetriever(None, address, coarse_dims=4, rotation=rotation) as made, monkeypatch.context() as context:
        write = type(made.backend).write_attachment

        def until_killed(backend, name, content):
            if len(written) == 2:
                raise KeyboardInterrupt
            written.append(name)
            write(backend, name, content)

        context.setattr(type(made.backend), "write_attachment", until_killed)
        with pytest.raises(KeyboardInterrupt):
            made.index(["a"], ["a"], vectors=vectors(1))
    with MatryoshkaRetriever(None, address) as other, pytest.raises(errors.CorruptionError, match="matrix is missing"):
        other.index(["a"], ["a"], vectors=vectors(1))
    with MatryoshkaRetriever(None, address, rotation=rotation) as again:
        again.index(["a"], ["a"], vectors=vectors(1))
        assert again.search_by_vector(vectors(1)[0], 1).ids == ["a"]


@pytest.mark.parametrize("content", [b"", b"garbage", "another"])
def test_a_damaged_matrix_names_its_collection_and_is_mended_by_the_same_rotation(rotated, address, rotation, content):
    if content == "another":
        content = fit_rotation(None, vectors(1000, seed=8)).to_bytes()
    rotated.backend.write_attachment(ATTACHMENT, content)
    with MatryoshkaRetriever(None, address) as other:
        with pytest.raises(errors.CorruptionError) as caught:
            other.search_by_vector(vectors(1)[0], 1)
        assert str(other.backend.address) in str(caught.value) and "the same rotation= again" in str(caught.value)
    with MatryoshkaRetriever(None, address, rotation=rotation) as again:
        assert again.search_by_vector(vectors(500)[7], 1).ids == ["7"]
    with MatryoshkaRetriever(None, address) as mended:
        assert mended.search_by_vector(vectors(500)[7], 1).ids == ["7"]
