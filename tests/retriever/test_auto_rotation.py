"""``rotation="auto"``: exact until there are vectors enough, then rotated by itself where that helps."""

import re
import threading

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever, as_encoder, errors, reindex, rotate
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.matryoshka import normalize
from mrl_retrieval.moving import rotating
from mrl_retrieval.moving.measuring import Measurement
from tests.moving.sixty import Breaking

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


def measuring_nothing(monkeypatch):
    """Have every rotation measured not to help; gives the numbers of vectors at which it was measured."""
    tried = []

    def measured(current, *_):
        tried.append(current.stats().vectors)
        return Measurement(1.0, 1.0, tried[-1])

    monkeypatch.setattr("mrl_retrieval.moving.rotating.measured", measured)
    return tried


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


def test_ten_vectors_for_each_dim_are_enough_to_say_nothing(address, caplog):
    with MatryoshkaRetriever(None, address, coarse_dims=2, rotation="auto") as retriever:
        index(retriever, 0, 160)
        assert retriever.manifest.rotation is not None
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


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
    tried = measuring_nothing(monkeypatch)
    with MatryoshkaRetriever(None, address, coarse_dims=2, rotation="auto") as retriever:
        for start in range(0, 1000, 100):
            index(retriever, start, start + 100)
        assert tried == [200, 800] and retriever.manifest.rotation is None
        assert retriever.search_by_vector(vectors(1)[0], 1).certificate == "candidates"


def test_the_next_process_knows_what_was_measured(address, monkeypatch):
    tried = measuring_nothing(monkeypatch)
    with MatryoshkaRetriever(None, address, coarse_dims=2, rotation="auto") as first:
        index(first, 0, 200)
        kept = first.backend.read_manifest().rotation_measured
        assert (kept["coverage"], kept["rotated_coverage"], kept["vectors"]) == (1.0, 1.0, 200)
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", kept["at"])
    for start in range(200, 1000, 100):
        with MatryoshkaRetriever(None, address, coarse_dims=2, rotation="auto") as another:
            assert another.search_by_vector(vectors(1)[0], 1).certificate == "candidates"
            index(another, start, start + 100)
    assert tried == [200, 800]


def test_what_another_process_measured_meanwhile_counts(address, monkeypatch):
    tried = measuring_nothing(monkeypatch)
    with MatryoshkaRetriever(None, address, coarse_dims=2, rotation="auto") as one:
        index(one, 0, 100)
        with MatryoshkaRetriever(None, address, coarse_dims=2, rotation="auto") as other:
            index(other, 100, 200)
        index(one, 200, 300)
        assert tried == [200]
        assert one.search_by_vector(vectors(1)[0], 1).certificate == "candidates"


def test_a_reader_that_waits_sees_that_others_have_written(address, monkeypatch):
    measuring_nothing(monkeypatch)
    with MatryoshkaRetriever(None, address, coarse_dims=2, rotation="auto") as writer:
        index(writer, 0, 100)
        with MatryoshkaRetriever(None, address, coarse_dims=2, rotation="auto") as reader:
            assert reader.search_by_vector(vectors(1)[0], 1).certificate == "exact"
            index(writer, 100, 200)
            monkeypatch.setattr("mrl_retrieval.auto_rotation._LOOK_AGAIN", 0.0)
            assert reader.search_by_vector(vectors(1)[0], 1).certificate == "candidates"


def test_rows_that_are_in_are_acknowledged_whoever_else_is_at_it(address, monkeypatch):
    """Somebody else has rotated, or is reindexing, while this one was measuring."""
    with MatryoshkaRetriever(None, address, coarse_dims=2, rotation="auto") as one:
        measure = rotating.measured

        def overtaken(*arguments):
            monkeypatch.undo()
            rotate(address)
            return measure(*arguments)

        monkeypatch.setattr(rotating, "measured", overtaken)
        given = vectors(200)
        assert len(one.index(["x"] * 200, range(200), vectors=given)) == 200
        with pytest.raises(errors.ConflictError, match="open it again"):
            one.index(["y"], ["y"], vectors=vectors(1, seed=5))
    with MatryoshkaRetriever.open(address) as again:
        assert again.manifest.rotation is not None and again.count() == 200


def test_a_reindexing_that_is_not_finished_is_not_overtaken(address):
    with MatryoshkaRetriever(None, address, coarse_dims=2, rotation="auto") as one:
        index(one, 0, 100)
        with pytest.raises(errors.EncoderError):
            reindex(address, Breaking(32), batch_size=8)
        index(one, 100, 300)
        assert one.manifest.rotation is None
    with pytest.raises(errors.ConflictError, match="reindexing of .* is not finished"):
        rotate(address)
    report = reindex(address, HashingEncoder(32), batch_size=8)
    assert report.rows == 300 and report.encoded < 300


def test_vectors_that_are_cut_or_searched_whole_cannot_be_rotated(address):
    with (
        MatryoshkaRetriever(None, address, coarse_dims=2, fine_dims=8, rotation="auto") as cut,
        pytest.raises(errors.DimensionError, match="fine_dims=8 of 16"),
    ):
        index(cut, 0, 100)
    with MatryoshkaRetriever(None, address, coarse_dims=2, fine_dims=8) as cut:
        index(cut, 0, 100)
    with MatryoshkaRetriever(None, address, rotation="auto") as cut:
        index(cut, 100, 300)
        assert cut.count() == 300 and cut.manifest.rotation is None


def test_prefixes_of_full_length_need_none(address):
    with MatryoshkaRetriever(None, f"{address}?collection=whole", coarse_dims=1, rotation="auto") as retriever:
        retriever.index(["x"] * 15, range(15), vectors=np.ones((15, 1)))
        assert retriever.count() == 15 and retriever.manifest.rotation is None


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
