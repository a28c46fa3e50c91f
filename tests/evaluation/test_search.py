"""Semantic search by dimension, against pytrec_eval over rankings made naively here."""

import numpy as np
import pytest

from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.errors import InvalidInput
from mrl_retrieval.matryoshka import normalize, prefix

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'mrl-retrieval[evaluate]'")

from mrl_retrieval.evaluation import SearchTask, evaluate, load_task
from tests.evaluation.common import documents, judgements, queries, write_beir

K, CANDIDATES = 10, 25


class Counted(HashingEncoder):
    """Counts what it is asked for."""

    def __init__(self, dim):
        super().__init__(dim)
        self.texts = []

    def encode_document(self, texts, **kwargs):
        self.texts += texts
        return super().encode_document(texts, **kwargs)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return load_task(f"search:{write_beir(tmp_path_factory.mktemp('a') / 'fruit')}")


@pytest.fixture(scope="module")
def report(task):
    return evaluate("hashing:64", task, dims=[8, 16], k=K, candidates=CANDIDATES)


@pytest.fixture(scope="module")
def vectors():
    encoder = HashingEncoder(64)
    texts = [f"{title} {text}".strip() for _, title, text in documents()]
    asked = [text for id, text in queries() if any(gain > 0 for gain in judgements().get(id, {}).values())]
    return normalize(encoder.encode_document(texts)), normalize(encoder.encode_query(asked))


def runs(vectors, dims, two_stages):
    """By query id the scores that a naive search gives its hits."""
    ids = [id for id, _, _ in documents()]
    names = [id for id, _ in queries() if any(gain > 0 for gain in judgements().get(id, {}).values())]
    full, asked = vectors
    short, short_asked = prefix(full, dims), prefix(asked, dims)
    found = {}
    for name, query, whole in zip(names, short_asked, asked, strict=True):
        scores = [float(score) for score in short @ query]
        near = sorted(range(len(ids)), key=lambda i: (scores[i], ids[i]), reverse=True)[:CANDIDATES]
        found[name] = {ids[i]: float(full[i] @ whole) if two_stages else scores[i] for i in near}
    return found


@pytest.mark.parametrize(("dims", "two_stages"), [(8, False), (8, True), (16, False), (16, True), (64, False)])
def test_every_metric_against_pytrec_eval(report, vectors, dims, two_stages):
    pytrec_eval = pytest.importorskip(
        "pytrec_eval", reason="pytrec_eval is not installed: pip install pytrec-eval-terrier"
    )
    qrels = {q: {d: int(g) for d, g in gains.items()} for q, gains in judgements().items()}
    found = runs(vectors, dims, two_stages)
    told = pytrec_eval.RelevanceEvaluator(qrels, {f"ndcg_cut.{K}", f"recall.{K},{CANDIDATES}"}).evaluate(found)
    assert len(told) == 20
    row = report.tasks[0].at(dims, stage="two-stage" if two_stages else "prefix")
    for ours, theirs in ((f"ndcg@{K}", f"ndcg_cut_{K}"), (f"recall@{K}",) * 2, (f"recall@{CANDIDATES}",) * 2):
        mean = np.mean([values[theirs.replace("@", "_")] for values in told.values()])
        assert row.metrics[ours].value == pytest.approx(mean, abs=1e-9), ours
    cut = {q: dict(sorted(of.items(), key=lambda hit: (hit[1], hit[0]), reverse=True)[:K]) for q, of in found.items()}
    ranks = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(cut)
    mrr = np.mean([values["recip_rank"] for values in ranks.values()])
    assert row.metrics[f"mrr@{K}"].value == pytest.approx(mrr, abs=1e-9)


def test_coverage_is_of_the_exact_answer(report, vectors):
    truth = runs(vectors, 64, False)
    for dims in (8, 16):
        near = runs(vectors, dims, False)
        share = np.mean([len(set(list(truth[q])[:K]) & set(near[q])) / K for q in truth])
        for stage in ("prefix", "two-stage"):
            assert report.tasks[0].at(dims, stage=stage).metrics["coverage"].value == pytest.approx(share)
    assert report.tasks[0].at(64).metrics["coverage"].value == 1.0


def test_rows_counts_bytes_retention(report):
    (task,) = report.tasks
    assert task.counts == {"documents": 130, "documents_without_text": 0, "queries": 20, "queries_left_out": 4}
    assert [(row.dims, row.stage, row.bytes) for row in task.rows] == [
        (8, "prefix", 16), (8, "two-stage", 144), (16, "prefix", 32), (16, "two-stage", 160), (64, "prefix", 128),
    ]  # fmt: skip
    full = task.at(64)
    for row in task.rows:
        assert row.search_ms > 0
        for name, found in row.metrics.items():
            assert found.retention == pytest.approx(found.value / full.metrics[name].value)
            assert found.low <= found.value <= found.high
            assert found.retention_low <= found.retention <= found.retention_high
    whole = full.metrics["ndcg@10"]
    assert (whole.retention_low, whole.retention_high) == (1.0, 1.0) and whole.low < whole.high


def test_as_many_candidates_as_documents_make_two_stages_exact(task):
    report = evaluate("hashing:64", task, dims=[8], k=5, candidates=1000)
    both, full = report.tasks[0].at(8, stage="two-stage"), report.tasks[0].at(64)
    assert {name: found.value for name, found in both.metrics.items()} == pytest.approx(
        {name: found.value for name, found in full.metrics.items()}
    )


def test_a_text_is_encoded_once(task):
    encoder = Counted(64)
    again = SearchTask("again", task.ids, task.documents, task.query_ids, task.queries, task.judgements)
    report = evaluate(encoder, [task, again], dims=[8, 16, 32])
    assert len(encoder.texts) == len(set(encoder.texts)) == len(set(task.documents)) + 20
    assert [found.encoded for found in report.tasks] == [len(encoder.texts), 0]


def test_the_same_values_again_and_rotated_ones(task):
    asked = {"dims": [8, 16], "k": K, "candidates": CANDIDATES, "rotate": True}
    one, other = (evaluate("hashing:64", task, **asked).tasks[0] for _ in range(2))
    assert [row.metrics for row in one.rows] == [row.metrics for row in other.rows]
    assert one.rotation_seconds > 0
    assert one.at(8, rotated=True).metrics["coverage"].value > one.at(8).metrics["coverage"].value


def test_documents_without_text_are_never_found_and_never_encoded():
    task = SearchTask("t", ("a", "b"), ("apple pie", " "), ("q",), ("apple",), {"q": {"a": 1.0, "b": 1.0}})
    encoder = Counted(64)
    row = evaluate(encoder, task).tasks[0].at(64)
    assert row.metrics["recall@10"].value == 0.5 and sorted(encoder.texts) == ["apple", "apple pie"]


def test_candidates_below_k(task):
    with pytest.raises(InvalidInput, match="candidates=5 cannot hold the true top k=10"):
        evaluate("hashing:64", task, candidates=5)
