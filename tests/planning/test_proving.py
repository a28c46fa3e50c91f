"""What is proved, held to brute force over every setting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mrl_retrieval import memory
from mrl_retrieval.confidence import Shares
from mrl_retrieval.matryoshka import FloatArray, normalize
from mrl_retrieval.planning.costs import Costs
from mrl_retrieval.planning.planner import Goal, plan_collection
from mrl_retrieval.planning.proving import nested_proof, proof_by_searches, rank_all, searched
from mrl_retrieval.planning.samples import QuerySample, from_documents, given_queries, least_queries, wanted_queries
from mrl_retrieval.planning.truth import shares_of, true_neighbours
from mrl_retrieval.retriever import MatryoshkaRetriever
from mrl_retrieval.scoring import exact_search

from .corpus import COARSE, DIM, collection, made

K = 5


@pytest.fixture(scope="module")
def kb() -> Iterator[MatryoshkaRetriever]:
    with collection("memory:", 1500) as retriever:
        yield retriever


@pytest.fixture(scope="module")
def sample() -> QuerySample:
    return QuerySample(made(300, 3), "given")


def test_the_truth_is_the_oracles(kb: MatryoshkaRetriever, sample: QuerySample) -> None:
    ids = [f"{i:05}" for i in range(1500)]
    expected = exact_search(sample.vectors, made(1500, 1), ids, K)
    truth = true_neighbours(kb.backend, sample, K)
    assert [set(one) for one in truth.right] == [set(best) for best, _ in expected]


def test_any_of_a_tie_is_right() -> None:
    same, far = np.eye(8, dtype="f4")[:1], np.eye(8, dtype="f4")[1:2]
    rows = np.concatenate([np.repeat(same, 60, axis=0), np.repeat(far, 5, axis=0)])
    with MatryoshkaRetriever(None, "memory:", coarse_dims=2) as kb:
        kb.index([f"{i}" for i in range(65)], ids=[f"{i}" for i in range(65)], vectors=rows)
        truth = true_neighbours(kb.backend, QuerySample(same, "given"), K)
        assert truth.right == [frozenset(map(str, range(60)))]
        assert truth.found(0, ["59", "3", "60", "17", "20", "4"]) == 4  # the sixth is no place of five
        assert truth.places(0, ["61", "59", "3", "60", "17", "20", "4", "5"]) == [1, 2, 4, 5, 6]


def test_a_document_does_not_find_itself(kb: MatryoshkaRetriever) -> None:
    drawn = from_documents(kb.backend, 0.9, 0.95)
    assert drawn.own is not None and len(set(drawn.own)) == len(drawn.own) == 1000
    truth = true_neighbours(kb.backend, drawn, K)
    rows = made(1500, 1)
    for i in range(20):
        own = int(drawn.own[i])
        scores = rows @ rows[own]
        scores[own] = -1
        assert truth.right[i] == {f"{at:05}" for at in np.argsort(-scores)[:K]}


def test_ranks_say_what_searches_find(kb: MatryoshkaRetriever, sample: QuerySample) -> None:
    truth = true_neighbours(kb.backend, sample, K)
    ranks = rank_all(kb.backend, sample, truth, 400)
    for candidates in (K, 17, 100, 400):
        found = searched(kb.backend, sample, truth, candidates)
        assert ((ranks.places < candidates).sum(axis=1) == found).all()


@pytest.mark.parametrize("target", [0.6, 0.9, 0.97])
def test_the_fewest_that_pass_are_found(kb: MatryoshkaRetriever, sample: QuerySample, target: float) -> None:
    truth = true_neighbours(kb.backend, sample, K)
    proof, _ = nested_proof(kb.backend, sample, truth, K, 1500, target, 0.95)
    ranks = rank_all(kb.backend, sample, truth, 1500)
    brute = next((c for c in range(K, 1501) if ranks.shares(c).reaches(target, 0.95)), None)
    assert proof.candidates == brute is not None
    assert proof.shares.lower(0.95) >= target - 1e-9


def test_a_path_of_searches_ends_at_the_first_that_fails(kb: MatryoshkaRetriever, sample: QuerySample) -> None:
    truth = true_neighbours(kb.backend, sample, K)
    ranks = rank_all(kb.backend, sample, truth, 1500)
    path = [1200, 600, 300, 150, 75, 37, 18, 9]
    proof = proof_by_searches(kb.backend, sample, truth, path, 0.9, 0.95)
    passing = [c for c in path if ranks.shares(c).reaches(0.9, 0.95)]
    # It may pass a little more, since the bound may have reached the target before all queries were asked.
    assert proof.candidates is not None and proof.candidates <= passing[-1] and proof.deepest == 1200
    nothing = proof_by_searches(kb.backend, sample, truth, [6, 5], 0.9, 0.95)
    assert nothing.candidates is None and nothing.shares.count == 300
    assert nothing.shares.mean == pytest.approx(ranks.shares(6).mean)


@pytest.mark.parametrize("target", [0.85, 0.9, 0.95])
def test_the_path_costs_little_more_than_the_cheapest(
    kb: MatryoshkaRetriever, sample: QuerySample, target: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same collection, declared approximate: whole searches along a path of falling costs."""
    costs = Costs((K, 100, 1500), (1.0, 2.0, 9.0), 20.0)
    goal = Goal.checked(target, K, 0.95, "latency")
    best = plan_collection(kb.backend, sample, goal, store=False, costs=costs)
    able = memory.MemoryBackend.capabilities
    monkeypatch.setattr(kb.backend, "capabilities", type(able)(**{**_fields(able), "approximate_coarse": True}))
    walked = plan_collection(kb.backend, sample, goal, store=False, costs=costs)
    assert best.coarse_top_k is not None and walked.coarse_top_k is not None
    assert costs.at(walked.coarse_top_k) <= 1.1 * costs.at(best.coarse_top_k)
    assert walked.tried == 1500 and walked.queries == 300 and walked.recall >= target


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def test_costs_and_their_paths() -> None:
    costs = Costs((10, 100, 1000), (1.0, 1.0, 10.0), 5.5)
    assert costs.at(550) == 5.5 and costs.most_below(5.5, 10, 1000) == 550 and costs.most_below(0.5, 10, 1000) is None
    path = costs.steps(10, 1000, 1.1)
    assert path[0] == 1000 and path[-1] == 10 and path == sorted(set(path), reverse=True)
    for before, after in zip(path, path[1:], strict=False):
        assert after == 10 or costs.at(after) <= costs.at(before) / 1.1 < costs.at(after + 1)


