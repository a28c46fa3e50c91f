"""Conformance: collections are made, reopened, recognised and dropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ..backend import Capabilities
from ..encoders.hashing import HashingEncoder
from ..errors import CollectionMismatchError, CollectionNotFound, ConflictError, InvalidInput, ModelMismatchError
from ..registry import open_backend
from ..retriever import MatryoshkaRetriever
from .base import SuiteBase, clustered
from .oracle import Stored, assert_matches_truth

Opener = Callable[..., MatryoshkaRetriever]

TEXTS = [
    "git revert makes a commit that undoes another commit",
    "a cake needs flour, sugar and eggs",
    "the heart pumps blood through the body",
    "revenue grew by ten percent in the third quarter",
]


class CollectionSuite(SuiteBase):
    """Collections."""

    def test_nothing_is_there_at_first(self, open_retriever: Opener) -> None:
        retriever = open_retriever()
        assert retriever.manifest is None and retriever.backend.collections() == []
        assert retriever.count() == 0 and retriever.get(["a"]) == [None] and retriever.delete(["a"]) == 0
        assert retriever.search_by_vector([1.0, 2.0]).ids == []
        assert retriever.index([], vectors=[]) == []
        assert retriever.backend.collections() == []
        with pytest.raises(CollectionNotFound):
            retriever.info()
        retriever.backend.drop()

    def test_opening_what_is_not_there(self, address: str) -> None:
        with pytest.raises(CollectionNotFound, match="there is no collection"):
            MatryoshkaRetriever.open(address, backend_options=self.options or None)

    def test_an_unknown_option_is_refused(self, address: str) -> None:
        with pytest.raises(InvalidInput, match="colour"):
            open_backend(address, **self.options, colour="red")

    def test_reopening(self, open_retriever: Opener, address: str, capabilities: Capabilities) -> None:
        if not capabilities.persistent:
            pytest.skip("the backend declares that it is not persistent")
        vectors = clustered(80, 12)
        with open_retriever(coarse_dims=4) as first:
            first.index([f"d{i}" for i in range(80)], range(80), [{"i": i} for i in range(80)], vectors)
            first.delete(["5"])
            first.index(["new"], ["6"], [{"i": -6}], vectors[6:7])
            made, stored = first.manifest, Stored(first.backend)
            assert made is not None
        with open_retriever() as second:
            assert second.manifest == made and second.manifest is not None and second.manifest.checksum == made.checksum
            assert second.count() == 79
            again = Stored(second.backend)
            order = [again.ids.index(id) for id in stored.ids]
            assert np.array_equal(again.vectors[order], stored.vectors)
            (row,) = second.get(["6"])
            assert row is not None and (row.document, row.metadata) == ("new", {"i": -6})
            for query in vectors[:5]:
                assert_matches_truth(second.search_by_vector(query, 10, coarse_top_k=79), stored.scores(query, 12), 10)
            second.index(["more"], ["new"], vectors=vectors[:1])
        with open_retriever() as third:
            assert third.count() == 80 and third.get(["5"]) == [None]

    def test_by_address_alone(self, address: str, open_retriever: Opener, capabilities: Capabilities) -> None:
        if not capabilities.persistent:
            pytest.skip("the backend declares that it is not persistent")
        with open_retriever(HashingEncoder(64), coarse_dims=16) as made:
            made.index(TEXTS, ["git", "cake", "heart", "money"])
            expected = [tuple(hit) for hit in made.search("How do I undo a commit?")]
        with MatryoshkaRetriever.open(address, backend_options=self.options) as opened:
            assert [tuple(hit) for hit in opened.search("How do I undo a commit?")] == expected
            assert expected[0][0] == "git"

    def test_a_text_is_found(self, open_retriever: Opener) -> None:
        retriever = open_retriever(HashingEncoder(64), coarse_dims=16)
        ids = retriever.index(iter(TEXTS), batch_size=3)
        for id, text in zip(ids, TEXTS, strict=True):
            hit = retriever.search(text, 1)[0]
            assert (hit.id, hit.document) == (id, text) and hit.score == pytest.approx(1.0, abs=1e-3)
        batch = retriever.search_batch(TEXTS, 2)
        assert [result[0].id for result in batch] == ids

    def test_a_collection_refuses_what_it_was_not_made_with(self, open_retriever: Opener) -> None:
        retriever = open_retriever(HashingEncoder(64), coarse_dims=16)
        retriever.index(TEXTS)
        backend = retriever.backend
        with pytest.raises(ModelMismatchError, match="64"):
            MatryoshkaRetriever(HashingEncoder(32), backend)
        for settings in ({"coarse_dims": 32}, {"fine_dims": 32}, {"stages": [(16, 100)], "fine_dims": 48}):
            with pytest.raises(CollectionMismatchError, match="given"):
                MatryoshkaRetriever(HashingEncoder(64), backend, **settings)
        noise = np.random.default_rng(0).standard_normal((64, 64))
        other = MatryoshkaRetriever(lambda texts: HashingEncoder(64).encode_document(texts) @ noise, backend)
        for call in (lambda: other.search("x"), lambda: other.index(["x"])):
            with pytest.raises(ModelMismatchError, match="canary"):
                call()
        same = MatryoshkaRetriever(lambda texts: HashingEncoder(64).encode_document(texts), backend)
        assert same.search(TEXTS[1], 1)[0].document == TEXTS[1]
        assert retriever.count() == len(TEXTS)

    def test_the_manifest_is_compared_and_set(self, open_retriever: Opener) -> None:
        retriever = open_retriever()
        retriever.index(["a"], ["a"], vectors=[[1.0, 2.0]])
        backend = retriever.backend
        made = backend.read_manifest()
        assert made is not None
        with pytest.raises(ConflictError):
            backend.write_manifest(replace(made, plan={"coarse_top_k": 5}), None)
        planned = made.with_plan({"coarse_top_k": 50, "note": "ünïcode"})
        backend.write_manifest(planned, made)
        assert backend.read_manifest() == planned
        with pytest.raises(ConflictError):
            backend.write_manifest(made, made)
        read = backend.read_manifest()
        assert read is not None and read.checksum == planned.checksum
        assert retriever.get(["a"])[0] is not None

    def test_collections_side_by_side(self, address: str, open_retriever: Opener, capabilities: Capabilities) -> None:
        if not capabilities.persistent:
            pytest.skip("the backend declares that it is not persistent: every opening is a place of its own")
        names = ["a", "default", "Notes.v2-x_y"]
        first = open_retriever(at=f"{address}?collection={names[0]}")
        assert first.backend.collections() == []
        first.index(["one"], ["1"], vectors=[[1.0, 0]])
        held = [first]
        if not capabilities.exclusive_open:
            for i, name in enumerate(names[1:]):
                held.append(open_retriever(at=f"{address}?collection={name}"))
                held[-1].index([f"more {i}"], ["1"], vectors=[[0, 1.0, float(i)]])
        else:
            first.close()
            for i, name in enumerate(names[1:]):
                with open_retriever(at=f"{address}?collection={name}") as one:
                    one.index([f"more {i}"], ["1"], vectors=[[0, 1.0, float(i)]])
        last = held[-1] if len(held) > 1 else open_retriever(at=f"{address}?collection={names[2]}")
        assert last.backend.collections() == sorted(names)
        (row,) = last.get(["1"])
        assert row is not None and row.document == "more 1"
        last.backend.drop()
        last.backend.drop()
        assert last.backend.collections() == sorted(names[:2])
        assert last.backend.read_manifest() is None

    def test_a_dropped_collection_can_be_made_again(self, open_retriever: Opener) -> None:
        retriever = open_retriever()
        retriever.index(["a"], ["a"], vectors=[[1.0, 2.0]])
        retriever.backend.drop()
        again = MatryoshkaRetriever(None, retriever.backend)
        assert again.manifest is None and again.count() == 0
        again.index(["b"], ["b"], vectors=[[1.0, 2.0, 3.0]])
        assert again.search_by_vector([1.0, 2.0, 3.0]).ids == ["b"]

    def test_stats(self, open_retriever: Opener) -> None:
        retriever = open_retriever(coarse_dims=4)
        retriever.index([f"d{i}" for i in range(50)], range(50), vectors=clustered(50, 8))
        retriever.flush()
        info = retriever.info()
        assert (info.stats.rows, info.stats.vectors) == (50, 50)
        assert set(info.stats.bytes) >= {"coarse", "fine", "rows"}
        assert all(value is None or value > 0 for value in info.stats.bytes.values())
        assert info.manifest.coarse_dims == 4 and str(retriever.backend.address) == info.address

    def test_closing_twice(self, open_retriever: Opener) -> None:
        retriever = open_retriever()
        retriever.index(["a"], ["a"], vectors=[[1.0, 2.0]])
        retriever.close()
        retriever.close()
        never = open_retriever()
        never.close()
        never.close()
