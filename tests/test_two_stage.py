"""The steps of a search, where rows go away between them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.backend import Backend
from mrl_retrieval.filters import parse_filter
from mrl_retrieval.scoring import top_k
from mrl_retrieval.two_stage import (
    ExactSearch,
    FetchRows,
    FetchVectors,
    ResolveFilter,
    SearchRequest,
    Stage,
    drive,
    exact,
    two_stage,
)

N, DIM, K = 60, 8, 5


@pytest.fixture
def backend() -> Backend:
    retriever = MatryoshkaRetriever(encoder=None, backend="memory:", coarse_dims=4)
    vectors = np.random.default_rng(3).standard_normal((N, DIM))
    retriever.index([f"text {i}" for i in range(N)], range(N), [{"even": i % 2 == 0} for i in range(N)], vectors)
    return retriever.backend


def request_of(backend: Backend, *stages: Stage, filter: Any = None) -> SearchRequest:
    queries = np.random.default_rng(4).standard_normal((3, DIM)).astype(np.float32)
    return SearchRequest(queries / np.linalg.norm(queries, axis=1, keepdims=True), stages, parse_filter(filter))


def deleting(backend: Backend, before: type, count: int, times: int) -> Callable[[Any], Any]:
    """Perform; as somebody else deletes ``count`` of the rows asked for, before each of the first few such requests."""
    left = itertools.count(times, -1)

    def perform(request: Any) -> Any:
        if isinstance(request, before) and next(left) > 0:
            backend.delete(request.ids[:count])
        return backend.perform(request)

    return perform


@pytest.mark.parametrize("before", [FetchVectors, FetchRows])
@pytest.mark.parametrize("filter", [None, {"even": True}])
@pytest.mark.parametrize("times", [1, 3])
def test_what_is_deleted_in_mid_search_is_made_up_for(backend: Backend, before: type, filter: Any, times: int) -> None:
    request = request_of(backend, Stage(4, 8), Stage(DIM, K), filter=filter)
    rankings = drive(two_stage(request), deleting(backend, before, 7, times))
    there = {row.id for batch in backend.scan(request.filter) for row in batch.rows()}
    assert len(there) < (30 if filter else N)
    for ranking in rankings:
        assert len(ranking.rows) == K and {row.id for row in ranking.rows} <= there


@pytest.mark.parametrize("stages", [(Stage(4, N), Stage(DIM, K)), (Stage(DIM, K),)])
def test_the_answer_is_that_of_what_is_left(backend: Backend, stages: tuple[Stage, ...]) -> None:
    request = request_of(backend, *stages)
    steps = exact(request) if request.exact else two_stage(request)
    rankings = drive(steps, deleting(backend, FetchRows, 4, 2))
    (rows,) = list(backend.scan(vectors=True))
    assert rows.vectors is not None and len(rows) < N
    for query, ranking in zip(request.vectors, rankings, strict=True):
        ids, _ = top_k(rows.vectors @ query, rows.ids, K)
        assert [row.id for row in ranking.rows] == list(ids)


def test_a_search_under_steady_deletes_comes_to_an_end(backend: Backend) -> None:
    asked = []

    def perform(request: Any) -> Any:
        asked.append(type(request))
        if isinstance(request, FetchRows):
            backend.delete(request.ids)
        return backend.perform(request)

    rankings = drive(two_stage(request_of(backend, Stage(4, 6), Stage(DIM, K))), perform)
    assert [len(r.rows) for r in rankings] == [0, 0, 0]
    assert asked.count(FetchRows) == 4 and asked.count(ResolveFilter) == 1


def test_fewer_rows_than_hits_are_asked_for_once(backend: Backend) -> None:
    backend.delete([str(i) for i in range(3, N)])
    asked = []

    def perform(request: Any) -> Any:
        asked.append(type(request))
        return backend.perform(request)

    for stages, step in (((Stage(4, 6), Stage(DIM, K)), FetchVectors), ((Stage(DIM, K),), ExactSearch)):
        asked.clear()
        request = request_of(backend, *stages)
        rankings = drive(exact(request) if request.exact else two_stage(request), perform)
        assert [len(r.rows) for r in rankings] == [3, 3, 3] and asked.count(step) == 1
