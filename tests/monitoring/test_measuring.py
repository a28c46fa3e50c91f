"""``measure_recall``: held to recall that is computed here, from all vectors; and what cannot be measured."""

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.confidence import Shares
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.errors import CollectionNotFound, DimensionError, EncoderRequired, FilterError, InvalidInput
from mrl_retrieval.rotation import Rotation
from mrl_retrieval.scoring import exact_search
from mrl_retrieval.two_stage import Stage

from .common import collection, vectors


@pytest.fixture(params=["memory", "faiss"])
def place(request, tmp_path):
    return f"faiss:{tmp_path / 'kb'}" if request.param == "faiss" else f"memory:measure-{tmp_path.name}"


def stored(retriever, count=1000):
    rows = retriever.get(range(count), vectors=True)
    return np.stack([row.vector for row in rows])


def expected(retriever, queries, k, coarse, keep=None):
    """Recall of each query, from the stored vectors."""
    everything = stored(retriever)
    ids = [str(i) for i in range(len(everything))]
    kept = np.arange(len(ids)) if keep is None else np.flatnonzero(keep)
    ids, everything = [ids[i] for i in kept], everything[kept]
    found = []
    for query in queries:
        near = exact_search(query[None], everything, ids, coarse, dim=8)[0][0]
        chosen = [ids.index(id) for id in near]
        answer = exact_search(query[None], everything[chosen], near, k)[0][0]
        truth = exact_search(query[None], everything, ids, k)[0][0]
        found.append(len(set(answer) & set(truth)) / k)
    return found


def test_recall_is_that_of_the_oracle(place):
    queries = vectors(100, seed=3)
    with collection(place) as retriever:
        report = retriever.measure_recall(queries, top_k=7, coarse_top_k=60, confidence=0.9)
        truth = expected(retriever, queries, 7, 60)
        shares = Shares(truth)
        assert report.mean == pytest.approx(np.mean(truth)) and 0.3 < report.mean < 0.95
        assert (report.lower, report.upper) == (shares.lower(0.9), shares.upper(0.9))
        assert (report.n, report.k, report.changed, report.empty, report.confidence) == (100, 7, 0, 0, 0.9)
        assert report.stages == (Stage(8, 60), Stage(32, 7)) and report.asked is None and not report.pseudo_queries
        assert [worst.recall for worst in report.worst] == pytest.approx(sorted(truth)[:10])
        for worst in report.worst:
            answer = retriever.search_by_vector(queries[worst.query], 7, coarse_top_k=60).ids
            exact = retriever.search_by_vector(queries[worst.query], 7, exact=True).ids
            assert [hit.id for hit in worst.lost] == [id for id in exact if id not in answer]
        only = retriever.measure_recall(queries, filter={"even": True}, top_k=7, coarse_top_k=60)
        keep = np.arange(1000) % 2 == 0
        assert only.mean == pytest.approx(np.mean(expected(retriever, queries, 7, 60, keep)))
        assert only.filter == "even $eq" and report.filter is None
        assert retriever.measure_recall(queries, coarse_top_k=1000).mean == 1


def test_stored_vectors_stand_for_queries_each_without_its_own_row(place):
    with collection(place) as retriever:
        report = retriever.measure_recall(n=50, top_k=5, coarse_top_k=40)
        assert report.pseudo_queries and (report.n, report.k) == (50, 5)
        assert report.stages == (Stage(8, 40), Stage(32, 5))
        everything, ids = stored(retriever), [str(i) for i in range(1000)]
        truth = []
        for i in range(0, 1000, 20):
            others = np.arange(1000) != i
            near = [id for id in exact_search(everything[i][None], everything, ids, 40, dim=8)[0][0] if id != str(i)]
            answer = exact_search(everything[i][None], everything[[int(id) for id in near]], near, 5)[0][0]
            exact = exact_search(everything[i][None], everything[others], [id for id in ids if id != str(i)], 5)[0][0]
            truth.append(len(set(answer) & set(exact)) / 5)
        assert report.mean == pytest.approx(np.mean(truth)) and report.mean < 1
        assert all(int(worst.query) % 20 == 0 for worst in report.worst)
        assert retriever.measure_recall(n=50, filter={"even": True}, coarse_top_k=500).mean == 1


