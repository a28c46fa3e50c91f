"""Filters: rows with more terms than Milvus can hold, and the order of numbers."""

from __future__ import annotations

import pytest

pytest.importorskip("milvus_lite", reason="milvus-lite is not installed: pip install 'mrl-retrieval[milvus]'")

from mrl_adapters._milvus import filters as _milvus_filters
from mrl_adapters.milvus import MilvusBackend
from mrl_retrieval.documents import Row
from mrl_retrieval.errors import FilterError
from mrl_retrieval.filters import IdIn, matches, parse_filter
from tests.backends.common import batch_of
from tests.backends.milvus.helpers import Opener, ids_of, vectors


def test_more_terms_than_a_row_can_hold(backend: MilvusBackend, open_at: Opener) -> None:
    backend.upsert(batch_of([Row("small", None, {"tags": [1, 2], "n": 1}, vectors(1)[0])]))
    assert backend.can_filter(parse_filter({"n": 1}) or IdIn(frozenset()))
    assert not backend._collections.has_too_many_terms()
    many = {"tags": list(range(_milvus_filters.MOST_TERMS + 1)), "n": 2}
    backend.upsert(batch_of([Row("large", None, many, vectors(2)[1])]))
    for one in (backend, open_at()):
        assert ids_of(one, {"tags": {"$contains": 2}}) == {"small", "large"}
        assert ids_of(one, {"tags": {"$contains": 2000}}) == {"large"} == ids_of(one, {"n": {"$gt": 1}})
        assert one.count(parse_filter({"n": {"$lt": 2}})) == 1
        with pytest.raises(FilterError, match="'n'"):
            one.count(parse_filter({"n": {"$gt": "x"}}))
        (row,) = one.get(["large"])
        assert row is not None and row.metadata == many


@pytest.mark.parametrize("flush", [False, True])
def test_numbers_of_an_older_version_are_forgotten(backend: MilvusBackend, flush: bool) -> None:
    for metadata, above, below in (
        ({"n": 5}, {"x"}, set()),
        ({"n": None}, set(), set()),
        ({}, set(), set()),
        ({"n": -5.5}, set(), {"x"}),
        ({"m": 5}, set(), set()),
    ):
        backend.upsert(batch_of([Row("x", None, metadata, vectors(1)[0])]))
        if flush:
            backend.flush()
        assert (ids_of(backend, {"n": {"$gt": 0}}), ids_of(backend, {"n": {"$lt": 0}})) == (above, below)


def test_order_of_awkward_numbers(backend: MilvusBackend) -> None:
    numbers = [0, -0.0, 0.1, -3.25, 5e-324, 1e300, -1e300, 2**53, 2**53 + 1, -(2**63), 2**63 - 1, 1.5, 2, None]
    backend.upsert(batch_of([Row(str(i), None, {"n": n}, None) for i, n in enumerate(numbers)]))
    for operand in [0, 0.1, -3.25, 5e-324, 1.5, 2.0, 2**53, -(2**53), 1e300, 123456789.125]:
        for op in ("$gt", "$gte", "$lt", "$lte"):
            for condition in ({"n": {op: operand}}, {"$not": {"n": {op: operand}}}):
                tree = parse_filter(condition)
                expected = {str(i) for i, n in enumerate(numbers) if matches(tree, str(i), {"n": n})}
                assert ids_of(backend, condition) == expected, condition
