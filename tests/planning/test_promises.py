"""Promises are kept as often as is said: 200 repeated splits, and a choice without a bound as the control."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from mrl_retrieval.planning.proving import Ranks, lowest, rank_all
from mrl_retrieval.planning.samples import QuerySample
from mrl_retrieval.planning.truth import true_neighbours

from .corpus import collection, made

K, PLANNED, SPLITS, CONFIDENCE = 10, 500, 200, 0.95


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with collection("memory:") as kb:
        sample = QuerySample(made(4000, 2), "given")
        yield rank_all(kb.backend, sample, true_neighbours(kb.backend, sample, K), 3000)


def kept(ranks: Ranks, target: float, *, bounded: bool) -> int:
    """Of so many random splits: how often what is chosen on one part reaches the target on the other."""
    draw, count = np.random.default_rng(7), 0
    for _ in range(SPLITS):
        order = draw.permutation(len(ranks.places))
        part, held = (Ranks(ranks.places[some], ranks.limit) for some in (order[:PLANNED], order[PLANNED:]))
        if bounded:
            chosen = lowest(part, K, target, CONFIDENCE, ranks.limit).candidates
        else:
            chosen = next(c for c in range(K, ranks.limit + 1) if part.shares(c).mean >= target)
        assert chosen is not None
        count += held.shares(chosen).mean >= target
    return count


def chance(successes: int) -> float:
    """That no more than so many of the splits keep a promise that is kept with the confidence."""
    return sum(math.comb(SPLITS, i) * CONFIDENCE**i * (1 - CONFIDENCE) ** (SPLITS - i) for i in range(successes + 1))


@pytest.mark.parametrize("target", [0.9, 0.95, 0.98])
def test_promises_are_kept(ranks: Ranks, target: float) -> None:
    assert chance(kept(ranks, target, bounded=True)) > 0.001


def test_without_a_bound_they_are_not(ranks: Ranks) -> None:
    assert chance(kept(ranks, 0.95, bounded=False)) < 1e-6
