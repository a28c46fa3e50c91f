"""``plan()`` of a retriever: what is kept, what searches then do, and what is refused."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrl_retrieval import errors
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.planning import SearchPlan
from mrl_retrieval.planning import planner as module
from mrl_retrieval.planning.costs import Costs
from mrl_retrieval.retriever import MatryoshkaRetriever
from mrl_retrieval.stored_plan import staleness
from mrl_retrieval.two_stage import Ranking, SearchRequest

from .corpus import COARSE, DIM, collection, made


@pytest.fixture
def dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exact search that costs more than any number of candidates: collections of tests are too small for it."""
    monkeypatch.setattr(module, "timed", lambda *_: Costs((10, 4096), (1e-3, 9e-3), 1.0))


def recall(kb: MatryoshkaRetriever, queries: Any, **options: Any) -> float:
    exact = kb.search_batch_by_vector(queries, exact=True)
    found = kb.search_batch_by_vector(queries, **options)
    return float(np.mean([len({h.id for h in a} & {h.id for h in b}) / 10 for a, b in zip(exact, found, strict=True)]))


def limits(kb: MatryoshkaRetriever, **options: Any) -> list[int | None]:
    trace = kb.search_by_vector(made(1, 8)[0], explain=True, **options).trace
    assert trace is not None
    return [stage.candidates_out for stage in trace.stages]


@pytest.mark.parametrize("backend", ["memory:", "faiss"])
@pytest.mark.usefixtures("dear")
def test_what_is_planned_is_kept_used_and_holds(backend: str, tmp_path: Path) -> None:
    address = f"faiss:{tmp_path}/kb" if backend == "faiss" else f"memory:plan-{tmp_path.name}"
    with collection(address) as kb:
        assert limits(kb)[0] == 200
        plan = kb.plan(0.95, queries=made(1500, 2))
        assert plan.verdict == "planned" and plan.stored and plan.source == "given" and plan.queries == 1000
        assert plan.coarse_top_k is not None and plan.bound >= 0.95 - 1e-9 and plan.needed_queries is None
        assert recall(kb, made(1000, 3)) >= 0.95
        assert limits(kb) == limits(kb, coarse_top_k="auto") == [plan.coarse_top_k, 10]
        assert limits(kb, coarse_top_k=77) == [77, 10]
        assert limits(kb, top_k=20)[0] == 2 * plan.coarse_top_k and limits(kb, top_k=3)[0] == plan.coarse_top_k
    with MatryoshkaRetriever.open(address, final_top_k=10) as again:
        assert limits(again)[0] == plan.coarse_top_k
        assert again.info().manifest.plan == plan.to_stored()
    with MatryoshkaRetriever.open(address, coarse_top_k=99) as again:
        assert limits(again)[0] == 99 and limits(again, coarse_top_k="auto")[0] == plan.coarse_top_k
    with MatryoshkaRetriever.open(address, coarse_top_k="auto") as again:
        assert limits(again)[0] == plan.coarse_top_k


@pytest.mark.usefixtures("dear")
def test_nothing_is_kept_that_was_not_asked_for() -> None:
    with collection("memory:") as kb:
        before = kb.info().manifest
        plan = kb.plan(0.9, queries=made(500, 2), store=False)
        assert plan.verdict == "planned" and not plan.stored and kb.info().manifest == before
        for options in ({}, {"coarse_top_k": "auto"}):
            if options:
                with pytest.raises(errors.NothingLearned, match="none is stored: make one with plan"):
                    limits(kb, **options)
            else:
                assert limits(kb)[0] == 200


