"""Drift: alarms without one are as rare as promised; real questions of another kind are noticed in one window."""

import gzip
import json

import numpy as np
import pytest

from benchmarks.datasets import DATA
from mrl_retrieval import load_encoder
from mrl_retrieval.errors import InvalidInput
from mrl_retrieval.matryoshka import normalize, prefix
from mrl_retrieval.monitoring.drift import QueryDrift

from .common import vectors


def checks(drift, prefixes):
    return [check for row in prefixes if (check := drift.add(row)) is not None]


def clusters(rng, count, dim=16):
    """Vectors of a mixture, which look like nothing that has a simple null distribution."""
    centres = np.random.default_rng(1).standard_normal((5, dim))
    return normalize(3 * centres[rng.integers(0, 5, count)] + rng.standard_t(3, (count, dim)))


def test_false_alarms_are_as_rare_as_promised():
    rng, level, runs = np.random.default_rng(0), 0.05, 400
    alarms = 0
    for run in range(runs):
        (check,) = checks(QueryDrift(60, 40, level, seed=run), clusters(rng, 100))
        alarms += check.drifted
    assert 0 < alarms / runs <= level + 3 * np.sqrt(level * (1 - level) / runs)


def test_other_means_and_other_spreads_are_noticed_and_what_is_usual_can_be_set_anew():
    rng = np.random.default_rng(0)
    for shift, spread in ((0.5, 1.0), (0.0, 0.3)):
        usual, other = (rng.standard_normal((800, 16)) + 1 for _ in range(2))
        changed = normalize((other - 1) * spread + 1 + shift * np.sign(np.arange(16) - 8))
        drift = QueryDrift(400, 200, 0.001, seed=0)
        before, after = checks(drift, normalize(usual)), checks(drift, changed)
        assert [c.drifted for c in before] == [False] * 2 and [c.drifted for c in after] == [True] * 4
        assert all(c.distance > 2 * c.expected and (c.reference, c.recent) == (400, 200) for c in after)
        drift.accept()
        again = checks(drift, changed)
        assert again and not any(c.drifted for c in again)


def test_equal_queries_are_no_drift():
    drift = QueryDrift(20, 10, 0.01, seed=0)
    (check,) = checks(drift, np.tile(vectors(1, 8), (30, 1)))
    assert not check.drifted and check.distance == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def questions():
    """Prefixes of 64 dims of real questions, by set."""
    if not DATA.is_dir():
        pytest.skip("needs ../shared/data")
    pytest.importorskip("wordllama", reason="wordllama is not installed: pip install 'mrl-retrieval[wordllama]'")
    encoder, found = load_encoder("wordllama"), {}
    for name, file in (("scifact", "queries"), ("scifact-train", "train_queries"), ("quora", "queries")):
        with gzip.open(DATA / name.removesuffix("-train") / f"{file}.jsonl.gz", "rt", encoding="utf-8") as lines:
            found[name] = prefix(encoder.encode_query([json.loads(line)["text"] for line in lines]), 64)
    return found


def test_real_questions_of_one_kind_do_not_drift_and_of_another_do(questions):
    rng, level = np.random.default_rng(0), 0.01
    alarms = found = slow = 0
    for run in range(60):
        usual = rng.permutation(questions["quora"])[:600]
        (check,) = checks(QueryDrift(400, 200, level, seed=run), usual)
        alarms += check.drifted
        other = rng.permutation(questions["scifact"])[:200]
        (check,) = checks(QueryDrift(400, 200, 0.001, seed=run), np.concatenate([usual[:400], other]))
        found += check.drifted
        # No more than a fifth of the questions are of the other kind.
        mixed = np.concatenate([usual[:400], other[:40], usual[440:]])
        slow += checks(QueryDrift(400, 200, 0.001, seed=run), mixed)[0].drifted
    assert alarms <= 60 * level + 3 * np.sqrt(60 * level) and found == 60 and slow >= 50


@pytest.mark.parametrize("level", [0, 1, 1e-6, -1, float("nan"), "0.1", None, True])
def test_levels_that_are_none(level):
    with pytest.raises(InvalidInput, match="expected a chance"):
        QueryDrift(level=level)
