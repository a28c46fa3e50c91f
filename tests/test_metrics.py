import math

import pytest

from mrl_retrieval.metrics import coverage, ndcg_at_k, recall_at_k


def test_recall_looks_at_k_on_both_sides() -> None:
    assert recall_at_k(["a", "x", "b"], ["a", "b", "c"], 2) == 0.5
    assert recall_at_k(["a", "b"], ["a"], 10) == 1.0
    assert recall_at_k([], ["a"], 10) == 0.0
    assert recall_at_k([], [], 10) == 1.0


def test_coverage_looks_at_every_candidate() -> None:
    assert coverage(["x", "y", "b", "a"], ["a", "b", "c"], 2) == 1.0
    assert coverage({"c"}, ["a", "b", "c"], 3) == pytest.approx(1 / 3)


def test_ndcg_by_hand() -> None:
    gains = {"a": 3.0, "b": 2.0, "c": 1.0, "d": 0.0}
    dcg = 2 / math.log2(2) + 3 / math.log2(4)
    ideal = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert ndcg_at_k(["b", "x", "a"], gains, 3) == pytest.approx(dcg / ideal)
    assert ndcg_at_k(["a", "b", "c"], gains, 10) == 1.0
    assert ndcg_at_k(["x"], gains, 10) == 0.0
    assert ndcg_at_k(["a"], {"a": -1.0}, 10) == 0.0
    assert ndcg_at_k(["a"], {"a": 1.0, "b": 1.0}, 1) == 1.0


@pytest.mark.parametrize("call", [lambda: ndcg_at_k([], {}, 0), lambda: recall_at_k([], [], 0)])
def test_k_below_one(call: object) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        call()  # type: ignore[operator]
