"""From a collection and a sample of queries to its plan."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from .. import rotations
from ..backend import Backend
from ..confidence import Shares, check_confidence
from ..errors import BackendError, BackendUnavailable, InvalidInput, LockTimeout
from ..manifest import Manifest
from ..moving.switching import replace_manifest
from ..settings import check_positive, check_recall
from ..two_stage import SearchRequest, Stage
from .advice import advised
from .costs import Costs, timed
from .frontier import frontier
from .proving import Proof, nested_proof, proof_by_searches, searched
from .report import SearchPlan, Verdict
from .samples import QuerySample
from .truth import TruthOfQueries, shares_of, true_neighbours

__all__ = ["MOST_CANDIDATES", "Budget", "Goal", "plan_collection"]

logger = logging.getLogger(__name__)

Budget = Literal["latency", "memory"]

MOST_CANDIDATES = 10_000
"""That are tried, or four for each hit, where those are more; fewer where the database refuses so many."""

_RATIO = 1.08
"""How much cheaper each setting of a path of searches is than the one before."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be promised."""

    target: float
    """Mean recall of queries, in 0..1."""
    k: int
    confidence: float
    budget: Budget
    """``"latency"``: the quickest setting, and two stages only where they are quicker than exact search.
    ``"memory"``: the fewest full vectors that a search reads, and advice by the shortest prefix."""

    @classmethod
    def checked(cls, target: Any, k: Any, confidence: Any, budget: Any) -> Goal:
        """Check what a user gave.

        Raises:
            InvalidInput: something cannot be used.
        """
        if budget not in ("latency", "memory"):
            raise InvalidInput(f"budget={budget!r}: expected 'latency' or 'memory'")
        return cls(check_recall(target, "target_recall"), check_positive(k, "k"), check_confidence(confidence), budget)


def check_rows(backend: Backend, k: int) -> int:
    """How many rows have a vector.

    Raises:
        InvalidInput: there is none, or fewer than k.
    """
    vectors = backend.stats().vectors
    if not vectors:
        raise InvalidInput(f"{backend.address} has no vectors, expected some: index documents before planning")
    if k > vectors:
        raise InvalidInput(f"k={k} is beyond the {vectors:,} rows with a vector of {backend.address}: plan for fewer")
    return vectors


def plan_collection(
    backend: Backend, sample: QuerySample, goal: Goal, *, store: bool = True, costs: Costs | None = None
) -> SearchPlan:
    """The cheapest number of candidates that provably reaches the goal.

    Args:
        backend: holds the collection's rows; nothing is written but the plan.
        sample: the queries; see ``samples.py``.
        store: keep the plan with the collection, where there is one.
        costs: of searches; None: they are timed.

    Raises:
        InvalidInput: there are fewer rows than k.
        ConflictError: the manifest was changed by somebody else just then.
    """
    manifest = backend.manifest
    least = goal.k + (sample.own is not None)
    vectors = check_rows(backend, least)
    cap = _most_allowed(backend, sample, goal.k, least, min(vectors, max(MOST_CANDIDATES, 4 * goal.k)))
    timings = costs or timed(backend, sample.vectors, goal.k, least, cap)
    price = timings if goal.budget == "latency" else _by_candidates(least, cap)
    most = price.most_below(price.flat, least, cap)
    truth = true_neighbours(backend, sample, goal.k)
    proof = Proof(None, Shares([1.0] * len(sample.vectors)), 0)
    if most is not None:
        proof = _proof(backend, sample, truth, goal, price, least, most)
    verdict, needed = _verdict(proof, goal, most, cap, len(sample.vectors))
    rotation = None if manifest.rotation is None else rotations.load(backend, manifest)
    rows = frontier(backend, sample, truth, goal.k, rotation)
    seconds = None
    if proof.candidates is not None or most is None:
        seconds = timings.at(proof.candidates or least)
    plan = SearchPlan(
        address=str(backend.address),
        verdict=verdict,
        target_recall=goal.target,
        k=goal.k,
        confidence=goal.confidence,
        budget=goal.budget,
        coarse_dims=manifest.coarse_dims,
        coarse_top_k=proof.candidates,
        recall=proof.shares.mean,
        bound=_bound(proof, goal),
        tried=proof.deepest,
        needed_queries=needed,
        queries=len(sample.vectors),
        source=sample.source,
        rows=backend.count(),
        seconds=seconds,
        flat_seconds=timings.flat,
        at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        frontier=rows,
        advice=advised(rows, manifest, goal.target, goal.budget == "memory", vectors, str(backend.address)),
    )
    return _stored(backend, manifest, plan) if store else plan


def _most_allowed(backend: Backend, sample: QuerySample, k: int, least: int, most: int) -> int:
    """As many candidates as the database gives: servers may have limits of their own."""
    manifest = backend.manifest
    while True:
        stages = (Stage(manifest.coarse_dims, most), Stage(manifest.fine_dims, k))
        try:
            backend.search(SearchRequest(sample.vectors[:1], stages))
        except (BackendUnavailable, LockTimeout):
            raise
        except BackendError as error:
            if most == least:
                raise
            logger.info("%s gives fewer than %d candidates: %s", backend.address, most, error)
            most = max(most // 2, least)
        else:
            return most


def _by_candidates(least: int, most: int) -> Costs:
    """Where memory is what counts: each candidate costs one full vector, and exact search all of them."""
    return Costs((least, most), (float(least), float(most)), math.inf)


def _proof(
    backend: Backend, sample: QuerySample, truth: TruthOfQueries, goal: Goal, price: Costs, least: int, most: int
) -> Proof:
    target, confidence = goal.target, goal.confidence
    if not backend.capabilities.approximate_coarse:
        proof, _ = nested_proof(backend, sample, truth, least, most, target, confidence)
        if proof.candidates is None:
            return proof
        seen = shares_of(searched(backend, sample, truth, proof.candidates), goal.k)
        if seen.reaches(target, confidence):
            return replace(proof, shares=seen)
        logger.warning(
            "%s finds less with %d candidates (%.4f) than these hold (%.4f): every setting is searched for",
            backend.address,
            proof.candidates,
            seen.mean,
            proof.shares.mean,
        )
    path = price.steps(least, most, _RATIO)
    proof = proof_by_searches(backend, sample, truth, path, target, confidence)
    if proof.candidates is None or proof.shares.count == len(sample.vectors):
        return proof
    # It was proved before all queries were asked; what all of them find is told too.
    return replace(proof, shares=shares_of(searched(backend, sample, truth, proof.candidates), goal.k))


def _bound(proof: Proof, goal: Goal) -> float:
    """A target that was proved before all queries were asked stays proved: one may look after every query."""
    bound = proof.shares.lower(goal.confidence)
    return bound if proof.candidates is None else max(bound, goal.target)


def _verdict(proof: Proof, goal: Goal, most: int | None, cap: int, queries: int) -> tuple[Verdict, int | None]:
    if most is None:
        return "flat", None
    if proof.candidates is not None:
        return "planned", None
    needed = proof.shares.needed(goal.target, goal.confidence)
    if needed is not None and needed > queries:
        return "needs queries", needed
    return ("flat" if most < cap else "unreachable"), None


def _stored(backend: Backend, manifest: Manifest, plan: SearchPlan) -> SearchPlan:
    """An older plan stays where there is no new one: what it promised was measured too."""
    if plan.verdict not in ("planned", "flat"):
        return plan
    replace_manifest(backend, plan=plan.to_stored())
    return replace(plan, stored=True)