def test_flat_is_an_answer_and_is_searched_so() -> None:
    with collection("memory:", 300) as kb:
        many = made(1000, 2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "timed", lambda *_: Costs((10, 300), (2e-3, 3e-3), 1e-3))
            plan = kb.plan(0.9, queries=many)
        assert plan.verdict == "flat" and plan.stored and "two stages do not pay here" in plan.reason
        assert plan.coarse_top_k is None and plan.recall == 1
        result = kb.search_by_vector(many[0])
        assert result.certificate == "exact"
        assert recall(kb, many[:50]) == 1
        assert limits(kb, coarse_top_k="auto") == [10] and limits(kb, coarse_top_k=50) == [50, 10]
        with pytest.MonkeyPatch.context() as patch:  # affordable, but too few of the true neighbours are among them
            patch.setattr(module, "timed", lambda *_: Costs((10, 300), (1e-3, 9e-3), 1.1e-3))
            deep = kb.plan(0.99, queries=many)
        assert deep.verdict == "flat" and 10 < deep.tried < 30 and "cost less" in deep.reason


@pytest.mark.usefixtures("dear")
def test_more_queries_may_be_needed() -> None:
    with collection("memory:") as kb:
        queries = made(4000, 2)
        with pytest.raises(errors.TooFewQueries, match=r"100 queries cannot prove .* needs 381 at least") as caught:
            kb.plan(0.99, queries=queries[:100])
        assert caught.value.needed == 381
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "MOST_CANDIDATES", 620)
            plan = kb.plan(0.99, queries=queries[:400])
            assert plan.verdict == "needs queries" and not plan.stored and plan.needed_queries is not None
            assert plan.needed_queries > 400 and f"Needs {plan.needed_queries:,} queries" in plan.reason
            with_more = kb.plan(0.99, queries=queries)
        assert with_more.verdict in ("planned", "needs queries")


@pytest.mark.usefixtures("dear")
def test_no_setting_may_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with collection("memory:") as kb:
        first = kb.plan(0.9, queries=made(1000, 2))
        monkeypatch.setattr(module, "MOST_CANDIDATES", 40)
        plan = kb.plan(0.99, queries=made(1000, 2))
        assert plan.verdict == "unreachable" and plan.tried == 40 and "No setting reaches" in plan.reason
        assert plan.recall < 0.99 and not plan.stored
        assert limits(kb)[0] == first.coarse_top_k, "the plan before stays"


@pytest.mark.usefixtures("dear")
def test_what_a_database_refuses_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with collection("memory:") as kb:
        search = kb.backend.search

        def strict(request: SearchRequest) -> list[Ranking]:
            if request.stages[0].limit > 100:
                raise errors.NotSupported("no more than 100 candidates")
            return search(request)

        monkeypatch.setattr(kb.backend, "search", strict)
        plan = kb.plan(0.99, queries=made(1000, 2))
        assert plan.verdict == "unreachable" and 50 < plan.tried <= 100
        monkeypatch.setattr(kb.backend, "search", lambda _: (_ for _ in ()).throw(errors.BackendUnavailable("away")))
        with pytest.raises(errors.BackendUnavailable, match="away"):
            kb.plan(0.99, queries=made(1000, 2))


@pytest.mark.usefixtures("dear")
def test_documents_stand_for_queries_and_it_is_said() -> None:
    with collection("memory:") as kb:
        plan = kb.plan(0.9)
        assert plan.verdict == "planned" and plan.source == "documents" and "stood for queries" in plan.told
        assert kb.info().manifest.plan is not None and kb.info().manifest.plan["source"] == "documents"


@pytest.mark.usefixtures("dear")
def test_texts_are_encoded() -> None:
    texts = [f"{a} {b} {c}" for a in "uvwxyz" for b in "abcdefgh" for c in range(20)]
    with MatryoshkaRetriever(HashingEncoder(64), "memory:", coarse_dims=16) as kb:
        kb.index(texts)
        plan = kb.plan(0.8, 3, queries=(text[::-1] for text in texts))
        assert plan.verdict == "planned" and plan.queries == 960 and plan.k == 3


@pytest.mark.usefixtures("dear")
def test_the_budget_of_memory_counts_candidates() -> None:
    queries = made(1000, 2)
    with collection("memory:") as kb:
        latency = kb.plan(0.95, queries=queries, store=False)
        memory = kb.plan(0.95, queries=queries, store=False, budget="memory")
    assert latency.coarse_top_k == memory.coarse_top_k, "the fewest are the quickest where the costs rise"


