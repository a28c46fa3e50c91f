"""Filters and metadata at random, hostile ones among them, and what a backend must make of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st

from mrl_retrieval.backend import Backend
from mrl_retrieval.documents import Row
from mrl_retrieval.errors import (
    FilterError,
)
from mrl_retrieval.filters import matches
from tests.backends.common import COARSE, queries

__all__ = ["NUMBERS", "TEXTS", "check_filter", "filter_dicts", "metadatas"]

KEYS = ["a", "b", "key with space", "é", 'quo"te', "x[0]", "a]", "[]", "0", "_-"]
NUMBERS = [0, 1, -1, 2, 2**53, 2**53 + 1, 2**53 - 1, -(2**63), 2**63 - 1, 0.5, 1.0, -0.0, 1e300, float(2**53), 5e-324]
TEXTS = ["", "a", "A", "1", "true", "null", '"', "é", "x" * 200, "2020-01-01", "2020-01-01T00:00:00Z"]
scalars = st.one_of(st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(TEXTS))
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYS, "a.b", ""]), inner, max_size=3),
    max_leaves=6,
)
metadatas = st.dictionaries(st.sampled_from([*KEYS, "a.b", ""]), values, max_size=4)
paths = st.one_of(st.sampled_from(KEYS), st.builds("{}.{}".format, st.sampled_from(KEYS), st.sampled_from(KEYS)))
orders = st.sampled_from(["$gt", "$gte", "$lt", "$lte"])
conditions = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne", "$contains"]), values),
    st.tuples(st.sampled_from(["$in", "$nin", "$any", "$all"]), st.lists(values, max_size=3)),
    st.tuples(st.sampled_from(["$exists", "$is_empty"]), st.booleans()),
    st.tuples(st.sampled_from(["$text", "$itext"]), st.sampled_from(TEXTS)),
    st.tuples(orders, st.sampled_from(NUMBERS) | st.sampled_from(TEXTS)),
)
leaf_filters = st.builds(lambda path, condition: {path: dict([condition])}, paths, conditions)
filter_dicts = st.recursive(
    leaf_filters,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$and": parts})
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$or": parts})
        | inner.map(lambda part: {"$not": part})
    ),
    max_leaves=4,
)


def expected_ids(filter: Any, rows: list[Row]) -> set[str] | None:
    """The ids that match, None for a FilterError."""
    try:
        return {row.id for row in rows if matches(filter, row.id, row.metadata)}
    except FilterError:
        return None


def check_filter(backend: Backend, filter: Any, rows: list[Row]) -> None:
    expected = expected_ids(filter, rows)
    if expected is None:
        for call in (backend.count, lambda f: list(backend.scan(f)), backend.resolve_filter):
            with pytest.raises(FilterError):
                call(filter)
        return
    assert backend.count(filter) == len(expected)
    assert {i for batch in backend.scan(filter, documents=False) for i in batch.ids} == expected
    resolved = backend.resolve_filter(filter)
    assert (resolved is filter) == backend.can_filter(filter)
    (found,) = backend.coarse_search(queries(1, dim=COARSE), 1000, resolved)
    assert set(found.ids) == {row.id for row in rows if row.id in expected and row.vector is not None}
