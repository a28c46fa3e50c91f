"""Bounds of a mean: against the definition, and kept as often as they promise."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_retrieval import confidence
from mrl_retrieval.confidence import Shares
from mrl_retrieval.errors import InvalidInput

SHARES = st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), max_size=60)


def capital(values, mean):
    """The mean capital of the bets, as the definition has it, in exact arithmetic."""
    total = Fraction(0)
    for bet in confidence._BETS.tolist():
        one = Fraction(1)
        for value in values:
            one *= 1 + Fraction(bet) * (Fraction(value) / Fraction(mean) - 1)
        total += one
    return total / len(confidence._BETS)


@settings(max_examples=25, deadline=None)
@given(values=SHARES.filter(bool), level=st.sampled_from([0.5, 0.9, 0.99]))
def test_the_bound_is_where_the_bet_is_just_won(values, level):
    bound = Shares(values).lower(level)
    if bound > 0:
        assert capital(values, bound * (1 - 1e-9)) >= 1 / (1 - level) * (1 - 1e-6)
    if bound < 1 - 1e-9:
        assert capital(values, bound + 1e-7) < 1 / (1 - level) * (1 + 1e-6)


@settings(max_examples=60, deadline=None)
@given(values=SHARES, more=SHARES, level=st.floats(0.01, 0.999))
def test_laws(values, more, level):
    shares, other = Shares(values), Shares([1 - value for value in values])
    assert 0 <= shares.lower(level) <= shares.mean + 1e-9
    assert shares.upper(level) == pytest.approx(1 - other.lower(level), abs=1e-9)
    assert shares.lower(level) == pytest.approx(Shares(sorted(values)).lower(level), abs=1e-12)  # order is nothing
    assert shares.lower(min(level + 0.0005, 0.9995)) <= shares.lower(level) + 1e-9
    assert shares.lower(level) <= Shares([*values, *[1.0] * 5]).lower(level) + 1e-9
    for target in (0.2, 0.9):
        assert shares.reaches(target, level) == (shares.lower(level) >= target - 1e-12)
    for value in more:
        shares.add(value)
    assert shares.count == len(values) + len(more)
    assert shares.mean == pytest.approx(np.mean([*values, *more]) if values or more else 0)


@pytest.mark.parametrize("kind", ["few misses", "many misses", "all or nothing", "spread"])
def test_promises_are_kept(kind):
    """Of 400 samples looked at after every 25 values, at most 5 % may ever have had a bound above the true mean."""
    draw = np.random.default_rng(5)
    mean, sample = {
        "few misses": (0.995, lambda n: 1 - 0.1 * (draw.random(n) < 0.05)),
        "many misses": (0.7, lambda n: draw.binomial(10, 0.7, n) / 10),
        "all or nothing": (0.99, lambda n: (draw.random(n) < 0.99) * 1.0),
        "spread": (0.5, lambda n: draw.random(n).round(2)),
    }[kind]
    broken = 0
    for _ in range(400):
        shares = Shares()
        for _ in range(8):
            for value in sample(25):
                shares.add(float(value))
            if shares.lower(0.95) > mean:
                broken += 1
                break
    # With a chance of .05 each, more than 36 of 400 come once in ten thousand runs.
    assert broken <= 36


def test_they_say_more_than_hoeffding_where_little_varies():
    values = [1.0] * 480 + [0.9] * 20
    hoeffding = np.mean(values) - math.sqrt(math.log(20) / (2 * len(values)))
    bound = Shares(values).lower(0.95)
    assert bound > 0.985 > hoeffding + 0.03
    assert Shares([1.0] * 1000).lower(0.95) > 0.994


@pytest.mark.parametrize(
    ("values", "target"),
    [([1.0] * 40, 0.99), ([1.0] * 95 + [0.9] * 5, 0.99), ([1.0, 0.0, 1.0], 0.5), ([0.8, 0.9] * 50, 0.8)],
)
def test_how_many_are_needed(values, target):
    needed = Shares(values).needed(target, 0.95)
    assert needed is not None

    def proves(count):
        shares = Shares()
        for value in sorted(set(values)):
            shares._counts[value] = count * values.count(value) / len(values)  # as many, in the same shares
        return shares.reaches(target, 0.95)

    assert proves(needed) and not proves(needed - 1)
    assert Shares(values).reaches(target, 0.95) == (len(values) >= needed)


def test_what_no_number_proves():
    assert Shares([1.0, 0.8]).needed(0.9, 0.95) is None
    assert Shares([1.0, 0.8]).needed(0.95, 0.95) is None
    assert Shares([1.0] * 10).needed(1.0, 0.95) is None
    assert Shares().needed(0.5, 0.95) is None
    assert Shares().needed(0.0, 0.95) == 0
    assert (Shares().lower(0.9), Shares().upper(0.9), Shares().mean) == (0, 1, 0)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf])
def test_what_is_no_share(value):
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        Shares([value])


@pytest.mark.parametrize("level", [0, 1, 1.5, -1, True, "0.9", None, math.nan])
def test_what_is_no_confidence(level):
    with pytest.raises(InvalidInput, match="confidence"):
        Shares([1.0]).lower(level)
