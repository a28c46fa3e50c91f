"""Conformance: what is written is what is read, and what is deleted is gone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ..documents import canonical_json
from ..errors import DimensionError, InvalidInput
from ..retriever import MatryoshkaRetriever
from .base import SuiteBase, clustered
from .cases import ODD_IDS, ODD_METADATA
from .oracle import Stored, assert_matches_truth

Opener = Callable[..., MatryoshkaRetriever]


class RowSuite(SuiteBase):
    """Rows."""

    def test_metadata_comes_back_exactly(self, open_retriever: Opener) -> None:
        retriever = open_retriever()
        n = len(ODD_METADATA)
        retriever.index([f"d{i}" for i in range(n)], range(n), ODD_METADATA, clustered(n, 4))
        for row, given in zip(retriever.get(range(n)), ODD_METADATA, strict=True):
            # Compared as JSON: 1 is not 1.0, and True is not 1.
            assert row is not None and canonical_json(row.metadata) == canonical_json(given)
        for hit in retriever.search_by_vector(clustered(1, 4)[0], n):
            assert canonical_json(hit.metadata) == canonical_json(ODD_METADATA[int(hit.id)])

    def test_ids_and_documents_come_back_exactly(self, open_retriever: Opener) -> None:
        retriever = open_retriever()
        documents = [f"{id} — text\r\n\t" for id in ODD_IDS]
        documents[0], documents[1] = "", "nul \x00 inside"
        assert retriever.index(documents, ODD_IDS, vectors=clustered(len(ODD_IDS), 4)) == ODD_IDS
        assert [row and (row.id, row.document) for row in retriever.get(ODD_IDS)] == list(
            zip(ODD_IDS, documents, strict=True)
        )
        result = retriever.search_by_vector(clustered(1, 4)[0], 100)
        assert sorted(result.ids) == sorted(ODD_IDS)
        assert {hit.id: hit.document for hit in result} == dict(zip(ODD_IDS, documents, strict=True))
        assert retriever.delete(ODD_IDS[:5]) == 5
        assert sorted(retriever.search_by_vector(clustered(1, 4)[0], 100).ids) == sorted(ODD_IDS[5:])

    def test_get_keeps_the_asked_order(self, open_retriever: Opener) -> None:
        retriever = open_retriever()
        # Half a step of 1/127, for int8; the rounding of float16, else.
        tolerance = 4e-3 if retriever.backend.capabilities.vector_dtype == "int8" else 1e-3
        vectors = clustered(30, 8)
        retriever.index([f"d{i}" for i in range(30)], range(30), vectors=vectors)
        asked = ["7", "nobody", "3", "7", "29", "0"]
        rows = retriever.get(asked, vectors=True)
        assert [row and row.id for row in rows] == ["7", None, "3", "7", "29", "0"]
        for id, row in zip(asked, rows, strict=True):
            if row is not None:
                unit = vectors[int(id)] / np.linalg.norm(vectors[int(id)])
                assert row.vector is not None and np.abs(row.vector - unit).max() < tolerance
        assert all(row is None or row.vector is None for row in retriever.get(asked))
        assert retriever.get([]) == []

    def test_indexing_again_overwrites_the_whole_row(self, open_retriever: Opener) -> None:
        retriever = open_retriever(coarse_dims=2)
        retriever.index(["old", "other"], ["a", "b"], [{"old": 1, "both": 1}, {}], [[1.0, 0, 0], [0, 1.0, 0]])
        assert retriever.index(["new"], ["a"], [{"both": 2}], [[0, 0, 1.0]]) == ["a"]
        assert retriever.count() == 2
        (row,) = retriever.get(["a"])
        assert row is not None and (row.document, row.metadata) == ("new", {"both": 2})
        assert retriever.count({"old": {"$exists": True}}) == 0
        assert retriever.search_by_vector([1.0, 0, 0], filter={"old": 1}).ids == []
        result = retriever.search_by_vector([0, 0, 1.0])
        assert result[0].id == "a" and result[0].score == pytest.approx(1.0) and sorted(result.ids) == ["a", "b"]
        old = retriever.search_by_vector([1.0, 0, 0])
        assert sorted(old.ids) == ["a", "b"] and max(hit.score for hit in old) == pytest.approx(0.0, abs=1e-6)

    def test_indexing_the_same_twice_changes_nothing(self, open_retriever: Opener) -> None:
        retriever = open_retriever()
        vectors = clustered(20, 4)
        first = retriever.index([f"d{i}" for i in range(20)], vectors=vectors)
        assert retriever.index([f"d{i}" for i in range(20)], vectors=vectors) == first
        assert retriever.count() == 20 == len(set(first))

    def test_equal_rows_share_an_id_and_sources_keep_theirs(self, open_retriever: Opener) -> None:
        retriever = open_retriever()
        ids = retriever.index(["x", "x", "x"], metadatas=[{"s": 1}, {"s": 2}, {"s": 1}], vectors=np.ones((3, 2)))
        assert ids[0] == ids[2] != ids[1] and retriever.count() == 2

    def test_delete(self, open_retriever: Opener) -> None:
        retriever = open_retriever(coarse_dims=4)
        vectors = clustered(60, 8)
        retriever.index([f"d{i}" for i in range(60)], range(60), [{"i": i} for i in range(60)], vectors)
        assert retriever.delete(["nobody"]) == 0
        assert retriever.delete(["3", "nobody", "4"]) == 2
        assert retriever.delete(["3"]) == 0
        assert retriever.delete(filter={"i": {"$gte": 50}}) == 10
        gone = {"3", "4", *map(str, range(50, 60))}
        assert retriever.count() == 48 and retriever.get(["3", "50"]) == [None, None]
        stored = Stored(retriever.backend)
        assert not gone & set(stored.ids)
        for query in vectors[[3, 4, 55, 20]]:
            for exact in (False, True):
                result = retriever.search_by_vector(query, 48, exact=exact)
                assert_matches_truth(result, stored.scores(query, 8), 48)
        retriever.index(["back"], ["3"], vectors=vectors[3:4])
        assert retriever.search_by_vector(vectors[3], 1)[0].document == "back"

    def test_an_emptied_collection(self, open_retriever: Opener) -> None:
        retriever = open_retriever()
        retriever.index(["a", "b"], ["a", "b"], vectors=np.eye(2))
        retriever.delete(["a", "b"])
        assert retriever.count() == 0
        for exact in (False, True):
            assert len(retriever.search_by_vector([1.0, 0], exact=exact)) == 0
            assert len(retriever.search_by_vector([1.0, 0], exact=exact, filter={"x": 1})) == 0
        assert list(retriever.backend.scan(vectors=True)) == []
        retriever.index(["c"], ["c"], vectors=[[1.0, 0]])
        assert retriever.search_by_vector([1.0, 0]).ids == ["c"]

    def test_rows_without_vector_or_document(self, open_retriever: Opener) -> None:
        retriever = open_retriever(coarse_dims=2, dim=4)
        retriever.index(["first, no vector"], ["n0"], [{"k": 0}], [None])
        vectors = [*clustered(3, 4), None, None]
        retriever.index(
            ["d0", None, "d2", "no vector", None],
            ["v0", "v1", "v2", "n1", "n2"],
            [{"k": 1}, {"k": 1}, {}, {"k": 1}, {"k": 2}],
            vectors,
        )
        assert retriever.count() == 6 and retriever.count({"k": 1}) == 3
        rows = retriever.get(["v1", "n1", "n2", "n0"], vectors=True)
        assert [row and row.document for row in rows] == [None, "no vector", None, "first, no vector"]
        assert [row is not None and row.vector is not None for row in rows] == [True, False, False, False]
        for exact in (False, True):
            assert sorted(retriever.search_by_vector(np.ones(4), exact=exact).ids) == ["v0", "v1", "v2"]
            found = retriever.search_by_vector(np.ones(4), exact=exact, filter={"k": 1})
            assert sorted(found.ids) == ["v0", "v1"]
        seen = {row.id: row for batch in retriever.backend.scan(vectors=True) for row in batch.rows()}
        assert {id for id, row in seen.items() if row.vector is None} == {"n0", "n1", "n2"}
        stats = retriever.info().stats
        assert (stats.rows, stats.vectors) == (6, 3)
        # A row may gain a vector, and lose it again.
        retriever.index(["now"], ["n1"], vectors=[[1.0, 1, 1, 1]])
        assert retriever.search_by_vector(np.ones(4), 1).ids == ["n1"]
        retriever.index(["again none"], ["n1"], vectors=[None])
        assert "n1" not in retriever.search_by_vector(np.ones(4)).ids and retriever.count() == 6

    def test_a_wrong_vector_writes_nothing(self, open_retriever: Opener) -> None:
        retriever = open_retriever()
        retriever.index(["a"], ["a"], vectors=[[1.0, 0, 0]])
        for wrong in ([[1.0, 0]], [[1.0, 0, 0, 0]]):
            with pytest.raises(DimensionError, match="3"):
                retriever.index(["b"], ["b"], vectors=wrong)
        for bad in (np.nan, np.inf):
            with pytest.raises(InvalidInput):
                retriever.index(["b", "c"], ["b", "c"], vectors=[[1.0, 0, 0], [bad, 0, 0]])
        with pytest.raises(DimensionError):
            retriever.search_by_vector([1.0, 0])
        assert retriever.count() == 1

    def test_more_rows_than_a_client_takes_at_once(self, open_retriever: Opener) -> None:
        retriever = open_retriever(coarse_dims=2)
        n = 6000
        rng = np.random.default_rng(5)
        vectors = rng.standard_normal((n, 4)).astype(np.float32)
        retriever.index([None] * n, range(n), [{"even": i % 2 == 0} for i in range(n)], vectors, batch_size=n)
        assert retriever.count() == n and retriever.count({"even": True}) == n // 2
        rows = retriever.get([str(i) for i in range(n)])
        assert [row and row.id for row in rows] == [str(i) for i in range(n)]
        assert len({id for batch in retriever.backend.scan(batch_size=700) for id in batch.ids}) == n
        stored = Stored(retriever.backend)
        result = retriever.search_by_vector(vectors[17], 20, coarse_top_k=n)
        assert_matches_truth(result, stored.scores(vectors[17], 4), 20)
        assert retriever.delete([str(i) for i in range(0, n, 2)]) == n // 2
        assert retriever.count() == n // 2
