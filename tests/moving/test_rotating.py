"""A collection stored anew with a rotation finds more by its prefixes, and loses nothing."""

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever, errors, fit_rotation, rollback, rotate
from mrl_retrieval.matryoshka import normalize
from mrl_retrieval.moving import measuring, rotating
from mrl_retrieval.registry import open_backend
from tests.moving.sixty import names

DIM, COUNT = 16, 400


def vectors(n, seed=0, turned=True):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(99).standard_normal((DIM, DIM)))[0] if turned else np.eye(DIM)
    return normalize((rng.standard_normal((n, DIM)) * np.arange(1, DIM + 1) ** -1.0) @ basis.T)


def made(address, turned=True, coarse=3):
    with MatryoshkaRetriever(None, address, coarse_dims=coarse) as retriever:
        given = [*vectors(COUNT, turned=turned), None]
        metadatas = [{"i": i} for i in range(COUNT + 1)]
        retriever.index([f"text {i}" for i in range(COUNT + 1)], range(COUNT + 1), metadatas, given)
    return address


def interrupted(address):
    """Rotate it, and stop in the midst."""

    def stop(done, total):
        if done > 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rotate(address, batch_size=50, progress=stop)


def test_it_finds_more_and_keeps_everything(place, monkeypatch):
    monkeypatch.setattr(measuring, "_MEASURED", 300)
    with open_backend(place) as backend:
        if not backend.capabilities.attachments:
            pytest.skip("the backend declares that it keeps no attachments")
    made(place)
    queries = vectors(20, seed=1)
    with MatryoshkaRetriever.open(place) as old:
        exact = [hits.ids for hits in old.search_batch_by_vector(queries, 5, exact=True)]
        before = [hits.ids for hits in old.search_batch_by_vector(queries, 5, coarse_top_k=20)]
        report = rotate(place)
        assert old.search_by_vector(queries[0], 5, exact=True).ids == exact[0]
        with pytest.raises(errors.ConflictError):
            old.delete(["1"])
    assert (report.rows, report.written, report.untouched) == (COUNT + 1, COUNT + 1, False)
    assert report.rotated_coverage > report.coverage
    with MatryoshkaRetriever.open(place) as new:
        assert new.manifest.rotation["fingerprint"] == report.fingerprint
        assert new.count() == COUNT + 1 and new.count({"i": {"$gte": 200}}) == 201
        after = [hits.ids for hits in new.search_batch_by_vector(queries, 5, coarse_top_k=20)]

        def shared(found):
            return np.mean([len(set(a) & set(b)) for a, b in zip(found, exact, strict=True)])

        assert shared(after) > shared(before) + 0.5
        again = [hits.ids for hits in new.search_batch_by_vector(queries, 5, exact=True)]
        assert shared(again) > 4.9
        row, bare = new.get(["7", str(COUNT)], vectors=True)
        assert (row.document, row.metadata, bare.vector) == ("text 7", {"i": 7}, None)
        np.testing.assert_allclose(row.vector, vectors(COUNT)[7], atol=4e-3)
        new.index(["one more"], ["more"], vectors=vectors(1, seed=9))
        assert new.search_by_vector(vectors(1, seed=9)[0], 1).ids == ["more"]
    assert rollback(place) == "default"
    with MatryoshkaRetriever.open(place) as old:
        assert old.manifest.rotation is None and old.count() == COUNT + 1


def test_where_it_does_not_help_nothing_is_done_unless_that_is_asked_for(new_place):
    address = made(new_place("memory")[0], turned=False)
    report = rotate(address)
    if not report.untouched:  # by chance a little better
        assert report.rotated_coverage > report.coverage
        return
    assert report.fingerprint is None and names(address) == ["default"]
    assert not rotate(address, force=True).untouched