def test_how_many_queries_are_needed() -> None:
    for target in (0.9, 0.99, 0.999):
        least = least_queries(target, 0.95)
        assert Shares([1.0] * least).reaches(target, 0.95) and not Shares([1.0] * (least - 1)).reaches(target, 0.95)
    assert wanted_queries(0.9, 0.95) == 1000 and wanted_queries(0.999, 0.95) == 4 * least_queries(0.999, 0.95)
    many = normalize(np.random.default_rng(0).normal(size=(3000, 4)).astype("f4"))
    first = given_queries(many, 0.9, 0.95)
    assert len(first.vectors) == 1000 and (first.vectors == given_queries(many, 0.9, 0.95).vectors).all()


def test_recalls_are_counted() -> None:
    shares = shares_of(np.array([5, 5, 4, 0]), 5)
    assert shares.count == 4 and shares.mean == pytest.approx(0.7)


def unit(count: int) -> FloatArray:
    return made(count, 5)[:, :DIM]


def test_rows_without_a_vector_are_no_queries() -> None:
    with MatryoshkaRetriever(None, "memory:", coarse_dims=COARSE) as kb:
        rows: list[Any] = [*unit(80), None, np.zeros(DIM, dtype="f4")]
        kb.index([str(i) for i in range(82)], ids=[str(i) for i in range(82)], vectors=rows)
        drawn = from_documents(kb.backend, 0.9, 0.9)
        assert drawn.own is not None and sorted(drawn.own, key=int) == [str(i) for i in range(80)]
