from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrl_retrieval.errors import FilterError
from mrl_retrieval.filters import And, Compare, Filter, Not, Or, leaves, matches, parse_filter

ROW = {"n": 3, "f": 3.5, "s": "abc", "b": True, "none": None, "l": [1, "x", True], "d": {"k": {"z": 0}}, "e": []}


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({"n": 3.0}, True), ({"n": "3"}, False), ({"b": 1}, False), ({"b": True}, True), ({"n": True}, False),
        ({"none": None}, True), ({"gone": None}, False), ({"gone": {"$ne": 1}}, True), ({"none": {"$ne": 1}}, True),
        ({"n": {"$ne": 3}}, False), ({"n": {"$gt": 2, "$lt": 3.5}}, True), ({"s": {"$gte": "abc"}}, True),
        ({"none": {"$gt": 1}}, False), ({"none": {"$lte": "a"}}, False), ({"gone": {"$gt": 1}}, False),
        ({"n": {"$in": [1, 3]}}, True), ({"b": {"$in": [1]}}, False), ({"gone": {"$nin": [1]}}, True), ({"n": {"$in": []}}, False),
        ({"none": {"$exists": True}}, True), ({"gone": {"$exists": False}}, True), ({"gone": {"$exists": True}}, False),
        ({"l": {"$contains": 1}}, True), ({"l": {"$contains": "1"}}, False), ({"l": {"$contains": True}}, True),
        ({"s": {"$contains": "a"}}, False), ({"l": {"$any": ["y", "x"]}}, True), ({"l": {"$all": ["x", 1]}}, True),
        ({"l": {"$all": ["x", 2]}}, False), ({"s": {"$any": ["abc"]}}, False), ({"e": {"$all": []}}, True), ({"s": {"$all": []}}, False),
        ({"s": {"$text": "bc"}}, True), ({"s": {"$text": "BC"}}, False), ({"s": {"$itext": "BC"}}, True), ({"n": {"$text": "3"}}, False),
        ({"e": {"$is_empty": True}}, True), ({"none": {"$is_empty": True}}, True), ({"gone": {"$is_empty": True}}, False),
        ({"gone": {"$is_empty": False}}, False), ({"n": {"$is_empty": False}}, True), ({"d.k.z": 0}, True), ({"d.k": {"z": {"$gt": 0}}}, None),
        ({"d": {"$eq": {"k": {"z": 0.0}}}}, True), ({"d.k.z.q": {"$exists": False}}, True), ({"s.a": {"$ne": 1}}, True),
        ({"$not": {"gone": 1}}, True), ({"n": {"$not": {"$gt": 5}}}, True), ({"gone": {"$not": {"$gt": 5}}}, True),
        ({"$or": [{"n": 1}, {"s": "abc"}]}, True), ({"$and": [{"n": 3}, {"s": "x"}]}, False), ({"n": 3, "s": "abc"}, True),
    ],
)  # fmt: skip
def test_meaning(filter: dict[str, object], expected: bool | None) -> None:
    if expected is None:
        with pytest.raises(FilterError):
            parse_filter(filter)
        return
    assert matches(parse_filter(filter), "id", ROW) is expected
    assert matches(parse_filter({"$not": filter}), "id", ROW) is not expected


@pytest.mark.parametrize(
    ("filter", "words"),
    [
        ({"n": {"$regex": "x"}}, "unknown operator '\\$regex'.*known"),
        ({"$nor": [{"n": 1}]}, "\\$nor"),
        ({"$gt": 1}, "belongs under a field"),
        ({"n": {"gt": 1}}, "'n.gt'"),
        ({"n": {}}, "empty dict"),
        ({"n": {"$gt": None}}, "number or a string, got None"),
        ({"n": {"$gt": True}}, "bool"),
        ({"n": {"$lt": [1]}}, "list"),
        ({"n": {"$lt": float("nan")}}, "nan"),
        ({"n": {"$in": "abc"}}, "takes a list"),
        ({"n": {"$in": 3}}, "takes a list"),
        ({"n": {"$any": {"a": 1}}}, "takes a list"),
        ({"n": {"$exists": 1}}, "True or False"),
        ({"n": {"$is_empty": "yes"}}, "True or False"),
        ({"n": {"$text": 3}}, "takes a string"),
        ({"n": {"$eq": {1, 2}}}, "JSON"),
        ({"n": float("inf")}, "JSON"),
        ({"n": "\ud800"}, "JSON"),
        ({"$and": []}, "at least one"),
        ({"$or": {"n": 1}}, "takes a list"),
        ({"$and": [{}]}, "at least one key"),
        ({"$not": []}, "expected a filter"),
        ({"a..b": 1}, "empty part"),
        ({"": 1}, "empty part"),
        ({1: 2}, "string"),
        ("n = 3", "a filter is a dict"),
        ([("n", 3)], "a filter is a dict"),
    ],
)
def test_a_wrong_filter_is_refused(filter: object, words: str) -> None:
    with pytest.raises(FilterError, match=words):
        parse_filter(filter)  # type: ignore[arg-type]


