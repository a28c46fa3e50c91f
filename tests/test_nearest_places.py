"""Exact neighbours by place: the oracle of measurements by dims, so ties must be right too."""

import numpy as np
import pytest

from mrl_retrieval.scoring import nearest_places


@pytest.mark.parametrize("count", [1, 3, 10, 40, 99])
def test_against_a_full_sort_with_ties(count: int) -> None:
    rng = np.random.default_rng(3)
    vectors = rng.integers(-2, 3, (40, 3)).astype(np.float32)  # whole numbers: dot products are exact and often equal
    queries = rng.integers(-2, 3, (150, 3)).astype(np.float32)
    found = list(nearest_places(queries, vectors, count))
    assert len(found) == 150
    for query, places in zip(queries, found, strict=True):
        scores = [float(score) for score in vectors @ query]
        assert places.tolist() == sorted(range(40), key=lambda i: (-scores[i], i))[:count]


def test_nothing_asked() -> None:
    assert list(nearest_places(np.zeros((0, 2), np.float32), np.eye(2, dtype=np.float32), 1)) == []