def test_a_rotation_that_was_given_is_not_measured_and_can_be_followed_by_another(new_place):
    address = made(new_place("faiss")[0])
    given = fit_rotation(None, vectors(2000, seed=3))
    report = rotate(address, given)
    assert (report.coverage, report.fingerprint) == (None, given.fingerprint)
    assert rotate(address, force=True).fingerprint != given.fingerprint
    with MatryoshkaRetriever.open(address) as retriever:
        (row,) = retriever.get(["3"], vectors=True)
        np.testing.assert_allclose(row.vector, vectors(COUNT)[3], atol=4e-3)


def test_an_interrupted_run_is_taken_up_with_its_own_rotation(new_place):
    address = made(new_place("memory")[0])
    interrupted(address)
    with MatryoshkaRetriever.open(address) as retriever:
        assert retriever.manifest.rotation is None and retriever.count() == COUNT + 1
        retriever.delete(["0"])
        retriever.index(["new"], ["1"], vectors=vectors(1, seed=7))
    with open_backend(address).__class__.from_address(
        open_backend(address).address.with_collection("default.g1")
    ) as one:
        begun = one.read_manifest().rotation["fingerprint"]
    report = rotate(address, batch_size=50)
    assert report.fingerprint == begun and report.rows == COUNT and 0 < report.written < COUNT
    with MatryoshkaRetriever.open(address) as retriever:
        assert retriever.get(["0"]) == [None] and retriever.search_by_vector(vectors(1, seed=7)[0], 1).ids == ["1"]


def test_too_few_vectors_and_vectors_that_are_not_whole(new_place):
    address = new_place("memory")[0]
    with MatryoshkaRetriever(None, address, coarse_dims=3) as retriever:
        retriever.index(["a"] * 9, range(9), vectors=vectors(9))
    with pytest.raises(errors.InvalidInput, match="9 vectors, expected 160"):
        rotate(address)
    other = new_place("memory")[0]
    with MatryoshkaRetriever(None, other, coarse_dims=3, fine_dims=8) as retriever:
        retriever.index(["a"] * 9, range(9), vectors=vectors(9))
    with pytest.raises(errors.DimensionError, match="fine_dims=8 of 16"):
        rotate(other, fit_rotation(None, vectors(300)))
    with pytest.raises(errors.CollectionNotFound):
        rotate(new_place("memory")[0])


def test_two_at_once(place, monkeypatch):
    """The one that finished first is not undone by the one that was still measuring."""
    with open_backend(place) as backend:
        if not backend.capabilities.attachments:
            pytest.skip("the backend declares that it keeps no attachments")
    made(place)
    measure, others = rotating.measured, []

    def meanwhile(*arguments):
        if not others:
            others.append(None)
            others.append(rotate(place))
            with MatryoshkaRetriever.open(place) as user:
                user.index(["precious"], ["precious"], vectors=vectors(1, seed=7))
        return measure(*arguments)

    monkeypatch.setattr(rotating, "measured", meanwhile)
    with pytest.raises(errors.ConflictError):
        rotate(place)
    with MatryoshkaRetriever.open(place) as retriever:
        assert retriever.manifest.rotation["fingerprint"] == others[1].fingerprint
        assert retriever.count() == COUNT + 2
        assert retriever.search_by_vector(vectors(1, seed=7)[0], 1).ids == ["precious"]


def test_beside_an_unfinished_run_with_another_rotation(new_place, monkeypatch):
    """That run may be about to finish: what it makes is left to it."""
    address = made(new_place("memory")[0])
    interrupted(address)
    begun = rotating._begun
    monkeypatch.setattr(rotating, "_begun", lambda *a: (begun(*a), finish())[0])

    def finish():
        monkeypatch.undo()
        assert rotate(address).generation == "default.g1"

    with pytest.raises(errors.ConflictError):
        rotate(address, fit_rotation(None, vectors(2000, seed=3)))
    with MatryoshkaRetriever.open(address) as retriever:
        assert retriever.backend.address.collection == "default.g1" and retriever.count() == COUNT + 1
