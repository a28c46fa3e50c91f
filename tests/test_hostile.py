"""Strings that mean something to SQL, JSON and filter languages are nothing but strings, on every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrl_retrieval import MatryoshkaRetriever, errors
from mrl_retrieval.registry import open_backend
from tests.places import SCHEMES, Place

DIM = 6

PIECES = [
    "'", '"', "`", "\\", ";", "--", "/*", "*/", "%", "_", "$", "{", "}", "[", "]", "(", ")", "\0", "\n", "\r\n", "\t",
    "' OR '1'='1", "'; DROP TABLE rows; --", '" == "', "$eq", "$where", "{{", "%s", "%(id)s", ":id", "?", "\\u0000", "\\x00",
    "a.b", "..", "id", "_id", "null", "NaN", "é", "𝄞", "\u202e", "\u0301", " ", "\ufeff", "\U0010ffff", "AND", "in", "#", "@",
]  # fmt: skip
HOSTILE = st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join)
KEYS = HOSTILE.filter(lambda key: "." not in key)
ROWS = st.dictionaries(HOSTILE, st.tuples(HOSTILE, st.dictionaries(KEYS, HOSTILE | st.lists(HOSTILE, max_size=2), max_size=3)), min_size=1, max_size=5)  # fmt: skip


@pytest.fixture(params=SCHEMES)
def pair(request: pytest.FixtureRequest, new_place: Callable[[str], Place]) -> Iterator[list[MatryoshkaRetriever]]:
    """A collection on the backend, and one in memory that is right."""
    address, options = new_place(request.param)
    backends = [open_backend(address, **options), open_backend("memory:")]
    retrievers = [MatryoshkaRetriever(None, backend, coarse_dims=3, dim=DIM) for backend in backends]
    yield retrievers
    for backend in backends:
        backend.close()


@settings(
    max_examples=12, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(rows=ROWS, probe=HOSTILE)
def test_hostile_strings(pair: list[MatryoshkaRetriever], rows: dict[str, Any], probe: str) -> None:
    ids = list(rows)
    vectors = np.random.default_rng(len(ids)).standard_normal((len(ids), DIM))
    for retriever in pair:
        retriever.index([text for text, _ in rows.values()], ids, [meta for _, meta in rows.values()], vectors)
    theirs, ours = pair
    assert theirs.get([*ids, probe]) == ours.get([*ids, probe])
    assert theirs.count() == ours.count()
    conditions: list[dict[str, Any]] = [{"$not": {"no": probe}}]
    for _, metadata in rows.values():
        for key, value in metadata.items():
            if key.startswith("$"):
                with pytest.raises(errors.FilterError):
                    theirs.count({key: value})
                continue
            conditions += [{key: {"$eq": value}}, {key: {"$ne": probe}}, {key: {"$in": [probe, value]}}]
            conditions += [{key: {"$contains": probe}}, {key: {"$text": probe}}, {key: {"$gt": probe}}]
    for condition in conditions[:20]:
        answers = []
        for retriever in pair:
            try:
                found = retriever.search_by_vector(vectors[0], 50, filter=condition)
                answers.append((retriever.count(condition), sorted(found.ids)))
            except errors.FilterError:
                answers.append(("refused", []))
        assert answers[0] == answers[1], condition
    gone = [*ids[: len(ids) // 2], probe]
    assert theirs.delete(gone) == ours.delete(gone)
    assert theirs.count() == ours.count()
