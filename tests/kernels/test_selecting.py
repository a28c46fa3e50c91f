"""The best of what was scored are kept: which they are is known from sorting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_retrieval.kernels.compiling import compiled
from mrl_retrieval.kernels.selecting import ANY_DROP, _keep, _keep_near, _narrow, _select
from mrl_retrieval.kernels.simd import LANES

FINITE = st.floats(-1.5, 1.5, width=32, allow_subnormal=True)
FEW_VALUES = st.sampled_from([np.float32(x) for x in (-1, -0.0, 0.0, 1e-45, 0.25, 0.25000003, 1)])


@compiled
def narrow(scores, places, n, k):
    _narrow(scores, places, n, k)


@compiled
def select(scores, places, n, k):
    _select(scores, places, n, k)


@compiled
def keep(scores, places, n, limit):
    return _keep(scores, places, n, limit)


@compiled
def keep_near(scores, places, n, limit, anchor, drop):
    return _keep_near(scores, places, n, limit, anchor, drop)


def room_for(scores):
    """The scores with their places, in arrays with room behind them that holds what must not be read."""
    held = np.full(len(scores) + LANES, np.float32(7), np.float32)
    held[: len(scores)] = scores
    return held, np.arange(len(held), dtype=np.int32)


@given(st.lists(FINITE, min_size=2, max_size=300) | st.lists(FEW_VALUES, min_size=2, max_size=300), st.data())
@settings(max_examples=300, deadline=None)
def test_the_best_come_to_the_front(values, data):
    scores = np.array(values, np.float32)
    k = data.draw(st.integers(1, len(scores) - 1))
    for function in (select, narrow):
        held, places = room_for(scores)
        function(held, places, len(scores), k)
        np.testing.assert_array_equal(np.sort(held[:k]), np.sort(scores)[-k:])
        np.testing.assert_array_equal(scores[places[:k]], held[:k])
        assert len(set(places[:k].tolist())) == k


@pytest.mark.parametrize("n", [31, 32, 33, 48, 263, 1000])
@pytest.mark.parametrize("make", ["clustered", "equal", "one above", "steps", "tiny"])
def test_hard_cases(n, make):
    rng = np.random.default_rng(n)
    scores = {
        "clustered": (0.5 + 1e-7 * rng.standard_normal(n)).astype(np.float32),
        "equal": np.full(n, 0.3, np.float32),
        "one above": np.where(np.arange(n) == n // 2, 1, -1).astype(np.float32),
        "steps": np.repeat(rng.random(n // 8 + 1), 8)[:n].astype(np.float32),
        "tiny": (rng.standard_normal(n) * 1e-44).astype(np.float32),
    }[make]
    for k in {1, 2, n // 3, n - 1}:
        held, places = room_for(scores)
        narrow(held, places, n, k)
        np.testing.assert_array_equal(np.sort(held[:k]), np.sort(scores)[-k:])
        assert len(set(places[:k].tolist())) == k and places[:k].max() < n


def test_what_is_kept_and_what_others_have_to_exceed():
    scores = np.random.default_rng(2).permutation(np.linspace(0, 1, 201)).astype(np.float32)
    held, places = room_for(scores)
    assert keep(held, places, 201, 50) == (50, np.float32(0.755))
    held, places = room_for(scores[:40])
    assert keep(held, places, 40, 50) == (40, scores[:40].min())


def test_what_is_near_enough_to_the_anchor():
    scores = np.random.default_rng(2).permutation(np.linspace(0, 1, 201)).astype(np.float32)
    held, places = room_for(scores)
    n, least = keep_near(held, places, 201, 150, 11, np.float32(0.1025))
    assert n == 31 and least == np.float32(0.95) - np.float32(0.1025)  # the anchor is the eleventh: .95
    np.testing.assert_array_equal(np.sort(held[:n]), np.sort(scores)[-n:])
    np.testing.assert_array_equal(scores[places[:n]], held[:n])
    for drop in (np.float32(2), ANY_DROP):
        held, places = room_for(scores)
        assert keep_near(held, places, 201, 150, 11, drop) == (150, np.sort(scores)[-150])
        held, places = room_for(scores)
        n, least = keep_near(held, places, 100, 150, 11, drop)
        assert n == 100 and least < -1
    held, places = room_for(scores)
    assert keep_near(held, places, 10, 150, 11, np.float32(0)) == (10, -np.inf)
