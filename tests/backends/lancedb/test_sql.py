"""No word of a user's ever stands in the SQL that LanceDB is given, and what it says is what the filter means."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytest.importorskip("lancedb", reason="lancedb is not installed: pip install 'mrl-retrieval[lancedb]'")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrl_adapters._lancedb import filters
from mrl_adapters.lancedb import LanceDBBackend
from mrl_retrieval.documents import Row, canonical_json
from mrl_retrieval.errors import (
    FilterError,
)
from mrl_retrieval.filters import And, Compare, Filter, IdIn, Not, Or, matches, parse_filter
from tests.backends.lancedb.helpers import COARSE, batch, rows, vectors

SAFE = re.compile(
    r"(?: |,|\(|\)|\[|\]|[<>]=?|AND|OR|NOT|IN|AS|CAST|BIGINT|false|coalesce|array_element|array_position|array_has_any"
    r"|terms|order_keys|order_values|key|'[0-9a-f]*')*"
)

HOSTILE = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(
        ["'", "''", "\\'", '"', "`", "\\", "\x00", "a\x00b", "\n", "--", "/*", ";", "%", "_", "'; DROP TABLE rows; --",
         "' OR 'a'='a", "\u202e", "\u2028", "\ufeff", "😀", "e\u0301", "é", "NULL", "true", "_rowid", "key", "x" * 5000]
    ),
)  # fmt: skip
KEYS = HOSTILE.filter(lambda key: bool(key) and "." not in key and not key.startswith("$"))
SCALARS = st.one_of(
    HOSTILE,
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([2**53, 2**53 + 1, float(2**53), -0.0, 0, 5e-324, 1e300, 2**63 - 1, -(2**63)]),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=2))


def order_operand() -> st.SearchStrategy[Any]:
    return SCALARS.filter(lambda v: isinstance(v, (int, float, str)) and not isinstance(v, bool))


@st.composite
def trees(draw: st.DrawFn, keys: st.SearchStrategy[str] = KEYS, depth: int = 3) -> Filter:
    kind = draw(st.sampled_from(["and", "or", "not", "leaf", "leaf", "leaf"] if depth else ["leaf"]))
    if kind == "leaf":
        op = draw(st.sampled_from(sorted(filters.OPERATORS - {"$ne", "$nin"})))
        if op in ("$gt", "$gte", "$lt", "$lte"):
            value = draw(order_operand())
        elif op in ("$exists", "$is_empty"):
            value = draw(st.booleans())
        elif op in ("$in", "$any", "$all"):
            value = draw(st.lists(VALUES, max_size=3))
        else:
            value = draw(VALUES)
        return Compare((draw(keys),), op, value)
    if kind == "not":
        return Not(draw(trees(keys, depth - 1)))
    parts = tuple(draw(st.lists(trees(keys, depth - 1), min_size=1, max_size=3)))
    return And(parts) if kind == "and" else Or(parts)


class TestSQL:
    @given(trees(), st.lists(HOSTILE, max_size=3))
    @settings(max_examples=300, deadline=None)
    def test_no_word_of_a_user_is_in_it(self, tree: Filter, ids: list[str]) -> None:
        assert SAFE.fullmatch(filters.compile_where(tree))
        assert SAFE.fullmatch(filters.keys_in(ids))
        offenders = filters.order_offenders(tree)
        assert offenders is None or SAFE.fullmatch(offenders)

    @pytest.mark.parametrize("word", ["'", "abc'", "G", " ", "\\", "\x00", "é", "a\n"])
    def test_nothing_but_a_code_is_quoted(self, word: str) -> None:
        with pytest.raises(ValueError, match="no code"):
            filters._quoted(word)

    @given(order_operand(), order_operand())
    @settings(max_examples=500, deadline=None)
    def test_the_order_of_codes_is_the_order_of_values(self, a: Any, b: Any) -> None:
        if isinstance(a, str) != isinstance(b, str):
            return
        if isinstance(b, str) and len(b.encode()) >= 64:
            return  # not pushed down as an operand
        assert (filters._sortable(a) < filters._sortable(b)) == (a < b)
        assert (filters._sortable(a) > filters._sortable(b)) == (a > b)

    def test_what_is_too_deep_or_too_long_is_left_to_the_core(self, memory: LanceDBBackend) -> None:
        memory.upsert(batch(rows(10)))
        deep: Filter = Compare(("i",), "$eq", 3)
        for _ in range(60):
            deep = Not(Not(And((deep,))))
        wide = Or(tuple(Compare(("i",), "$eq", i) for i in range(5000)))
        many = Compare(("i",), "$in", list(range(5, 20_000)))
        text = Compare(("third",), "$gt", "x" * 64)
        for tree, expected in ((deep, 1), (wide, 10), (many, 5)):
            assert not memory.can_filter(tree)
            assert memory.count(tree) == expected
        assert not memory.can_filter(text)
        with pytest.raises(FilterError):
            memory.count(text)
        largest = parse_filter({"$and": [{"$or": [{f"k{j}": {"$ne": 1}} for j in range(9)]} for _ in range(11)]})
        assert largest is not None and memory.can_filter(largest) and memory.count(largest) == 10

    @given(st.dictionaries(KEYS, VALUES, max_size=4), HOSTILE.filter(bool), HOSTILE)
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_hostile_rows_come_back_and_are_found(
        self, memory: LanceDBBackend, metadata: dict[str, Any], id: str, document: str
    ) -> None:
        row = Row(id, document, metadata, vectors(1)[0])
        memory.upsert(batch([row, Row("bystander", "x", {"other": 1}, vectors(1)[0])]))
        got = memory.get([id, "bystander"])
        assert got[0] is not None and got[1] is not None
        assert (got[0].id, got[0].document) == (id, document)
        assert canonical_json(got[0].metadata) == canonical_json(metadata)
        for key, value in metadata.items():
            assert id in memory.coarse_search(row.vector[None, :COARSE], 9, Compare((key,), "$eq", value))[0].ids
        assert memory.count(IdIn(frozenset({id}))) == 1
        assert memory.delete([id]) == 1
        assert memory.get([id]) == [None]
        memory.delete(["bystander"])
        assert memory.count() == 0

    @given(st.data())
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_a_filter_means_what_it_means_in_the_core(self, memory: LanceDBBackend, data: st.DataObject) -> None:
        few = st.sampled_from(["a", "b", "x'y"])
        metadatas = data.draw(st.lists(st.dictionaries(few, VALUES, max_size=3), min_size=1, max_size=6))
        stored = [Row(f"r{i}", None, m, v) for i, (m, v) in enumerate(zip(metadatas, vectors(9), strict=False))]
        memory.delete([f"r{i}" for i in range(9)])
        memory.upsert(batch(stored))
        for _ in range(4):
            tree = data.draw(trees(few))
            try:
                expected = {row.id for row in stored if matches(tree, row.id, row.metadata)}
            except FilterError:
                with pytest.raises(FilterError):
                    memory.count(tree)
                continue
            assert memory.count(tree) == len(expected)
            assert {id for part in memory.scan(tree) for id in part.ids} == expected
