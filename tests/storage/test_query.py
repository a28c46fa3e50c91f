"""Filters as index lookups mean exactly what `filters.matches` says."""

import json
import math
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mrl_retrieval.documents import RowBatch, check_metadata
from mrl_retrieval.errors import CorruptionError, FilterError
from mrl_retrieval.filters import Compare, IdIn, check_order, matches, parse_filter
from mrl_retrieval.storage.fields import encode, entries
from mrl_retrieval.storage.masks import MaskCache
from mrl_retrieval.storage.query import can_query

# Few keys and values, so that filters hit; hostile ones, so that they hurt.
KEYS = st.sampled_from(["a", "b", "c", "a.b", "", ".", "x'y\"", "nul\0key", "é", "$gt", "%", "a.b.c", "İ"])
NUMBERS = st.sampled_from(
    [
        0,
        1,
        -1,
        2,
        1.0,
        0.0,
        -0.0,
        1.5,
        2**53,
        2**53 + 1,
        float(2**53),
        2**63 - 1,
        -(2**63),
        9.3e18,
        1e300,
        1e-320,
        -1e300,
    ]
)
STRINGS = st.sampled_from(
    ["", "a", "A", "ab", "nul\0in", "nul\0", "\0", "é", "É", "ß", "SS", "İ", "i̇", "😀", "\uffff", "1", "'; --", "%"]
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, STRINGS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=6,
)
METADATA = st.dictionaries(KEYS, VALUES, max_size=4)
PATHS = st.sampled_from(
    ["a", "b", "c", "a.b", "a.c", "b.a", "a.b.c", "x'y\"", "nul\0key", "é", "%", "a.$gt", "missing"]
)
ORDERED = st.one_of(NUMBERS, STRINGS)
LISTS = st.lists(VALUES, max_size=4)
CONDITIONS = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne", "$contains"]), VALUES),
    st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), ORDERED),
    st.tuples(st.sampled_from(["$in", "$nin", "$any", "$all"]), LISTS),
    st.tuples(st.sampled_from(["$exists", "$is_empty"]), st.booleans()),
    st.tuples(st.sampled_from(["$text", "$itext"]), STRINGS),
)
LEAVES = st.builds(lambda path, condition: {path: {condition[0]: condition[1]}}, PATHS, CONDITIONS)
FILTERS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$and": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$or": parts}),
        inner.map(lambda part: {"$not": part}),
    ),
    max_leaves=5,
)
OPERATORS = sorted(
    [
        "$eq",
        "$ne",
        "$gt",
        "$gte",
        "$lt",
        "$lte",
        "$in",
        "$nin",
        "$exists",
        "$contains",
        "$any",
        "$all",
        "$text",
        "$itext",
        "$is_empty",
    ]
)


def fill(store, metadatas, bare_every=3):
    """Rows "0", "1", …; every third without a vector."""
    for old in range(60):
        store.delete([str(old)])
    ids = [str(i) for i in range(len(metadatas))]
    vectors = np.zeros((len(ids), 16), dtype=np.float32)
    has_vector = np.array([i % bare_every != 1 for i in range(len(ids))], dtype=np.bool_)
    store.upsert(RowBatch(ids, [None] * len(ids), metadatas, vectors, has_vector))


def found(store, filter):
    """Ids by the index, or the type of the error."""
    try:
        with store.snapshot() as snapshot:
            return sorted(
                i for batch in snapshot.batches(filter, vectors=False, documents=False, batch_size=7) for i in batch.ids
            )
    except FilterError:
        return FilterError


def meant(metadatas, filter):
    """The same by the meaning of filters."""
    try:
        for i, metadata in enumerate(metadatas):
            check_order(filter, str(i), metadata)
    except FilterError:
        return FilterError
    return sorted(str(i) for i, metadata in enumerate(metadatas) if matches(filter, str(i), metadata))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(metadatas=st.lists(METADATA, max_size=8), filters=st.lists(FILTERS, min_size=1, max_size=6))
@example(metadatas=[{"a.b": 1}, {"a": {"b": 1}}], filters=[{"a.b": 1}, {"a.b": {"$exists": True}}])
@example(
    metadatas=[{"a": 1}, {"a": True}, {"a": 1.0}],
    filters=[{"a": 1}, {"a": True}, {"a": {"$in": [1.0]}}, {"a": {"$gt": 0}}],
)
@example(
    metadatas=[{"a": [1, [1.0], {"b": 2.0}]}], filters=[{"a": [1.0, [1], {"b": 2}]}, {"a": {"$contains": {"b": 2}}}]
)
@example(metadatas=[{"a": 2**53 + 1}, {"a": float(2**53)}], filters=[{"a": {"$gt": 2**53}}, {"a": float(2**53)}])
@example(
    metadatas=[{"a": "nul\0in"}, {"a": "nul"}], filters=[{"a": {"$text": "\0in"}}, {"a": {"$gt": "nul"}}, {"a": "nul"}]
)
def test_every_filter_means_what_it_should(store, metadatas, filters):
    metadatas = [check_metadata(m, 0) for m in metadatas]
    fill(store, metadatas)
    for text in filters:
        filter = parse_filter(text)
        assert can_query(filter)
        assert found(store, filter) == meant(metadatas, filter), text
    store.verify()