def test_no_filter() -> None:
    assert parse_filter(None) is None and parse_filter({}) is None and matches(None, "id", {})


def test_the_caller_may_change_the_dict_afterwards() -> None:
    given = {"n": {"$in": [1, 2]}, "d": {"$eq": {"k": [1]}}}
    tree = parse_filter(given)
    given["n"]["$in"].append(3)
    given["d"]["$eq"]["k"].append(2)
    assert not matches(tree, "id", {"n": 3, "d": {"k": [1]}}) and matches(tree, "id", {"n": 1, "d": {"k": [1]}})


@pytest.mark.parametrize(
    ("filter", "row"),
    [
        ({"n": {"$gt": "1"}}, {"n": 1}), ({"s": {"$lt": 1}}, {"s": "a"}), ({"b": {"$gt": 0}}, {"b": True}),
        ({"l": {"$gt": 0}}, {"l": [1]}), ({"d": {"$gte": "a"}}, {"d": {}}),
        ({"$and": [{"x": 1}, {"n": {"$gt": "1"}}]}, {"n": 1}), ({"$or": [{"n": 1}, {"n": {"$gt": "1"}}]}, {"n": 1}),
    ],
)  # fmt: skip
def test_order_across_types_names_both(filter: dict[str, object], row: dict[str, object]) -> None:
    with pytest.raises(FilterError, match="row 'the-id' holds"):
        matches(parse_filter(filter), "the-id", row)


def test_numpy_scalars_are_numbers() -> None:
    assert parse_filter({"n": {"$gte": np.int64(3), "$in": [np.float32(0.5), np.bool_(True)]}}) == parse_filter(
        {"n": {"$gte": 3, "$in": [0.5, True]}}
    )
    assert [type(leaf.value) for leaf in leaves(parse_filter({"n": np.int64(3)}))] == [int]


@pytest.mark.parametrize("wrap", [lambda f: {"$not": f}, lambda f: {"$and": [f]}, lambda f: {"$or": [f, {"a": 1}]}])
def test_depth(wrap: Callable[[Any], Any]) -> None:
    deep: Any = {"a": 1}
    for _ in range(60):
        deep = wrap(deep)
    assert parse_filter(deep) is not None
    for _ in range(5000):
        deep = wrap(deep)
    with pytest.raises(FilterError, match="64 levels"):
        parse_filter(deep)
    condition: Any = {"$gt": 1}
    value: Any = 1
    for _ in range(5000):
        condition, value = {"$not": condition}, [value]
    with pytest.raises(FilterError, match="64 levels"):
        parse_filter({"a": condition})
    with pytest.raises(FilterError):
        parse_filter({"a": value})


operands = st.sampled_from([0, 1, 1.0, -2.5, "", "a", "b", True, False, None])
fields = st.sampled_from(["a", "b", "c.d"])
conditions = st.one_of(
    st.tuples(fields, st.sampled_from(["$eq", "$ne"]), operands),
    st.tuples(fields, st.sampled_from(["$in", "$nin", "$any", "$all"]), st.lists(operands, max_size=3)),
    st.tuples(fields, st.sampled_from(["$exists", "$is_empty"]), st.booleans()),
    st.tuples(fields, st.just("$contains"), operands),
).map(lambda t: {t[0]: {t[1]: t[2]}})
trees = st.recursive(
    conditions,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda p: {"$and": p}),
        st.lists(inner, min_size=1, max_size=3).map(lambda p: {"$or": p}),
        inner.map(lambda p: {"$not": p}),
    ),
    max_leaves=6,
)
values = operands | st.lists(operands, max_size=3)
rows = st.fixed_dictionaries(
    {}, optional={"a": values, "b": values, "c": st.fixed_dictionaries({}, optional={"d": values})}
)


@given(trees, trees, rows)
def test_laws_of_logic(left: dict[str, object], right: dict[str, object], row: dict[str, object]) -> None:
    def holds(filter: dict[str, object]) -> bool:
        return matches(parse_filter(filter), "id", row)

    assert holds({"$and": [left, right]}) == (holds(left) and holds(right))
    assert holds({"$or": [left, right]}) == (holds(left) or holds(right))
    assert holds({"$not": left}) != holds(left)
    assert holds({"$not": {"$and": [left, right]}}) == holds({"$or": [{"$not": left}, {"$not": right}]})


@given(trees)
def test_the_tree_has_no_negated_operators_and_can_be_a_key(filter: dict[str, object]) -> None:
    tree = parse_filter(filter)
    assert isinstance(tree, (And, Or, Not, Compare)) and isinstance(tree, Filter)
    assert all(leaf.op not in ("$ne", "$nin") for leaf in leaves(tree))
    assert {tree: 1}[parse_filter(filter)] == 1  # type: ignore[index]
