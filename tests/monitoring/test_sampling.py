"""The draw: every query with the same chance, and one draw for one seed."""

import threading

import numpy as np
import pytest

from mrl_retrieval.errors import InvalidInput
from mrl_retrieval.monitoring.sampling import Sampler


def drawn(sampler, sizes):
    found, start = [], 0
    for size in sizes:
        found += [start + place for place in sampler.draw(size)]
        start += size
    return found


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.01])
def test_each_is_drawn_with_the_chance(rate):
    count = 200_000
    sampler = Sampler(rate, seed=1)
    places = drawn(sampler, [1] * count)
    assert abs(len(places) - rate * count) < 4 * np.sqrt(count * rate * (1 - rate)) and sampler.drawn == len(places)
    gaps = np.diff(places)
    share = (gaps == 1).mean()  # independent: the next one is drawn with the same chance
    assert abs(share - rate) < 4 * np.sqrt(rate * (1 - rate) / len(gaps))


def test_how_queries_come_together_does_not_matter():
    sizes = np.random.default_rng(0).integers(1, 400, 300).tolist()
    assert drawn(Sampler(0.05, seed=3), sizes) == drawn(Sampler(0.05, seed=3), [1] * sum(sizes))
    assert drawn(Sampler(0.05, seed=3), sizes) != drawn(Sampler(0.05, seed=4), sizes)


def test_all_and_hardly_any():
    assert drawn(Sampler(1), [1, 3, 2]) == list(range(6)) == drawn(Sampler(1.0), [6])
    assert len(drawn(Sampler(1e-12, seed=0), [1000] * 1000)) == 0
    assert Sampler(5e-324, seed=0).draw(10) == []


def test_threads_together_draw_the_share():
    sampler, found = Sampler(0.1, seed=0), []

    def work():
        found.append(sum(len(sampler.draw(1)) for _ in range(20_000)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(found) == len(drawn(Sampler(0.1, seed=0), [80_000])) == sampler.drawn


@pytest.mark.parametrize("rate", [0, -0.1, 1.01, float("nan"), float("inf"), "0.1", None, True])
def test_rates_that_are_none(rate):
    with pytest.raises(InvalidInput, match="share above 0 and at most 1"):
        Sampler(rate)
