"""Filters mean in Chroma what they mean everywhere, and the numbers that stand for numbers have their order."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("chromadb", reason="chromadb is not installed: pip install 'mrl-retrieval[chroma]'")

from mrl_adapters._chroma.filters import rank
from mrl_adapters.chroma import ChromaBackend
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import (
    FilterError,
)
from mrl_retrieval.filters import And, IdIn, Not, matches, parse_filter
from mrl_retrieval.matryoshka import prefix
from tests.backends.chroma.helpers import made, rows, same, vectors
from tests.backends.common import COARSE, batch_of

KEYS = st.sampled_from(["a", "b", "a=1", 'a="', "é", "c d", "$x", "n:a"])


NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from(
        [0.5, -0.0, 1.0, 2.0, -1.5, -2.5, 1e300, 2**53, 2**53 + 1, 2**52 + 0.5, 2**63 - 1, -(2**63), 5e-324]
    ),
)


SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from(["", "x", "1", "true", "é😀", "x" * 300]))


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3))


VALUES = st.recursive(SCALARS, nested, max_leaves=5)


METADATA = st.dictionaries(st.one_of(KEYS, st.sampled_from(["", "x.y"])), VALUES, max_size=4)


@st.composite
def paths(draw: st.DrawFn) -> str:
    first = draw(KEYS.filter(no_operator))
    return ".".join([first, *draw(st.lists(KEYS, max_size=1))])


def no_operator(key: str) -> bool:
    return not key.startswith("$")


def conditions() -> st.SearchStrategy[dict[str, Any]]:
    operators = st.one_of(
        st.tuples(st.sampled_from(["$eq", "$ne", "$contains"]), VALUES),
        st.tuples(st.sampled_from(["$in", "$nin", "$any", "$all"]), st.lists(VALUES, max_size=3)),
        st.tuples(st.sampled_from(["$exists", "$is_empty"]), st.booleans()),
        st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), st.one_of(NUMBERS, st.sampled_from(["", "x"]))),
        st.tuples(st.sampled_from(["$text", "$itext"]), st.sampled_from(["", "x", "É"])),
    )
    return st.recursive(st.builds(condition, paths(), operators), combined, max_leaves=4)


def condition(path: str, operator: tuple[str, Any]) -> dict[str, Any]:
    return {path: dict([operator])}


def combined(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    parts = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.fixed_dictionaries({"$and": parts}),
        st.fixed_dictionaries({"$or": parts}),
        st.fixed_dictionaries({"$not": inner}),
    )


@pytest.fixture(scope="module")
def shared() -> Iterator[ChromaBackend]:
    with made("chroma:") as backend:
        assert isinstance(backend, ChromaBackend)
        yield backend


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(metadatas=st.lists(METADATA, min_size=1, max_size=6), filters=st.lists(conditions(), min_size=5, max_size=10))
def test_they_mean_what_matches_means(
    shared: ChromaBackend, metadatas: list[dict[str, Any]], filters: list[dict[str, Any]]
) -> None:
    """The same ids are written again and again, so stale keys of an earlier example would show too."""
    full = vectors(len(metadatas))
    stored = [Row(f"r{i}", None, m, None if i % 3 == 2 else full[i]) for i, m in enumerate(metadatas)]
    shared.delete([f"r{i}" for i in range(len(stored), 6)])
    shared.upsert(batch_of(stored))
    assert all(same(a, b) for a, b in zip(shared.get([r.id for r in stored], vectors=True), stored, strict=True))
    query = full[:1, :COARSE]
    for value in filters:
        filter = parse_filter(value)
        try:
            expected = {row.id for row in stored if matches(filter, row.id, row.metadata)}
        except FilterError:
            with pytest.raises(FilterError, match="only values of one type"):
                shared.count(filter)
            continue
        assert {id for part in shared.scan(filter) for id in part.ids} == expected, value
        assert shared.count(filter) == len(expected)
        found = shared.coarse_search(query, 10, shared.resolve_filter(filter))[0].ids
        assert set(found) == {id for id in expected if stored[int(id[1:])].vector is not None}


@given(st.lists(NUMBERS | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1)))
def test_ranks_have_the_order_of_the_numbers(numbers: list[float]) -> None:
    for operand in (n for n in numbers if abs(n) <= 2**53):
        for n in numbers:
            assert (rank(n) > rank(operand), rank(n) == rank(operand)) == (n > operand, n == operand)
            assert abs(rank(n)) < 2**63


def test_fractions_and_neighbours(opener: Callable[[], str]) -> None:
    """Chroma itself cuts 4.5 to 4 before it looks at integers, and a server reads floats as their neighbours."""
    stored: list[float] = [
        4,
        5,
        -4,
        -5,
        4.0,
        4.5,
        -4.5,
        0,
        2**53,
        2**53 + 1,
        -(2**53) - 1,
        2**63 - 1,
        1e300,
        5e-324,
    ]
    close = np.random.default_rng(2).uniform(-1e3, 1e3, 100)
    for away in (np.inf, -np.inf):
        stored += [float(x) for x in np.nextafter(close, away)]
    full = vectors(len(stored))
    metadatas: list[dict[str, Any]] = [{"n": n} for n in stored]
    ids = [str(i) for i in range(len(stored))]
    meaning = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}
    with made(opener()) as backend:
        backend.upsert(RowBatch(ids, [None] * len(ids), metadatas, full, np.ones(len(ids), bool)))
        operands = [4, 4.5, -4.5, 0.25, -0.25, 5e-324, -5e-324, 2**53, 2**52 + 0.5]
        for operand in [*operands, *close[:5].tolist(), *stored[20:25]]:
            for op, holds in meaning.items():
                filter = parse_filter({"n": {op: operand}})
                assert filter is not None and backend.can_filter(filter)
                expected = {id for id, n in zip(ids, stored, strict=True) if holds(n, operand)}
                assert {id for part in backend.scan(filter) for id in part.ids} == expected, (op, operand)
                assert backend.count(Not(filter)) == len(ids) - len(expected)


def test_what_is_pushed_down(memory: ChromaBackend) -> None:
    memory.upsert(batch_of(rows(30)))
    for value, pushed in [
        ({"a": {"$in": [1, "x", None, True]}}, True),
        ({"$not": {"$and": [{"a": {"$gt": 1}}, {"$or": [{"b": {"$exists": False}}, {"c": [1, {}]}]}]}}, True),
        ({"a": {"$gt": "2020-01-01"}}, False),
        ({"a": {"$gt": 2**60}}, False),
        ({"a": {"$text": "x"}}, False),
        ({"i": {"$in": list(range(5000))}}, False),
    ]:
        filter = parse_filter(value)
        assert filter is not None
        assert memory.can_filter(filter) is pushed
        assert isinstance(memory.resolve_filter(filter), IdIn) is not pushed
    deep = parse_filter({"i": {"$lt": 7}})
    assert deep is not None
    for _ in range(400):
        deep = Not(And((deep, filter)))
    assert not memory.can_filter(deep)
    widest = parse_filter({"i": {"$nin": list(range(128))}})
    assert widest is not None and memory.can_filter(widest)
    assert memory.count(widest) == 0
    assert memory.count(And((IdIn(frozenset(["id1", "id20"])), parse_filter({"i": {"$lt": 7}})))) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("vector", [True, False])
def test_an_order_across_types_is_an_error_whichever_row_it_is(memory: ChromaBackend, vector: bool) -> None:
    memory.upsert(batch_of(rows(40)))
    memory.upsert(batch_of([Row("odd", None, {"i": "forty", "third": 1}, vectors(1)[0] if vector else None)]))
    filter = parse_filter({"$and": [{"third": 2}, {"i": {"$lt": 3}}]})
    for attempt in (memory.count, lambda f: list(memory.scan(f)), memory.resolve_filter):
        with pytest.raises(FilterError, match="'odd' holds 'forty'"):
            attempt(filter)
    memory.upsert(batch_of([Row("odd", None, {"i": None}, None)]))
    assert memory.count(filter) == 1


def test_as_many_hits_as_match(memory: ChromaBackend) -> None:
    memory.upsert(batch_of(rows(2500)))
    queries = prefix(vectors(3, seed=4), COARSE)
    for value, n in (({"i": {"$in": [5, 700, 2400]}}, 3), ({"third": 1}, 833), ({"i": {"$gte": 2300}}, 200)):
        for limit in (2, 100, 2500):
            for found in memory.coarse_search(queries, limit, memory.resolve_filter(parse_filter(value))):
                assert len(found.ids) == len(set(found.ids)) == min(limit, n)
                assert (np.diff(found.scores) <= 0).all()
