"""Searches that are prepared once and kept: the same answers, and the same refusals, as without that."""

from typing import Any

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever, errors
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.searching import PreparedSearch, PreparedSearches
from mrl_retrieval.settings import NOT_GIVEN, SearchSettings
from tests.retriever.common import TEXTS

VECTOR = HashingEncoder(64).encode_query(["a text"])[0]


@pytest.fixture
def searches(retriever: MatryoshkaRetriever) -> PreparedSearches:
    return PreparedSearches(SearchSettings())


def test_what_was_asked_for_before_is_not_prepared_again(
    retriever: MatryoshkaRetriever, searches: PreparedSearches
) -> None:
    manifest = retriever.manifest
    given: list[Any] = [{}, {"coarse_top_k": 50}, {"exact": True}, {"explain": True, "filter": None, "stages": None}]
    for options in given:
        first = searches.prepare(manifest, 3, options)
        assert first == PreparedSearch.prepare(SearchSettings(), manifest, 3, **options)
        assert searches.prepare(manifest, 3, options) is first
        assert searches.prepare(manifest, 4, options) is not first


@pytest.mark.parametrize("wrong", [True, 1.0, "1", 0, -1, None, [1], np.float64(1)])
@pytest.mark.parametrize("name", ["top_k", "coarse_top_k"])
def test_what_equals_a_good_value_is_refused_all_the_same(
    retriever: MatryoshkaRetriever, name: str, wrong: Any
) -> None:
    good: dict[str, Any] = {"top_k": 1, "coarse_top_k": 1}
    for _ in range(2):
        assert len(retriever.search_by_vector(VECTOR, **good)) == 1
        with pytest.raises(errors.InvalidInput, match=f"{name} must be a whole number"):
            retriever.search_by_vector(VECTOR, **{**good, name: wrong})
    assert len(retriever.search_by_vector(VECTOR, np.int64(1))) == 1  # type: ignore[arg-type]


def test_an_unknown_option_is_refused_after_the_same_search_without_it(retriever: MatryoshkaRetriever) -> None:
    assert retriever.search_by_vector(VECTOR, 1)
    for _ in range(2):
        with pytest.raises(TypeError, match="unknown"):
            retriever.search_by_vector(VECTOR, 1, unknown=None)  # type: ignore[call-arg]


def test_filters_and_funnels_are_read_each_time(retriever: MatryoshkaRetriever, searches: PreparedSearches) -> None:
    manifest = retriever.manifest
    only: dict[str, Any] = {"kind": 1}
    for options in ({"filter": only}, {"stages": [(16, 40)]}):
        first = searches.prepare(manifest, 3, options)  # type: ignore[arg-type]
        assert searches.prepare(manifest, 3, options) is not first  # type: ignore[arg-type]
    before = searches.prepare(manifest, 3, {"filter": only})
    only["kind"] = True
    after = searches.prepare(manifest, 3, {"filter": only})
    assert before is not None and after is not None and repr(before.filter) != repr(after.filter)


def test_another_manifest_is_another_search(retriever: MatryoshkaRetriever, searches: PreparedSearches) -> None:
    manifest = retriever.manifest
    assert manifest is not None
    assert searches.prepare(None, 3, {}) is None
    first = searches.prepare(manifest, NOT_GIVEN, {})
    planned = searches.prepare(manifest.with_plan({"final_top_k": 2}), NOT_GIVEN, {})
    assert first is not None and planned is not None
    assert (first.stages[-1].limit, planned.stages[-1].limit) == (10, 2)


def test_no_more_than_a_few_are_kept(retriever: MatryoshkaRetriever, searches: PreparedSearches) -> None:
    for k in range(1, 500):
        searches.prepare(retriever.manifest, k, {})
    assert len(searches._kept) <= 64


def test_one_vector_is_searched_as_one_of_a_batch(retriever: MatryoshkaRetriever) -> None:
    for given in (VECTOR, VECTOR.tolist(), VECTOR.astype(np.float64), VECTOR[::-1][::-1], np.asarray(VECTOR, ">f4")):
        (expected,) = retriever.search_batch_by_vector([given], 5)
        assert retriever.search_by_vector(given, 5) == expected and len(expected) == min(5, len(TEXTS))
    with pytest.raises(errors.DimensionError, match="query vectors have 3 components, expected 64"):
        retriever.search_by_vector([1, 2, 3])
    with pytest.raises(errors.NonFiniteError, match=r"query vectors\[0\] has nan at component 63"):
        retriever.search_by_vector([*[0.0] * 63, np.nan])
