"""The shape of a filter has its fields and operators, in one order, and no value."""

import pytest

from mrl_retrieval.filters import IdIn, parse_filter
from mrl_retrieval.monitoring.shapes import filter_shape


@pytest.mark.parametrize(
    ("filter", "shape"),
    [
        ({"a": 1}, "a $eq"),
        ({"a": {"$ne": "secret"}}, "$not(a $eq)"),
        ({"b": {"$in": ["secret"]}, "a.c": {"$gt": 1, "$lte": 2}}, "$and($and(a.c $gt, a.c $lte), b $in)"),
        ({"$or": [{"b": 1}, {"a": 1}, {"b": 2}]}, "$or(a $eq, b $eq)"),
        (IdIn(frozenset({"secret"})), "id $in"),
    ],
)
def test_shapes(filter, shape):
    assert filter_shape(parse_filter(filter)) == shape


def test_a_long_one_is_cut():
    shape = filter_shape(parse_filter({f"field{i}": i for i in range(100)}))
    assert len(shape) == 120 and shape.endswith("…")
