"""The lists that are searched are those that score best, however many they are, ties and odd numbers included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_retrieval.coarse.kernels import _nearest_lists


def nearest(scores, probed):
    chosen_scores = np.empty(len(scores), np.float32)
    chosen = np.full(len(scores), -1, np.int64)
    _nearest_lists(scores, len(scores), probed, chosen_scores, chosen)
    return chosen_scores[:probed], chosen[:probed]


@settings(max_examples=200, deadline=None)
@given(
    scores=st.lists(st.integers(-9, 9) | st.floats(-1, 1, width=32), min_size=1, max_size=90),
    share=st.floats(0, 1),
)
def test_the_best_come_first(scores, share):
    values = np.array(scores, np.float32)
    probed = max(1, int(share * len(values)))
    best, chosen = nearest(values, probed)
    np.testing.assert_array_equal(best, np.sort(values)[::-1][:probed])
    np.testing.assert_array_equal(values[chosen], best)
    assert len(set(chosen.tolist())) == probed


@pytest.mark.parametrize("probed", [1, 64, 1000, 4096, 4099])
def test_many_lists(probed):
    scores = np.random.default_rng(probed).standard_normal(4099).astype(np.float32)
    np.testing.assert_array_equal(nearest(scores, probed)[1], np.argsort(-scores, kind="stable")[:probed])


def test_no_list_that_there_is_not_is_chosen_even_without_numbers():
    for where in (slice(None), slice(0, 1), slice(5, 90)):
        scores = np.random.default_rng(0).standard_normal(100).astype(np.float32)
        scores[where] = np.nan
        for probed in (1, 7, 24, 100):
            chosen = nearest(scores, probed)[1]
            assert len(set(chosen.tolist())) == probed and chosen.min() >= 0 and chosen.max() < 100
