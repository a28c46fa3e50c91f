import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrl_retrieval.matryoshka import normalize
from mrl_retrieval.scoring import cosine_scores, exact_search, rank, top_k

scores = st.lists(st.sampled_from([0.5, 0.25, -1.0, 0.0, 0.5000001, 1.0]), max_size=40)


@given(scores, st.integers(0, 45))
def test_rank_is_a_full_sort_cut(values: list[float], k: int) -> None:
    ids = [f"{(i * 7919) % 101:03d}" for i in range(len(values))]
    array = np.array(values, np.float32)
    expected = sorted(range(len(values)), key=lambda i: (-array[i], ids[i]))[:k]
    assert rank(array, ids, k).tolist() == expected


def test_top_k_takes_the_smallest_ids_of_a_tie() -> None:
    assert top_k(np.array([1, 1, 1, 2]), ["c", "a", "b", "z"], 3)[0] == ["z", "a", "b"]


def test_ids_are_ordered_by_code_point() -> None:
    assert top_k(np.zeros(5), ["b", "B", "10", "9", "ä"], 5)[0] == ["10", "9", "B", "b", "ä"]


def test_cosine_is_the_cosine_of_whatever_length() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 16)).astype(np.float32) * rng.uniform(0.1, 9, (50, 1)).astype(np.float32)
    query = rng.standard_normal(16).astype(np.float32) * 3
    for dim in (1, 5, 16):
        a, b = vectors[:, :dim].astype(float), query[:dim].astype(float)
        expected = a @ b / (np.linalg.norm(a, axis=1) * np.linalg.norm(b))
        assert np.allclose(cosine_scores(query, vectors, dim), expected, atol=1e-6)
    assert cosine_scores(query, np.zeros((2, 16), np.float32)).tolist() == [0, 0]
    assert cosine_scores(np.zeros(16, np.float32), vectors).tolist() == [0] * 50


def test_exact_search_agrees_with_a_loop() -> None:
    rng = np.random.default_rng(1)
    vectors, queries = rng.standard_normal((30, 8)), rng.standard_normal((4, 8)) * 100
    ids = [str(i) for i in range(30)]
    for query, (found, values) in zip(queries, exact_search(queries, vectors, ids, 5, dim=6), strict=True):
        a, b = normalize(vectors[:, :6]), normalize(query[None, :6])[0]
        loop = sorted(((float(x.astype(float) @ b), i) for x, i in zip(a, ids, strict=True)), reverse=True)[:5]
        assert found == [i for _, i in loop]
        assert values == pytest.approx([s for s, _ in loop], abs=1e-6)


def test_exact_search_of_nothing() -> None:
    assert exact_search(np.ones((1, 4)), np.empty((0, 4)), [], 3)[0][0] == []
