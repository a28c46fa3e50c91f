"""``recall=`` in a search: learned from a sample, kept on other queries, learned again by the next index."""

import numpy as np
import pytest

from mrl_adapters._faiss import choosing
from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.errors import InvalidInput, NothingLearned
from mrl_retrieval.matryoshka import normalize

DIM, COARSE, N = 48, 16, 4000


def near_data(n, seed):
    """Clusters, with a spectrum that decays."""
    spectrum = (np.arange(DIM) + 2.0) ** -0.5
    centres = np.random.default_rng(0).standard_normal((40, DIM)) * spectrum
    rng = np.random.default_rng(seed)
    noise = 0.5 * rng.standard_normal((n, DIM)) * spectrum
    return normalize((centres[rng.integers(0, 40, n)] + noise).astype(np.float32))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(choosing, "_EXACT_ROWS", 100)
    monkeypatch.setattr(choosing, "_IVF_ROWS", 1000)
    monkeypatch.setattr(choosing, "_WORTH", 1e9)


@pytest.fixture
def address(tmp_path):
    return f"faiss:{tmp_path}/kb"


@pytest.fixture
def kb(address, small):
    with MatryoshkaRetriever(None, address, coarse_dims=COARSE) as retriever:
        retriever.index([f"text {i}" for i in range(N)], ids=range(N), vectors=near_data(N, 1))
        yield retriever


def held(kb, queries, recall, filter=None):
    truth = kb.search_batch_by_vector(queries, exact=True, filter=filter)
    found = kb.search_batch_by_vector(queries, recall=recall, filter=filter)
    for a, b in zip(truth, found, strict=True):
        assert len(a) == len(b)
        scores = dict(zip(a.ids, [hit.score for hit in a], strict=True))
        assert all(scores.get(hit.id, hit.score) == hit.score for hit in b)
    return np.mean([len({*a.ids} & {*b.ids}) / max(len(a), 1) for a, b in zip(truth, found, strict=True)])


@pytest.mark.parametrize("recall", [0.9, 0.98])
def test_what_is_asked_for_is_held_on_other_queries(kb, recall):
    learned = kb.learn_depth(near_data(600, 2))
    assert (learned.queries, learned.k) == (600, 10)
    # The bound has 95 % confidence; half a percent is beyond what 400 queries can tell.
    assert held(kb, near_data(400, 3), recall) >= recall - 0.005


def test_more_is_searched_for_more(kb):
    kb.learn_depth(near_data(600, 2))
    queries = near_data(50, 3)

    def scored(recall):
        results = kb.search_batch_by_vector(queries, recall=recall, explain=True)
        return sum(result.trace.stages[-1].candidates_in for result in results)

    assert scored(0.5) < scored(0.9) < scored(0.99)


def test_a_single_query_and_its_trace(kb):
    kb.learn_depth(near_data(600, 2))
    query = near_data(1, 3)[0]
    result = kb.search_by_vector(query, 5, recall=0.95, explain=True)
    assert len(result) == 5 and result.certificate == "candidates"
    assert [stage.name for stage in result.trace.stages] == ["coarse", "rerank"]
    assert all(abs(hit.coarse_score) <= 1 for hit in result)


def test_filters_and_deletes(kb):
    kb.learn_depth(near_data(600, 2))
    queries = near_data(100, 3)
    for part in (2, 17, 300):
        kb.index(
            [f"part {i}" for i in range(0, N, part)],
            ids=range(0, N, part),
            metadatas=[{"part": part}] * len(range(0, N, part)),
            vectors=near_data(N, 1)[::part],
        )
        assert held(kb, queries, 0.9, {"part": part}) > 0.9
    assert len(kb.search_by_vector(queries[0], recall=0.9, filter={"part": -1})) == 0
    kb.delete(range(0, N, 2))
    assert held(kb, queries, 0.9) > 0.9


def test_nothing_learned_is_said(kb):
    query = near_data(1, 3)[0]
    with pytest.raises(NothingLearned, match=r"recall=0.9 .*learn_depth"):
        kb.search_by_vector(query, recall=0.9)
    with MatryoshkaRetriever(None, "memory:", coarse_dims=4) as other:
        other.index(["a"], vectors=np.eye(1, 8))
        with pytest.raises(NothingLearned, match="memory:.* does not learn"):
            other.search_by_vector(np.eye(1, 8)[0], recall=0.9)
        with pytest.raises(NothingLearned):
            other.learn_depth()


