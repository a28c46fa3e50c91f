"""What holds for any data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_retrieval import MatryoshkaRetriever, Stage
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.scoring import exact_search
from tests.retriever.common import TEXTS, vectors


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 60),
    dim=st.integers(1, 12),
    coarse=st.integers(1, 12),
    k=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_all_candidates_make_it_exact_and_recall_never_falls(n: int, dim: int, coarse: int, k: int, seed: int) -> None:
    data = np.round(vectors(n, dim, seed), 1)  # rounded: ties happen
    query = np.round(vectors(1, dim, seed + 1)[0], 1)
    made = MatryoshkaRetriever(encoder=None, coarse_dims=coarse)
    ids = made.index([None] * n, range(n), vectors=data)
    ((_, scores),) = exact_search(query[None], data, ids, k)
    kth = float(scores[-1])
    full = made.search_by_vector(query, k, coarse_top_k=max(n, k))
    assert [h.score for h in full] == pytest.approx(scores.tolist(), abs=1e-5)
    assert made.search_by_vector(query, k, exact=True).ids == full.ids
    found = []
    for candidates in range(k, n + k, max(1, n // 5)):
        result = made.search_by_vector(query, k, coarse_top_k=candidates)
        found.append(sum(hit.score >= kth - 1e-5 for hit in result))
    assert found == sorted(found)


def test_results_are_the_same_for_a_funnel_given_either_way(retriever: MatryoshkaRetriever) -> None:
    funnel = [(16, 40), (32, 20)]
    made = MatryoshkaRetriever(encoder=HashingEncoder(64), backend=retriever.backend, stages=funnel)
    assert made.search(TEXTS[5]).ids == retriever.search(TEXTS[5], stages=funnel).ids
    assert Stage(16, 40) == made._made.stages[0]  # type: ignore[index]
