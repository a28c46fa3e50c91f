"""Conformance: a filter means the same on every backend, and does not cost hits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ..errors import FilterError
from ..filters import IdIn, matches, parse_filter
from ..retriever import MatryoshkaRetriever
from .base import SuiteBase, clustered
from .cases import FILTER_ROWS, FILTERS, NUMBER_ROWS, NUMBERS_ASKED, ORDER_ACROSS_TYPES
from .oracle import Stored, assert_matches_truth

Opener = Callable[..., MatryoshkaRetriever]


class FilterSuite(SuiteBase):
    """Filters."""

    @pytest.fixture
    def described(self, open_retriever: Opener) -> MatryoshkaRetriever:
        """Rows with every kind of metadata. A third of the filters order by keys of mixed types elsewhere."""
        retriever = open_retriever(coarse_dims=4)
        n = len(FILTER_ROWS)
        retriever.index([f"d{i}" for i in range(n)], range(n), FILTER_ROWS, clustered(n, 8))
        return retriever

    def test_every_operator_alone_and_nested(self, described: MatryoshkaRetriever) -> None:
        stored = Stored(described.backend)
        query = clustered(1, 8, seed=3)[0]
        truth = stored.scores(query, 8)
        wrong: list[str] = []
        for given in FILTERS:
            tree = parse_filter(given)
            expected = {str(i) for i, row in enumerate(FILTER_ROWS) if matches(tree, str(i), row)}
            seen: dict[str, Any] = {
                "count": described.count(given),
                "scan": {id for batch in described.backend.scan(tree) for id in batch.ids},
            }
            result = described.search_by_vector(query, 50, filter=given)
            seen["search"] = set(result.ids)
            if seen != {"count": len(expected), "scan": expected, "search": expected}:
                wrong.append(f"{given}: expected {sorted(expected, key=int)}, got {seen}")
                continue
            assert_matches_truth(result, {id: truth[id] for id in expected}, 50)
            exact = described.search_by_vector(query, 3, filter=given, exact=True)
            assert_matches_truth(exact, {id: truth[id] for id in expected}, 3)
            few = described.search_by_vector(query, 3, coarse_top_k=3, filter=given)
            assert len(few) == min(3, len(expected)), f"{given}: {len(few)} hits, {len(expected)} match"
        assert not wrong, "\n".join(wrong)

    def test_numbers_are_compared_by_value(self, open_retriever: Opener) -> None:
        """Fractions with integers, and integers that no double equals: nothing is rounded."""
        retriever = open_retriever(coarse_dims=4)
        n = len(NUMBER_ROWS)
        metadatas = [{"n": value, "in": {"list": [value]}} for value in NUMBER_ROWS]
        retriever.index([None] * n, range(n), metadatas, clustered(n, 8))
        query = clustered(1, 8, seed=3)[0]
        wrong: list[str] = []
        for operand in NUMBERS_ASKED:
            conditions: list[dict[str, Any]] = [{"n": {op: operand}} for op in ("$eq", "$gt", "$gte", "$lt", "$lte")]
            conditions += [{"$not": condition} for condition in conditions]
            conditions += [{"n": {"$in": [operand]}}, {"in.list": {"$contains": operand}}]
            for given in conditions:
                tree = parse_filter(given)
                expected = {str(i) for i, row in enumerate(metadatas) if matches(tree, str(i), row)}
                found = set(retriever.search_by_vector(query, n, filter=given).ids)
                counted = retriever.count(given)
                if (found, counted) != (expected, len(expected)):
                    told = [sorted((NUMBER_ROWS[int(id)] for id in ids), key=repr) for ids in (expected, found)]
                    wrong.append(f"{given}: expected {told[0]}, found {told[1]}, counted {counted}")
        assert not wrong, "\n".join(wrong)

    def test_order_across_types_is_an_error(self, described: MatryoshkaRetriever) -> None:
        for given in ORDER_ACROSS_TYPES:
            for call in (
                lambda given=given: described.search_by_vector(np.ones(8), filter=given),
                lambda given=given: described.search_by_vector(np.ones(8), filter=given, exact=True),
                lambda given=given: described.count(given),
            ):
                with pytest.raises(FilterError):
                    call()

    def test_a_selective_filter_still_gives_its_hits(self, open_retriever: Opener) -> None:
        """Few rows match, and they are far from the query: the coarse stage must look for them, not past them."""
        retriever = open_retriever(coarse_dims=4)
        n = 1000
        vectors = clustered(n, 16)
        query = vectors[0]
        cosines = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)) @ (query / np.linalg.norm(query))
        far = np.argsort(cosines)[:7]
        metadatas = [{"rare": i in far, "group": int(i) % 10} for i in range(n)]
        retriever.index([None] * n, range(n), metadatas, vectors)
        stored = Stored(retriever.backend)
        truth = stored.scores(query, 16)
        result = retriever.search_by_vector(query, 5, coarse_top_k=7, filter={"rare": True})
        assert_matches_truth(result, {str(i): truth[str(i)] for i in far}, 5)
        assert len(retriever.search_by_vector(query, 10, coarse_top_k=10, filter={"rare": True})) == 7
        for group in (0, 3):
            kept = {str(i): truth[str(i)] for i in range(n) if i % 10 == group}
            result = retriever.search_by_vector(query, 10, coarse_top_k=100, filter={"group": group})
            assert_matches_truth(result, kept, 10)

    def test_a_filter_that_matches_nothing(self, described: MatryoshkaRetriever) -> None:
        given: Any
        for given in ({"lang": "nobody"}, {"nowhere": 1}, {"year": {"$in": []}}):
            for exact in (False, True):
                assert described.search_by_vector(np.ones(8), filter=given, exact=exact).ids == []
            assert described.count(given) == 0

    def test_no_filter_is_no_filter(self, described: MatryoshkaRetriever) -> None:
        nothing: list[Any] = [None, {}]
        for given in nothing:
            assert len(described.search_by_vector(np.ones(8), 100, filter=given)) == len(FILTER_ROWS)
            assert described.count(given) == len(FILTER_ROWS)

    def test_an_allow_list_of_many_ids(self, open_retriever: Opener) -> None:
        retriever = open_retriever(coarse_dims=2)
        n = 5000
        rng = np.random.default_rng(11)
        vectors = rng.standard_normal((n, 4)).astype(np.float32)
        retriever.index([None] * n, range(n), vectors=vectors, batch_size=2500)
        allowed = {str(i) for i in range(n) if i % 4 != 1} | {"nobody"}
        condition = IdIn(frozenset(allowed))
        assert retriever.count(condition) == n - n // 4
        truth = {id: s for id, s in Stored(retriever.backend).scores(vectors[1], 4).items() if id in allowed}
        result = retriever.search_by_vector(vectors[1], 25, coarse_top_k=n, filter=condition)
        assert_matches_truth(result, truth, 25)
        nobody = IdIn(frozenset())
        assert retriever.count(nobody) == 0 and retriever.search_by_vector(vectors[1], filter=nobody).ids == []
