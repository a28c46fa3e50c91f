"""A collection embedded anew answers like one that was made so, and loses nothing on the way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever, errors, reindex, rollback
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.generations import open_current
from mrl_retrieval.registry import open_backend
from tests.moving.sixty import TEXTS, Breaking, made, names


def test_the_new_generation_answers(place: str) -> None:
    made(place)
    report = reindex(place, "hashing:32")
    assert (report.rows, report.encoded, report.previous, report.generation) == (60, 60, "default", "default.g1")
    with (
        MatryoshkaRetriever.open(place) as again,
        MatryoshkaRetriever("hashing:32", "memory:", coarse_dims=16) as fresh,
    ):
        fresh.index(TEXTS, range(60), [{"i": i} for i in range(60)])
        assert again.manifest is not None and again.manifest.dim == 32 and again.count({"i": {"$lt": 30}}) == 30
        for query in TEXTS[:5]:
            found, expected = again.search(query, 5, coarse_top_k=60), fresh.search(query, 5, coarse_top_k=60)
            np.testing.assert_allclose([h.score for h in found], [h.score for h in expected], atol=1e-3)
        again.index(["one more"], ["more"])
        assert again.count() == 61
        with pytest.raises(errors.ModelMismatchError):
            MatryoshkaRetriever("hashing:64", place)
    assert rollback(place) == "default"
    with MatryoshkaRetriever.open(place) as old:
        assert old.manifest is not None and old.manifest.dim == 64 and old.count() == 60
        assert old.search(TEXTS[3], 1).ids == ["3"]
        old.index(["written to the old one"], ["old"])
    assert rollback(place) == "default.g1"
    with MatryoshkaRetriever.open(place) as new:
        assert new.count() == 61 and new.get(["old"]) == [None]
    with open_current(place) as backend:
        assert backend.address.collection == "default.g1"


def test_an_interrupted_run_is_taken_up(memory: str) -> None:
    with pytest.raises(errors.EncoderError, match="went away"):
        reindex(memory, Breaking(32), batch_size=8)
    with MatryoshkaRetriever.open(memory) as retriever:
        assert retriever.manifest is not None and retriever.manifest.dim == 64 and retriever.count() == 60
        retriever.index(["changed"], ["0"], [{"i": 0}])
        retriever.delete(["1"])
    report = reindex(memory, HashingEncoder(32), batch_size=8)
    assert report.rows == 59 and 30 < report.encoded < 60 and report.generation == "default.g1"
    with MatryoshkaRetriever.open(memory) as retriever:
        assert retriever.search("changed", 1).ids == ["0"] and retriever.get(["1"]) == [None]


def test_those_who_have_it_open(memory: str) -> None:
    reader = MatryoshkaRetriever.open(memory)
    during: list[str] = []

    def meanwhile(done: int, total: int | None) -> None:
        during.extend(reader.search(TEXTS[5], 1).ids)
        if len(during) == 1:
            reader.index(["written meanwhile"], ["late"])

    report = reindex(memory, "hashing:32", progress=meanwhile, batch_size=16)
    assert report.rows == 61 and set(during) == {"5"}
    assert reader.search(TEXTS[5], 1).ids == ["5"]
    for write in (lambda: reader.index(["x"]), lambda: reader.delete(["5"]), lambda: reader.delete(filter={"i": 5})):
        with pytest.raises(errors.ConflictError, match=r"reindexed, and its rows are in 'default\.g1'"):
            write()
    with MatryoshkaRetriever.open(memory) as retriever:
        assert retriever.get(["late"])[0] is not None and retriever.search("written meanwhile", 1).ids == ["late"]


def test_a_write_under_way_at_the_switch_is_not_acknowledged(place: str) -> None:
    made(place)
    with MatryoshkaRetriever.open(place) as writer:

        def texts() -> Iterator[str]:
            for i in range(20):
                if i == 10:
                    reindex(place, "hashing:32")
                yield f"new {i}"

        with pytest.raises(errors.ConflictError) as caught:
            writer.index(texts(), (f"n{i}" for i in range(20)), batch_size=5)
    with MatryoshkaRetriever.open(place) as retriever:
        acknowledged = list(caught.value.indexed_ids)
        assert len(acknowledged) >= 5 and None not in retriever.get(acknowledged)


def test_two_at_once(memory: str) -> None:
    """The one that is overtaken stops, and touches nothing that was written after the other had finished."""

    class Overtaken(HashingEncoder):
        overtaken = False

        def encode_document(self, texts: Any, **kwargs: Any) -> Any:
            if len(texts) < 8 and not self.overtaken:
                self.overtaken = True
                reindex(memory, HashingEncoder(32))
                with MatryoshkaRetriever.open(memory) as user:
                    user.index(["precious", "changed"], ["precious", "1"])
                    user.delete(["2"])
            return super().encode_document(texts, **kwargs)

    with pytest.raises(errors.ConflictError, match="not in 'default' any more"):
        reindex(memory, Overtaken(32), batch_size=7)
    with MatryoshkaRetriever.open(memory) as retriever:
        rows = retriever.get(["precious", "1", "2"])
        assert [row and row.document for row in rows] == ["precious", "changed", None]


def test_another_encoder_beside_an_unfinished_run(memory: str) -> None:
    with pytest.raises(errors.EncoderError):
        reindex(memory, Breaking(32), batch_size=8, fine_dims=16)
    with pytest.raises(errors.ConflictError, match="or call it off"):
        reindex(memory, "hashing:48")
    with pytest.raises(errors.CollectionMismatchError, match="fine_dims"):
        reindex(memory, HashingEncoder(32), fine_dims=8)
    with open_backend(f"{memory}?collection=default.g1") as unfinished:
        unfinished.drop()
    assert reindex(memory, "hashing:48").rows == 60


def test_a_steady_writer_does_not_keep_it_from_ending(memory: str) -> None:
    writer = MatryoshkaRetriever.open(memory)
    numbers = itertools.count()

    def meanwhile(done: int, total: int | None) -> None:
        for _ in range(20):
            writer.index([f"busy {next(numbers)}"], [f"busy {next(numbers)}"])

    reindex(memory, "hashing:32", progress=meanwhile, batch_size=8)
    with MatryoshkaRetriever.open(memory) as retriever:
        assert retriever.count() == writer.backend.count()


def test_the_same_encoder_again(memory: str) -> None:
    report = reindex(memory, "hashing:64")
    assert report.untouched and (report.generation, report.previous) == ("default", None)
    assert names(memory) == ["default"]
    assert not reindex(memory, "hashing:64", coarse_dims=8).untouched
    assert reindex(memory, "hashing:64").untouched
    report = reindex(memory, "hashing:64", force=True)
    assert (report.generation, report.previous, report.encoded) == ("default.g2", "default.g1", 60)


def test_vectors_of_an_unknown_encoder_are_embedded(memory: str) -> None:
    """Whether they are this encoder's cannot be known."""
    place = f"{memory}-given"
    with MatryoshkaRetriever(None, place, coarse_dims=16) as retriever:
        retriever.index(TEXTS, range(60), vectors=HashingEncoder(64).encode_document(TEXTS))
    assert reindex(place, "hashing:64").encoded == 60