@pytest.mark.parametrize("op", OPERATORS)
def test_each_operator_alone_against_every_kind_of_value(store, op):
    values = [
        None,
        True,
        False,
        0,
        1,
        1.0,
        -2.5,
        2**63 - 1,
        "",
        "a",
        "A",
        "Straße",
        "10",
        "SS",
        [],
        ["a"],
        [1, True, None],
        [["a"]],
        {},
        {"b": 1},
        {"b": {"c": "x"}},
    ]
    metadatas = [*({"a": value} for value in values), {}, {"b": 1}]
    fill(store, metadatas)
    operands = {
        "$exists": [True, False], "$is_empty": [True, False], "$text": ["", "a", "STRASSE"], "$itext": ["", "A", "STRASSE", "ẞ"],
        "$in": [[], [1, "a", None], [[], {}, True]], "$nin": [[], [1, "a", None]], "$any": [[], ["a", 1]], "$all": [[], ["a"], [1, True]],
    }.get(op, [v for v in values if op in ("$eq", "$ne", "$contains") or (isinstance(v, (int, float, str)) and not isinstance(v, bool))])  # fmt: skip
    for operand in operands:
        filter = parse_filter({"a": {op: operand}})
        assert found(store, filter) == meant(metadatas, filter), operand


@pytest.mark.parametrize("op", ["$gt", "$lte"])
def test_order_across_types_is_an_error_that_names_the_row(store, op):
    fill(store, [{"year": 2020}, {"year": "2021"}, {"year": None}])
    with pytest.raises(FilterError, match="'1' holds '2021'"), store.snapshot() as snapshot:
        snapshot.mask(parse_filter({"$or": [{"year": 2020}, {"year": {op: 2020}}]}))
    store.delete(["1"])
    with store.snapshot() as snapshot:
        assert snapshot.mask(parse_filter({"year": {op: 2020}})).sum() == (op == "$lte")


@pytest.mark.parametrize(
    "filter",
    [
        Compare(("a.b",), "$eq", 1),
        Compare(("",), "$exists", True),
        Compare(("\ud800",), "$exists", True),
        Compare(("a",), "$gt", 10**30),
        Compare(("a",), "$in", [1, -(2**63) - 1]),
    ],
)
def test_what_the_index_cannot_tell_it_declines(filter):
    assert not can_query(filter)


def test_thousands_of_ids(store):
    fill(store, [{} for _ in range(1700)])
    wanted = frozenset(str(i) for i in range(0, 5000, 3)) | {"no such id", "nul\0", "\ud800"}
    assert found(store, IdIn(wanted)) == sorted(str(i) for i in range(0, 1700, 3))
    assert found(store, IdIn(frozenset())) == []


def test_one_and_true_are_not_mixed_up_by_the_cache(store):
    fill(store, [{"a": 1}, {"a": True}])
    for value, expected in ((1, ["0"]), (True, ["1"]), (1.0, ["0"]), (1, ["0"])):
        assert found(store, parse_filter({"a": value})) == expected


def test_masks_are_not_reused_after_a_commit(store):
    fill(store, [{"a": 1}])
    assert found(store, parse_filter({"a": 1})) == ["0"]
    store.delete(["0"])
    assert found(store, parse_filter({"a": 1})) == []
    assert found(store, parse_filter({"a": {"$exists": False}})) == []


def test_entries_of_nested_metadata():
    made = entries({"a": {"b": [1, 1.0, "x"]}, "c.d": 1, "e": None})
    assert [(path, kind) for path, kind, _ in made] == [("a", 5), ("a.b", 4), ("a.b", 12), ("a.b", 13), ("e", 0)]


@given(a=VALUES, b=VALUES)
def test_encodings_are_equal_exactly_when_the_values_are(a, b):
    expected = matches(Compare(("k",), "$eq", a), "", {"k": b})
    assert (encode(a) == encode(b)) == expected
    assert not math.isnan(hash(encode(a))) and json.dumps(a) is not None


@pytest.mark.parametrize("wrong", ["'x'", "1.5", "'1,2'", "x'00'", "'1-2'", "1000000", "-7"])
@pytest.mark.parametrize("as_text", [True, False])
def test_a_row_number_that_is_none_is_damage(store, batch, monkeypatch, wrong, as_text):
    """Damaged after the entries of the path were checked: what the index says is held to be a row number at least."""
    if not as_text:
        monkeypatch.setattr("mrl_retrieval.storage.query._MOST_AS_TEXT", 0)
    store.upsert(batch(*"abcdef", metadatas=[{"n": i % 2} for i in range(6)]))
    with store.snapshot() as snapshot:
        assert np.flatnonzero(snapshot.mask(parse_filter({"n": 1}))).tolist() == [1, 3, 5]
    with closing(sqlite3.connect(store.files.database, isolation_level=None)) as connection:
        connection.execute(f"UPDATE field SET row = {wrong} WHERE kind = 2 AND value = 0 AND row = 2")
    with store.snapshot() as snapshot, pytest.raises(CorruptionError, match="expected"):
        snapshot.mask(parse_filter({"n": 0}))


def test_rows_are_the_same_one_by_one(store, batch, monkeypatch):
    store.upsert(batch(*"abcdef", bare=("b", "e"), metadatas=[{"n": i % 3, "l": [i, "x"]} for i in range(6)]))
    filters = [{"n": 1}, {"n": {"$gte": 1}}, {"l": {"$contains": "x"}}, {"n": {"$nin": [0, 7]}}, {"n": 9}]
    masks = []
    for most in (10**6, 0):
        monkeypatch.setattr("mrl_retrieval.storage.query._MOST_AS_TEXT", most)
        store._masks = MaskCache()
        with store.snapshot() as snapshot:
            masks.append([snapshot.mask(parse_filter(each)).tolist() for each in filters])
    assert masks[0] == masks[1]
    assert [sum(mask) for mask in masks[0]] == [2, 4, 6, 4, 0]