@pytest.mark.parametrize("recall", [0, 1, 1.5, -0.1, "much", True, float("nan")])
def test_a_recall_that_cannot_be(kb, recall):
    with pytest.raises(InvalidInput, match="recall is a share between 0 and 1"):
        kb.search_by_vector(near_data(1, 3)[0], recall=recall)


def test_a_recall_that_was_not_reached(kb):
    kb.learn_depth(near_data(100, 2))
    with pytest.raises(InvalidInput, match=r"recall=0.99999 was not reached .* deepest setting holds"):
        kb.search_by_vector(near_data(1, 3)[0], recall=0.99999)
    with pytest.raises(InvalidInput, match="up to 10 results, not for 11"):
        kb.search_by_vector(near_data(1, 3)[0], 11, recall=0.9)


@pytest.mark.parametrize("more", [{"coarse_top_k": 50}, {"exact": True}, {"stages": [(16, 50)]}])
def test_recall_and_a_depth(kb, more):
    with pytest.raises(TypeError, match="recall= chooses the depth by itself"):
        kb.search_by_vector(near_data(1, 3)[0], recall=0.9, **more)


def test_samples_that_are_too_small_or_wrong(kb):
    with pytest.raises(InvalidInput, match="at least 60 queries, not 10"):
        kb.learn_depth(near_data(10, 2))
    with pytest.raises(InvalidInput, match="components, expected 48"):
        kb.learn_depth(np.ones((100, 5)))
    for nothing in ("a text", b"a text", 5, 0.5, [], np.empty((0, DIM)), ["a", 3]):
        with pytest.raises(InvalidInput, match="queries"):
            kb.learn_depth(nothing)


def test_what_was_learned_is_kept_and_learned_again_by_the_next_index(kb, address, tmp_path):
    kb.learn_depth(near_data(600, 2))
    assert "600 given queries" in kb.info().stats.details["learned"]
    kb.close()
    with MatryoshkaRetriever.open(address) as again:
        queries = near_data(100, 3)
        assert held(again, queries, 0.9) > 0.9
        lists = again.info().stats.details["lists"]
        for start in range(N, 5 * N, N):
            again.index([""] * N, ids=range(start, start + N), vectors=near_data(N, start))
        again.flush()
        assert again.info().stats.details["lists"] > lists
        assert "600 given queries" in again.info().stats.details["learned"]
        assert held(again, queries, 0.9) > 0.9


def test_another_kind_of_index_forgets_what_was_learned(kb):
    kb.learn_depth(near_data(600, 2))
    assert kb.backend.optimize(index="hnsw").index == "hnsw"
    with pytest.raises(NothingLearned):
        kb.search_by_vector(near_data(1, 3)[0], recall=0.9)
    with pytest.raises(InvalidInput, match="does not learn"):
        kb.learn_depth(near_data(600, 2))


def test_stored_vectors_stand_for_queries_where_none_are_given(kb):
    learned = kb.learn_depth(top_k=5)
    assert learned.k == 5 and learned.steps[-1].recall > 0.9
    assert "stored vectors in the place of queries" in kb.info().stats.details["learned"]
    assert len(kb.search_by_vector(near_data(1, 3)[0], 5, recall=0.9)) == 5


def test_texts_are_encoded(tmp_path, small):
    texts = [f"text number {i} about {i % 37} things" for i in range(300)]
    with MatryoshkaRetriever("hashing", f"faiss:{tmp_path}/kb") as kb:
        kb.index(texts)
        kb.learn_depth([f"about {i} things" for i in range(80)])
        assert len(kb.search("about 12 things", recall=0.5)) == 10


def test_without_numba_what_was_learned_is_still_there(kb, address, monkeypatch):
    kb.learn_depth(near_data(100, 2))
    kb.close()
    monkeypatch.setattr(choosing, "available", lambda: False)
    with MatryoshkaRetriever.open(address) as again:
        assert len(again.search_by_vector(near_data(1, 3)[0], recall=0.5)) == 10


def test_small_collections_learn_too(tmp_path):
    with MatryoshkaRetriever(None, f"faiss:{tmp_path}/kb", coarse_dims=COARSE) as kb:
        kb.index([""] * 200, ids=range(200), vectors=near_data(200, 1))
        kb.learn_depth(near_data(100, 2))
        assert held(kb, near_data(50, 3), 0.9) > 0.85