@pytest.mark.usefixtures("dear")
def test_a_rotated_collection_is_planned_as_it_is(tmp_path: Path) -> None:
    from mrl_retrieval.rotation_fitting import fit_rotation

    queries = made(1000, 2)
    with collection("memory:", rotation=fit_rotation(None, made(3000, 1), method="axes")) as kb:
        plan = kb.plan(0.95, queries=queries)
        assert plan.verdict == "planned" and recall(kb, made(1000, 3)) >= 0.95
        assert {row.rotated for row in plan.frontier if row.own} == {True}


@pytest.mark.usefixtures("dear")
def test_an_outgrown_plan_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with collection("memory:", 1000) as kb:
        plan = kb.plan(0.9, queries=made(1000, 2))
        kb.search_by_vector(made(1, 8)[0])
        assert not caplog.records
        more = made(600, 6)
        kb.index([f"new {i}" for i in range(600)], vectors=more)
        with MatryoshkaRetriever.open(kb.backend) as again, caplog.at_level(logging.WARNING):
            for _ in range(3):
                again.search_by_vector(made(1, 8)[0])
            assert [r.getMessage() for r in caplog.records if "made at 1,000 rows, there are 1,600" in r.getMessage()]
            assert len(caplog.records) == 1
    assert staleness(plan.to_stored(), 1500) is None and staleness({"coarse_top_k": 9}, 10**9) is None


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"target_recall": 1.0}, errors.InvalidInput, "target_recall is a share between 0 and 1"),
        ({"target_recall": 0}, errors.InvalidInput, "target_recall is a share between 0 and 1"),
        ({"target_recall": "high"}, errors.InvalidInput, "target_recall is a share"),
        ({"k": 0}, errors.InvalidInput, "k must be a whole number"),
        ({"k": 301}, errors.InvalidInput, "k=301 is beyond the 300 rows"),
        ({"confidence": 1}, errors.InvalidInput, "confidence=1"),
        ({"budget": "money"}, errors.InvalidInput, "expected 'latency' or 'memory'"),
        ({"queries": "one text"}, errors.InvalidInput, "pass a list of texts"),
        ({"queries": []}, errors.InvalidInput, "queries is empty"),
        ({"queries": ["a", "b"]}, errors.EncoderRequired, "encoder"),
        ({"queries": np.ones((500, 3))}, errors.DimensionError, "3 components, expected 48"),
        ({}, errors.TooFewQueries, "300 documents are too few .* 381 queries"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with collection("memory:", 300) as kb:
        before = kb.info().manifest
        with pytest.raises(error, match=words):
            kb.plan(**arguments)
        assert kb.info().manifest == before


def test_an_empty_collection() -> None:
    with MatryoshkaRetriever(None, "memory:", dim=DIM, coarse_dims=COARSE) as kb:
        with pytest.raises(errors.CollectionNotFound):
            kb.plan()
        kb.index(["no vector"], vectors=[None], ids=["a"])
        with pytest.raises(errors.InvalidInput, match="has no vectors, expected some"):
            kb.plan()


@pytest.mark.usefixtures("dear")
def test_a_report_says_everything() -> None:
    with collection("memory:") as kb:
        plan = kb.plan(0.95, queries=made(1000, 2))
    value = plan.to_json()
    assert value["reason"] == plan.reason and len(value["frontier"]) == len(plan.table()) - 1
    assert "measured on 1,000 given queries at 3,000 rows on 20" in plan.told
    assert isinstance(plan, SearchPlan) and replace(plan, verdict="unreachable").reason.startswith("No setting")


def test_real_timings_decide(tmp_path: Path) -> None:
    with collection(f"faiss:{tmp_path}/kb") as kb:
        plan = kb.plan(0.9, queries=made(500, 2))
    assert plan.verdict in ("planned", "flat") and plan.stored and plan.flat_seconds > 0
