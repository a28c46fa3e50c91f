"""Recall by score with ties, and what others write between a search and its replay is no loss."""

import numpy as np
import pytest

from mrl_retrieval.documents import Hit
from mrl_retrieval.monitoring.comparing import compared, recall_by_score

from .common import collection, vectors


def hits(*pairs):
    return [Hit(id, score, None) for id, score in pairs]


@pytest.mark.parametrize(
    ("found", "truth", "recall", "lost"),
    [
        ([("a", 0.9), ("b", 0.8)], [("a", 0.9), ("b", 0.8)], 1, ""),
        ([("a", 0.9), ("c", 0.7)], [("a", 0.9), ("b", 0.8)], 0.5, "b"),
        ([("c", 0.7), ("d", 0.6)], [("a", 0.9), ("b", 0.8)], 0, "ab"),
        ([("a", 0.9), ("z", 0.8)], [("a", 0.9), ("b", 0.8)], 1, ""),  # z ties with the last
        ([("b", 0.8), ("c", 0.7)], [("a", 0.9), ("b", 0.8)], 0.5, "a"),
        ([("a", 0.9)], [("a", 0.9), ("b", 0.8)], 0.5, "b"),  # a short answer
        ([("a", 0.9), ("b", 0.8), ("c", 0.8)], [("a", 0.9), ("b", 0.8)], 1, ""),
        ([], [("a", 0.9)], 0, "a"),
        ([("a", 0.9)], [], 1, ""),
    ],
)
def test_by_hand(found, truth, recall, lost):
    share, missed = recall_by_score(hits(*found), hits(*truth))
    assert share == recall and "".join(hit.id for hit in missed) == lost


def prepared(retriever, **options):
    return retriever._prepare(5, {"coarse_top_k": 10, **options})


def lossy_query(retriever):
    """One whose answer lacks true hits, and the answer."""
    for query in vectors(50, seed=9):
        answer = retriever.search_by_vector(query, 5, coarse_top_k=10)
        if recall_by_score(answer, retriever.search_by_vector(query, 5, exact=True))[0] < 1:
            return query[None], answer
    raise AssertionError("every query was answered well")


def test_a_true_loss_is_one_and_is_named():
    with collection("memory:") as retriever:
        query, answer = lossy_query(retriever)
        exact = retriever.search_by_vector(query[0], 5, exact=True)
        outcome = compared(prepared(retriever), retriever.backend, query, answer)
        expected = [hit.id for hit in exact if hit.id not in answer.ids]
        assert [hit.id for hit in outcome.lost] == expected and outcome.recall == pytest.approx(1 - len(expected) / 5)


def test_what_was_written_since_is_no_loss():
    """A near row that came, and one that went: the new answer is compared, and the old one says nothing."""
    with collection("memory:", 30) as retriever:  # so small that ten candidates of eight dims find most
        search = retriever._prepare(5, {"coarse_top_k": 30})
        query = vectors(1, seed=5)
        before = retriever.search_by_vector(query[0], 5, coarse_top_k=30)
        retriever.index(["near"], ["near"], vectors=query)
        assert compared(search, retriever.backend, query, before).recall == 1
        retriever.delete([before.ids[0], before.ids[1]])
        assert compared(search, retriever.backend, query, before).recall == 1
        retriever.delete(range(30))
        retriever.delete(["near"])
        outcome = compared(search, retriever.backend, query, before)
        assert outcome.recall is None and not outcome.changed


def test_a_row_that_came_and_is_lost_as_the_collection_is_now_counts():
    with collection("memory:") as retriever:
        query, before = lossy_query(retriever)
        hidden = query.copy()
        hidden[0, :8] = -hidden[0, :8]  # a near row whose prefix is far
        hidden[0, 8:] *= 3
        retriever.index(["hidden"], ["hidden"], vectors=hidden)
        exact = retriever.search_by_vector(query[0], 5, exact=True)
        assert "hidden" in exact.ids and "hidden" not in retriever.search_by_vector(query[0], 5, coarse_top_k=10).ids
        outcome = compared(prepared(retriever), retriever.backend, query, before)
        assert "hidden" in [hit.id for hit in outcome.lost]


@pytest.mark.parametrize("always", [False, True])
def test_writes_between_the_searches_of_a_replay(monkeypatch, always):
    """A writer that adds a nearer row just after the exact search, or before every search."""
    with collection("memory:", 30) as retriever:
        backend, query = retriever.backend, vectors(1, seed=5)
        answer = retriever.search_by_vector(query[0], 5, coarse_top_k=30)
        lossy = answer[1:]  # an answer that differs, so that there is something to look at twice
        search, written = backend.search, []

        def searching(request):
            found = search(request) if not always else None
            if always or (request.exact and not written):
                written.append(len(written))
                near = query + 0.5 / len(written) * vectors(1, seed=77)
                retriever.index(["x"], [f"new-{len(written)}"], vectors=near)
            return search(request) if always else found

        monkeypatch.setattr(backend, "search", searching)
        outcome = compared(retriever._prepare(5, {"coarse_top_k": 30}), backend, query, lossy)
    # Memory's searches of all candidates lose nothing, so that anything below 1 were a lie.
    if always:
        assert (outcome.recall, outcome.changed, len(written)) == (None, True, 6)
    else:
        assert outcome.recall == 1 and len(written) == 1


def test_without_the_row_that_stands_for_the_query():
    with collection("memory:", 50) as retriever:
        own = retriever.get(["7"], vectors=True)[0].vector[None]
        search = retriever._prepare(6, {"coarse_top_k": 50})
        answer = search.run(retriever.backend, own)[0]
        assert answer.ids[0] == "7"
        assert compared(search, retriever.backend, own, answer, without="7").recall == 1
        assert compared(search, retriever.backend, own, answer[:3], without="7").lost == ()  # searched again: found
        assert np.isclose(answer[0].score, 1)
