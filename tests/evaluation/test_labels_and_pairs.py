"""Classification, clustering, STS and pairs, each held to scikit-learn or SciPy called here by hand."""

import numpy as np
import pytest

from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.matryoshka import normalize, prefix

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'mrl-retrieval[evaluate]'")

from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import homogeneity_completeness_v_measure, v_measure_score
from sklearn.neighbors import KNeighborsClassifier

from mrl_retrieval.evaluation import ClassificationTask, ClusteringTask, PairsTask, StsTask, evaluate
from mrl_retrieval.evaluation.bootstrap import Draws, means, measure
from mrl_retrieval.evaluation.labels import v_measures
from mrl_retrieval.evaluation.similarity import pearsons
from tests.evaluation.common import DISH, FRUIT

TEXTS = tuple(f"{FRUIT[n % 6]} and {DISH[n % 5]} {n % 13} {DISH[n % 3]}" for n in range(240))
LABELS = tuple(FRUIT[n % 6] if n % 9 else "other" for n in range(240))


def encoded(texts, dims):
    return prefix(normalize(HashingEncoder(64).encode_document(list(texts))), dims)


def test_classification():
    task = ClassificationTask("fruit", TEXTS[:180], LABELS[:180], TEXTS[180:], LABELS[180:])
    found = evaluate("hashing:64", task, dims=[4, 16]).tasks[0]
    assert found.main == "accuracy" and found.counts == {"texts": 180, "test_texts": 60, "classes": 7}
    sure = 0
    for dims in (4, 16, 64):
        train, test = encoded(TEXTS[:180], dims), encoded(TEXTS[180:], dims)
        regression = LogisticRegression(max_iter=1000).fit(train, LABELS[:180]).score(test, LABELS[180:])
        squares = ((test[:, None] - train[None]) ** 2).sum(axis=2)
        knn = KNeighborsClassifier(5, metric="precomputed").fit(np.zeros((180, 180)), LABELS[:180])
        assert found.at(dims).metrics["accuracy"].value == pytest.approx(regression)
        near = np.sort(squares, axis=1)
        if (near[:, 5] - near[:, 4] > 1e-5).all():  # else who is fifth is anybody's guess
            assert found.at(dims).metrics["knn-accuracy"].value == pytest.approx(knn.score(squares, LABELS[180:]))
            sure += 1
    assert sure
    assert found.at(4).metrics["accuracy"].value < found.at(64).metrics["accuracy"].value


def test_clustering_finds_what_is_there():
    texts = tuple(f"{word} {word} {n % 3}" for word in FRUIT for n in range(20))
    labels = tuple(word for word in FRUIT for _ in range(20))
    clear, mixed = evaluate(
        "hashing:64", [ClusteringTask("clear", texts, labels), ClusteringTask("mixed", TEXTS, LABELS)], dims=[4]
    ).tasks
    assert clear.at(64).metrics["v-measure"].value == pytest.approx(1.0)
    assert clear.counts == {"texts": 120, "classes": 6}
    for dims in (4, 64):
        found = mixed.at(dims).metrics["v-measure"]
        assert found.low < found.value < found.high and found.high - found.low < 0.2
        assert 0.0 < found.value < 0.95


def test_the_v_measure_of_samples_is_scikit_learns():
    draw = np.random.default_rng(2)
    for labels, clusters in (
        (draw.integers(0, 5, 50), draw.integers(0, 7, 50)),
        (np.zeros(50, int), np.zeros(50, int)),
        (draw.integers(0, 3, 50), np.zeros(50, int)),
        (np.arange(50), np.arange(50)),
    ):
        drawn = draw.integers(0, 50, (20, 50))
        ours = v_measures(labels, clusters, drawn)
        theirs = [v_measure_score(labels[one], clusters[one]) for one in drawn]
        assert ours == pytest.approx(theirs, abs=1e-12)
    assert homogeneity_completeness_v_measure(labels, clusters)[2] == pytest.approx(1.0)


