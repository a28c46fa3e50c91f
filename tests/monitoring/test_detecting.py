"""Alarms: as rare as promised without a decay, and soon after one, whatever went before."""

import numpy as np
import pytest

from mrl_retrieval.monitoring.detecting import Detector, RecallState, Track


def recalls(rng, count, mean, k=10):
    """Shares of k hits, each found with the chance ``mean``."""
    return rng.binomial(k, mean, count) / k


def all_or_nothing(rng, count, mean):
    return (rng.random(count) < mean).astype(float)


@pytest.mark.parametrize("draw", [recalls, all_or_nothing])
def test_false_alarms_are_as_rare_as_promised(draw):
    """At the worst mean that is none. The chance of one within n values is n / every at most: 0.2 here."""
    rng, every, n, runs = np.random.default_rng(0), 1000, 200, 300
    alarms = 0
    for _ in range(runs):
        down = Detector(1 - 0.9, every)
        alarms += any(down.add(1 - value) for value in draw(rng, n, 0.9))
    promised = n / every
    assert alarms / runs <= promised + 3 * np.sqrt(promised * (1 - promised) / runs)
    assert alarms > 0  # or the bound would say nothing of this test


def test_false_alarms_are_every_so_many_on_average():
    rng, every = np.random.default_rng(1), 300
    down, alarms, values = Detector(0.05, every), 0, 60_000
    for value in recalls(rng, values, 0.95):
        alarms += down.add(1 - value)
    assert 5 < alarms <= values / every  # 200 are allowed


@pytest.mark.parametrize(("after", "within"), [(0.90, 60), (0.95, 250), (0.97, 1500)])
def test_a_decay_is_noticed_soon_however_long_it_was_well(after, within):
    """In all of 15 runs; the mean over all time would still be above 0.98 then."""
    for seed in range(15):
        rng, track = np.random.default_rng(seed), Track(0.98, 100_000, 1000)
        events = [track.state for value in recalls(rng, 8000, 0.998) if track.add(value)]
        assert events == [RecallState.HOLDS]
        for delay, value in enumerate(recalls(rng, within, after), 1):  # noqa: B007
            if track.add(value):
                break
        assert track.state is RecallState.LOST and delay <= within
        assert track.lifetime.mean > 0.98


def test_it_is_noticed_that_it_holds_again_however_long_it_did_not():
    rng, track = np.random.default_rng(2), Track(0.98, 10_000, 100)
    states = []
    for mean, count in ((0.999, 1500), (0.8, 5000), (0.999, 1500), (0.9, 200)):
        states += [track.state for value in recalls(rng, count, mean) if track.add(value)]
    assert states == [RecallState.HOLDS, RecallState.LOST, RecallState.HOLDS, RecallState.LOST]
    assert track.recent().count == 100 and track.lifetime.count == 8200


def test_nothing_is_said_at_once_or_where_nothing_is_shown():
    track = Track(0.98, 100_000, 100)
    assert not any(track.add(1.0) for _ in range(200)) and track.state is RecallState.UNPROVEN
    rng, near = np.random.default_rng(3), Track(0.98, 100_000, 100)
    assert not any(near.add(value) for value in recalls(rng, 3000, 0.98))
    low = Track(0.98, 100_000, 100)
    assert any(low.add(0.0) for _ in range(5)) and low.state is RecallState.LOST


def test_a_detector_begins_anew_after_an_alarm_and_on_demand():
    one, other = Detector(0.1, 100), Detector(0.1, 100)
    while not one.add(1.0):
        pass
    assert [one.add(0.5) for _ in range(3)] == [other.add(0.5) for _ in range(3)]
    other.add(1.0)
    other.restart()
    assert np.array_equal(other._capital, np.zeros_like(other._capital))