def test_rows_without_a_document(memory: str) -> None:
    with MatryoshkaRetriever.open(memory) as retriever:
        retriever.index([None, None], ["bare", "empty"], [{"i": -1}, {}], vectors=[np.ones(64), None])
    with pytest.raises(errors.InvalidInput, match="1 rows of .* no document"):
        reindex(memory, "hashing:32")
    assert names(memory) == ["default"]
    report = reindex(memory, "hashing:32", allow_without_text=True)
    assert (report.rows, report.without_text) == (62, 1)
    with MatryoshkaRetriever.open(memory) as retriever:
        (row,) = retriever.get(["bare"], vectors=True)
        assert row is not None and row.vector is None and row.metadata == {"i": -1}


def test_what_is_refused(memory: str) -> None:
    with pytest.raises(errors.CollectionNotFound):
        reindex(f"{memory}?collection=nothing", "hashing:32")
    with pytest.raises(errors.ConflictError, match="no generation before"):
        rollback(memory)
    with pytest.raises(errors.UnknownNameError):
        reindex(memory, "nonsense")
    with pytest.raises(errors.DimensionError):
        reindex(memory, "hashing:32", fine_dims=64)
    assert names(memory) == ["default"]
    reindex(memory, "hashing:32")
    with open_backend(memory) as backend, pytest.raises(errors.ConflictError, match="open it again"):
        MatryoshkaRetriever(backend=backend)


def test_dims_of_the_new_generation(memory: str) -> None:
    reindex(memory, "hashing:128", coarse_dims=32, fine_dims=96)
    with MatryoshkaRetriever.open(memory) as retriever:
        manifest = retriever.manifest
        assert manifest is not None
        assert (manifest.dim, manifest.coarse_dims, manifest.fine_dims) == (128, 32, 96)
