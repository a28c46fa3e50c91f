"""Filters that both Qdrant backends push down mean what the core says they mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrl_adapters import qdrant
from mrl_adapters._qdrant.filters import tags_of
from mrl_retrieval.backend import Backend
from mrl_retrieval.documents import Row
from mrl_retrieval.filters import OPERATORS, IdIn, parse_filter
from mrl_retrieval.matryoshka import prefix
from mrl_retrieval.registry import open_backend
from mrl_retrieval.scoring import exact_search
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.backends.common import COARSE, DIM, batch_of, queries, random_rows
from tests.backends.qdrant.checking import check_filter, filter_dicts, metadatas
from tests.backends.qdrant.helpers import BACKENDS, filled


@pytest.fixture(scope="module", params=BACKENDS)
def reused(request: pytest.FixtureRequest) -> Iterator[Backend]:
    with filled(f"{request.param}:") as backend:
        yield backend


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(metadatas, min_size=1, max_size=6), st.lists(filter_dicts, min_size=1, max_size=4))
def test_filters_mean_what_the_core_says(
    reused: Backend, metadata: list[dict[str, Any]], asked: list[dict[str, Any]]
) -> None:
    vectors = queries(len(metadata), seed=1)
    rows = [Row(str(i), None, m, vectors[i] if i % 3 else None) for i, m in enumerate(metadata)]
    reused.delete([str(i) for i in range(6)])
    reused.upsert(batch_of(rows))
    assert [row and row.metadata for row in reused.get([r.id for r in rows])] == metadata
    for each in asked:
        check_filter(reused, parse_filter(each), rows)


@pytest.mark.parametrize("operator", sorted(OPERATORS))
@pytest.mark.parametrize("scheme", BACKENDS)
def test_each_operator_on_each_pair_of_values(scheme: str, operator: str) -> None:
    """Every operator against every kind of stored value, with every kind of operand it takes."""
    kinds = [None, True, False, 0, 1, 1.0, 1.5, "", "a", "1", [], [1], [True], [None], ["a", 1], [[1]], {}, {"k": 1}]
    operands: list[Any] = kinds
    if operator in ("$in", "$nin", "$any", "$all"):
        operands = [[], [1], [True, "a"], [None], [[1], {}], [1.0, 1.5]]
    elif operator in ("$exists", "$is_empty"):
        operands = [True, False]
    elif operator in ("$gt", "$gte", "$lt", "$lte"):
        operands = [0, 1, 1.25, -3]
    elif operator in ("$text", "$itext"):
        operands = ["", "a", "A", "1"]
    if operator in ("$gt", "$gte", "$lt", "$lte"):
        kinds = [None, 0, 1, 1.0, 1.5, -7, 2**53 + 1]
    rows = [Row(f"r{i}", None, {"v": kind, "o": {"v": kind}}, None) for i, kind in enumerate(kinds)]
    rows.append(Row("without", None, {}, None))
    with filled(f"{scheme}:") as backend:
        backend.upsert(batch_of(rows))
        for operand in operands:
            for path in ("v", "o.v"):
                asked = parse_filter({path: {operator: operand}})
                check_filter(backend, asked, rows)
                check_filter(backend, parse_filter({"$not": asked}), rows)


@pytest.mark.parametrize("scheme", BACKENDS)
def test_what_is_pushed_down_and_what_is_not(scheme: str) -> None:
    backend = open_backend(f"{scheme}:")
    pushed = [
        {"a": 1}, {"a": {"$in": [1, "x", None]}}, {"a b.c": {"$gte": 1.5}}, {"a": {"$contains": [1]}},
        {"$or": [{"a": {"$lt": 5}}, {"$not": {"b": {"$exists": True}}}]}, {"a": {"$is_empty": False}},
    ]  # fmt: skip
    listed = [
        {"a": {"$text": "x"}}, {"a": {"$gt": "2020-01-01"}}, {"a": {"$lt": 2**53}}, {'quo"te': {"$lt": 1}},
        {"$and": [{"a": 1}, {"b": {"$itext": "x"}}]}, {".".join("a" * 17): 1},
    ]  # fmt: skip
    assert all(backend.can_filter(parse_filter(f)) for f in pushed)
    assert not any(backend.can_filter(parse_filter(f)) for f in listed)


def test_tags_tell_apart_what_could_be_confused() -> None:
    lists = [tags_of({"a": value}) for value in (1, True, "1", None, [1], [], {}, "", "true", 1.5)]
    for i, one in enumerate(lists):
        for other in lists[i + 1 :]:
            assert set(one) != set(other)
    assert tags_of({"a": 1.0}) == tags_of({"a": 1})
    assert not set(tags_of({'a="b': "c"})) & set(tags_of({"a": 'b="c'}))
    long = "y" * 10_000
    assert all(len(tag) <= 128 for tag in tags_of({long: long, "list": [long]}))


@pytest.mark.parametrize("scheme", BACKENDS)
def test_metadata_deeper_than_any_parser_takes_comes_back(scheme: str) -> None:
    deep: Any = "bottom"
    for _ in range(60):
        deep = {"d": [deep]}
    with filled(f"{scheme}:") as backend:
        backend.upsert(batch_of([Row("a", None, {"x": deep}, None)]))
        assert backend.get(["a"]) == [Row("a", None, {"x": deep})]


@pytest.mark.parametrize("scheme", BACKENDS)
def test_a_list_of_many_thousand_ids(scheme: str) -> None:
    rows = random_rows(3000)
    allowed = frozenset(row.id for row in rows[::2])
    assert len(allowed) > qdrant._IDS_AT_ONCE
    with filled(f"{scheme}:") as backend:
        backend.upsert(batch_of(rows))
        asked = IdIn(allowed | {"unknown"})
        assert backend.count(asked) == 1500
        assert {i for part in backend.scan(asked) for i in part.ids} == allowed
        full = np.stack([row.vector for row in rows[::2]])
        for dims, search in ((COARSE, backend.coarse_search), (DIM, backend.exact_search)):
            vectors = prefix(queries(3), dims)
            truth = exact_search(queries(3), full, sorted(allowed, key=lambda i: int(i[3:])), 20, dim=dims)
            for found, (ids, scores) in zip(search(vectors, 20, asked), truth, strict=True):
                assert found.ids == ids
                np.testing.assert_allclose(found.scores, scores, atol=1e-5)
        stages = (Stage(COARSE, 2000), Stage(DIM, 5))
        for found in backend.search(SearchRequest(queries(2), stages, asked)):
            assert len(found.rows) == 5
            assert {row.id for row in found.rows} <= allowed
        assert backend.coarse_search(queries(1, dim=COARSE), 5, IdIn(frozenset()))[0].ids == []