def test_sts():
    draw = np.random.default_rng(1)
    first, second = TEXTS[:90], TEXTS[90:180]
    scores = tuple(draw.integers(0, 6, 90).astype(float).tolist())
    found = evaluate("hashing:64", StsTask("s", first, second, scores), dims=[8]).tasks[0]
    for dims in (8, 64):
        cosines = np.einsum("nd,nd->n", encoded(first, dims).astype(float), encoded(second, dims).astype(float))
        metrics = found.at(dims).metrics
        assert metrics["spearman"].value == pytest.approx(stats.spearmanr(cosines, scores).statistic)
        assert metrics["pearson"].value == pytest.approx(stats.pearsonr(cosines, scores).statistic)
        assert metrics["pearson"].low < metrics["pearson"].value < metrics["pearson"].high


def test_correlations_of_samples_are_scipys():
    draw = np.random.default_rng(4)
    one, other = draw.integers(0, 4, (30, 12)).astype(float), draw.normal(size=(30, 12))
    one[0] = 2.0
    told = [0.0, *(stats.pearsonr(a, b).statistic for a, b in zip(one[1:], other[1:], strict=True))]
    assert pearsons(one, other) == pytest.approx(told, abs=1e-12)


def test_sts_where_all_cosines_are_the_same():
    task = StsTask("s", ("apple",) * 3, ("apple",) * 3, (1.0, 2.0, 3.0))
    metrics = evaluate("hashing:64", task).tasks[0].at(64).metrics
    assert metrics["spearman"].value == metrics["pearson"].value == 0.0
    assert metrics["spearman"].retention is None


def test_pairs():
    first, second = TEXTS[:60], TEXTS[60:120]
    alike = tuple(n % 3 == 0 for n in range(60))
    plain, told = evaluate(
        "hashing:64", [PairsTask("plain", first, second), PairsTask("told", first, second, alike)], dims=[8]
    ).tasks
    for dims in (8, 64):
        cosines = np.einsum("nd,nd->n", encoded(first, dims).astype(float), encoded(second, dims).astype(float))
        assert plain.at(dims).metrics["similarity"].value == pytest.approx(cosines.mean())
        together, apart = cosines[np.array(alike)].mean(), cosines[~np.array(alike)].mean()
        values = {name: found.value for name, found in told.at(dims).metrics.items()}
        assert values == pytest.approx({"similarity": together, "similarity-of-others": apart, "gap": together - apart})
    kept = plain.at(8).metrics["similarity"]
    assert kept.retention == pytest.approx(kept.value / plain.at(64).metrics["similarity"].value)


def test_the_bootstrap_has_the_width_of_theory():
    values = np.random.default_rng(7).normal(3.0, 2.0, 400)
    drawn = means(values, Draws(400, times=4000))
    assert drawn.std() == pytest.approx(values.std() / 20, rel=0.05)
    low, high = stats.norm.interval(0.95, values.mean(), values.std() / 20)
    found = measure(float(values.mean()), drawn, float(values.mean()), drawn)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)
    assert (found.retention_low, found.retention_high) == (1.0, 1.0)


def test_draws_do_not_depend_on_how_they_are_cut():
    one = Draws(37, times=50).of(lambda drawn: drawn[:, 5].astype(float))
    cut = Draws(37, times=50).of(lambda drawn: drawn[:, 5].astype(float), width=2**18)
    assert one.tolist() == cut.tolist() and len(set(one.tolist())) > 10


def test_intervals_cover_what_they_should():
    """Of 200 samples whose true mean is known, about 95 % have it between their bounds."""
    draw = np.random.default_rng(11)
    inside = 0
    for _ in range(200):
        values = (draw.random(150) < 0.3).astype(float)
        found = measure(values.mean(), means(values, Draws(150, times=400)), 1.0, np.ones(400))
        inside += found.low <= 0.3 <= found.high
    assert 180 <= inside <= 199
