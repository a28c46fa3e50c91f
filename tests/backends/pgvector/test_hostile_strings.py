"""Any row and any filter, against what the core says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'mrl-retrieval[pgvector]'")


from mrl_retrieval.documents import Row
from mrl_retrieval.errors import (
    FilterError,
)
from mrl_retrieval.filters import And, IdIn, Not, matches, parse_filter
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.backends.common import DIM, batch_of, contents
from tests.backends.pgvector.helpers import COARSE, HOSTILE, Connect, vectors

JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 1, 1.0, 2**53, 2.0**53, 2**53 + 1, 0.1, -0.0, 1e300, 5e-324]),
        st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "b", "0", "a b", "%s", "'"]), inner, max_size=3)),
    max_leaves=6,
)  # fmt: skip
PATHS = ["a", "b", "a.b", "a.0", "0", "a b", "%s", "'", "a.%s.'"]
LEAVES = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne", "$contains"]), JSON),
    st.tuples(st.sampled_from(["$in", "$nin", "$any", "$all"]), st.lists(JSON, max_size=3)),
    st.tuples(st.sampled_from(["$exists", "$is_empty"]), st.booleans()),
    st.tuples(st.sampled_from(["$text"]), st.sampled_from([*HOSTILE, ""])),
    st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), st.one_of(st.integers(-9, 9), st.floats(-9, 9), st.sampled_from(HOSTILE))),
)  # fmt: skip
FILTERS = st.recursive(
    st.builds(lambda path, leaf: {path: {leaf[0]: leaf[1]}}, st.sampled_from(PATHS), LEAVES),
    lambda inner: st.one_of(
        st.builds(lambda part: {"$not": part}, inner),
        st.builds(lambda name, parts: {name: parts}, st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=4,
)  # fmt: skip
SLOW = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


class TestHostileStrings:
    def test_ids_documents_and_metadata_come_back(self, made: Connect) -> None:
        backend = made()
        ids = [*HOSTILE, "y" * 1_000_000, "y" * 1_000_000 + "z"]
        given = [Row(id, id, {id: id, "in": [id, {id: None}]}, v) for id, v in zip(ids, vectors(len(ids)), strict=True)]
        backend.upsert(batch_of(given))
        got = backend.get(ids, vectors=True)
        for row, back in zip(given, got, strict=True):
            assert back is not None and (back.id, back.document, back.metadata) == (row.id, row.document, row.metadata)
            assert np.array_equal(back.vector, row.vector)
        for id in ids[:-2]:
            assert backend.count(parse_filter({"in": {"$contains": id}})) == 1
            if "." not in id and not id.startswith("$"):
                assert set(contents(backend, filter=parse_filter({id: id}))) == {id}
        (ranking,) = backend.search(SearchRequest(vectors(1), (Stage(DIM, 100),)))
        assert sorted(row.id for row in ranking.rows) == sorted(ids)
        assert backend.delete(ids) == len(ids) and backend.collections() == ["default"]

    def test_ties_are_in_the_order_of_code_points(self, made: Connect) -> None:
        backend = made()
        v = vectors(1)[0]
        backend.upsert(batch_of([Row(id, None, {}, v) for id in HOSTILE]))
        for stages in ((Stage(COARSE, 99), Stage(DIM, 99)), (Stage(DIM, 99),)):
            (ranking,) = backend.search(SearchRequest(v[None], stages))
            assert [row.id for row in ranking.rows] == sorted(HOSTILE)

    def test_any_row_and_any_filter(self, made: Connect) -> None:
        """Every filter means what :func:`matches` says, or is the same error."""
        backend = made()

        @SLOW
        @given(
            st.lists(
                st.dictionaries(st.sampled_from(["a", "b", "0", "a b", "%s", "'", "a.b"]), JSON, max_size=3),
                min_size=1,
                max_size=6,
            ),
            FILTERS,
        )
        def check(metadatas: list[dict[str, Any]], asked: dict[str, Any]) -> None:
            backend.delete(list(contents(backend)))
            backend.upsert(batch_of([Row(f"r{i}", None, m, None) for i, m in enumerate(metadatas)]))
            for row in contents(backend).values():
                assert repr(row.metadata) == repr(metadatas[int(row.id[1:])])
            tree = parse_filter(asked)
            try:
                expected = {f"r{i}" for i, m in enumerate(metadatas) if matches(tree, f"r{i}", m)}
                for i, m in enumerate(metadatas):
                    matches(tree, f"r{i}", m)
            except FilterError:
                with pytest.raises(FilterError):
                    backend.count(tree)
                return
            assert set(contents(backend, filter=tree)) == expected and backend.count(tree) == len(expected)

        check()

    def test_numbers_compare_by_value_and_strings_by_code_point(self, made: Connect) -> None:
        backend = made()
        numbers = [0, -0.0, 1, 1.0, 0.1, 0.30000000000000004, 0.3, 2**53, 2**53 + 1, 2.0**53, 2.0**60, 2**60, 2**60 + 1, -(2**63), 1e300, -1e300, 5e-324, 1.5, 9007199254740993]  # fmt: skip
        strings = ["", "a", "A", "ä", "z", "Z", "é", "e\u0301", "\x00", "\x00b", "\x01", "\x02", "a\x00", "a b", "\U0001f389", "\uffff", "10", "9"]  # fmt: skip
        stored = [Row(f"n{i}", None, {"n": v}) for i, v in enumerate(numbers)] + [
            Row(f"s{i}", None, {"s": v}) for i, v in enumerate(strings)
        ]
        backend.upsert(batch_of(stored))
        for key, values in (("n", numbers), ("s", strings)):
            for value in values:
                for op in ("$eq", "$gt", "$gte", "$lt", "$lte"):
                    tree = parse_filter({key: {op: value}})
                    expected = {row.id for row in stored if matches(tree, row.id, row.metadata)}
                    assert set(contents(backend, filter=tree)) == expected, (op, value)

    def test_what_is_not_pushed_down(self, made: Connect) -> None:
        backend = made()
        deep: Any = "x"
        for _ in range(20):
            deep = {"k": deep}
        backend.upsert(batch_of([Row("deep", None, deep), Row("flat", None, {"t": "Straße"})]))
        many: Any = {"$or": [{"n": i} for i in range(1000)] + [{"t": "Straße"}]}
        for asked, expected in [
            ({".".join("k" * 20): "x"}, {"deep"}),
            ({"t": {"$itext": "STRASSE"}}, {"flat"}),
            (many, {"flat"}),
        ]:
            tree = parse_filter(asked)
            assert tree is not None and not backend.can_filter(tree)
            assert set(contents(backend, filter=tree)) == expected
        nested: Any = {"t": "Straße"}
        for _ in range(60):
            nested = {"$not": nested}
        tree = parse_filter(nested)
        assert tree is not None and backend.can_filter(tree) and set(contents(backend, filter=tree)) == {"flat"}
        listed = And((IdIn(frozenset(["deep", "x"])), Not(IdIn(frozenset(["flat"])))))
        assert set(contents(backend, filter=listed)) == {"deep"}