def test_rows_without_a_vector_do_not_stand_for_queries():
    with collection("memory:", 40) as retriever:
        retriever.index(["bare"] * 40, range(100, 140), vectors=[None] * 40)
        report = retriever.measure_recall(n=20, coarse_top_k=40)
        assert (report.n, report.mean) == (20, 1)
        assert retriever.measure_recall(n=20, filter={"even": True}, coarse_top_k=40).n == 20


def test_texts_settings_funnels_and_a_rotation():
    texts = [f"text {i} of {i % 7} and {i % 11}" for i in range(300)]
    with MatryoshkaRetriever(HashingEncoder(64), coarse_dims=8) as retriever:
        retriever.index(texts)
        seen = []
        report = retriever.measure_recall((text for text in texts[:30]), progress=lambda *done: seen.append(done[0]))
        assert report.stages[0].limit == 200 and report.k == 10 and seen[-1] == 30
        funnel = retriever.measure_recall(texts[:30], stages=[(8, 40), (16, 20)])
        assert [(s.dims, s.limit) for s in funnel.stages] == [(8, 40), (16, 20), (64, 10)]
        assert funnel.worst and all(isinstance(worst.query, str) for worst in funnel.worst)
        assert funnel.to_json()["worst"][0]["lost"][0].keys() == {"id", "score"}
    turned = np.linalg.qr(np.random.default_rng(0).standard_normal((32, 32)))[0]
    with collection("memory:", rotation=Rotation(turned.astype(np.float32), np.ones(32))) as retriever:
        queries = vectors(60, seed=3)
        report = retriever.measure_recall(queries, coarse_top_k=40)
        lost = retriever.search_batch_by_vector(queries, coarse_top_k=40)
        exact = retriever.search_batch_by_vector(queries, exact=True)
        shares = [len(set(a.ids) & set(b.ids)) / 10 for a, b in zip(lost, exact, strict=True)]
        assert report.mean == pytest.approx(np.mean(shares)) and report.mean < 1


def test_ties_are_no_loss():
    """Many equal vectors: any ten of them are right."""
    same = np.repeat(vectors(5), 60, axis=0)
    with MatryoshkaRetriever(None, "memory:", dim=32, coarse_dims=8) as retriever:
        retriever.index([None] * 300, [f"{i * 7919 % 300}" for i in range(300)], vectors=same)
        report = retriever.measure_recall(vectors(5).repeat(4, axis=0), coarse_top_k=10)
        assert report.mean == 1 and not report.worst


def test_what_cannot_be_measured():
    with collection("memory:") as retriever:
        queries = vectors(20, seed=3)
        for bad in ({"n": 9}, {"n": 0}, {"n": True}, {"queries": queries[:9]}, {"queries": []}, {"queries": "x"}):
            with pytest.raises(InvalidInput, match=r"expected 10 at least|at least 1|pass a"):
                retriever.measure_recall(**bad)
        for bad in ({"confidence": 1}, {"confidence": 0}, {"top_k": 0}, {"recall": 2}, {"coarse_top_k": 5}):
            with pytest.raises(InvalidInput):
                retriever.measure_recall(queries, **bad)
        with pytest.raises(DimensionError):
            retriever.measure_recall(queries[:, :5])
        with pytest.raises(EncoderRequired):
            retriever.measure_recall(["a text"] * 10)
        with pytest.raises(FilterError):
            retriever.measure_recall(queries, filter={"n": {"$near": 1}})
        with pytest.raises(InvalidInput, match="holds 0 rows with a vector that match the filter, expected 10"):
            retriever.measure_recall(filter={"n": -1})
        with pytest.raises(InvalidInput, match="nothing can be said"):
            retriever.measure_recall(queries, filter={"n": -1})
        retriever.delete(range(1000))
        with pytest.raises(InvalidInput, match="holds 0 rows with a vector, expected 10 at least"):
            retriever.measure_recall()
        with pytest.raises(InvalidInput, match="nothing can be said"):
            retriever.measure_recall(queries)
    with MatryoshkaRetriever(None, "memory:") as retriever, pytest.raises(CollectionNotFound):
        retriever.measure_recall()
