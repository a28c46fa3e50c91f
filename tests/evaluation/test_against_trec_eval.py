"""Our metrics are trec_eval's to the ninth digit: random runs with ties, negative gains, and queries nobody judged."""

import random

import numpy as np
import pytest

from mrl_retrieval.metrics import judged_recall_at_k, ndcg_at_k, reciprocal_rank, trec_order

pytest.importorskip("pytrec_eval", reason="pytrec_eval is not installed: pip install pytrec-eval-terrier")

KS = (1, 3, 10, 50)


def case(seed):
    """Judgements and a run: scores from so few values that most tie, some only as float32; ids that sort oddly."""
    draw = random.Random(seed)
    ids = [draw.choice(("d", "D", "é", "", "漢", "1")) + str(n) for n in range(draw.randint(1, 120))]
    values = [draw.choice((0.0, -1.5, 0.25, 1 / 3, 1 / 3 + 1e-12, 0.1, 0.1 + 1e-9, 1e6)) for _ in range(9)]
    qrels, run = {}, {}
    for n in range(12):
        gains = draw.choice([(-2, -1, 0), (0, 1), (-1, 0, 1, 2, 5), (1,)])
        if n != 3:
            qrels[f"q{n}"] = {id: draw.choice(gains) for id in draw.sample(ids, draw.randint(1, len(ids)))}
        if n != 5:
            found = draw.sample(ids, draw.randint(1, len(ids)))
            run[f"q{n}"] = {id: draw.choice(values) if draw.random() < 0.8 else draw.random() for id in found}
    return qrels, run


@pytest.mark.parametrize("seed", range(40))
def test_pytrec_eval(seed):
    import pytrec_eval

    qrels, run = case(seed)
    cuts = ",".join(map(str, KS))
    told = pytrec_eval.RelevanceEvaluator(qrels, {f"ndcg_cut.{cuts}", f"recall.{cuts}", "recip_rank"}).evaluate(run)
    assert set(told) == set(qrels) & set(run)
    for query, values in told.items():
        found = trec_order(run[query])
        for k in KS:
            assert ndcg_at_k(found, qrels[query], k) == pytest.approx(values[f"ndcg_cut_{k}"], abs=1e-9)
            assert judged_recall_at_k(found, qrels[query], k) == pytest.approx(values[f"recall_{k}"], abs=1e-9)
        assert reciprocal_rank(found, qrels[query]) == pytest.approx(values["recip_rank"], abs=1e-9)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_ir_measures(seed, ties):
    ir_measures = pytest.importorskip("ir_measures", reason="ir_measures is not installed: pip install ir-measures")
    qrels, run = case(100 + seed)
    names = ["RR", "R@10", *(f"nDCG@{k}" for k in KS)]
    if not ties:  # its RR@k is MS MARCO's script, which breaks ties by id ascending, and not trec_eval
        names += [f"RR@{k}" for k in KS]
        draw = random.Random(seed)
        run = {
            query: dict(zip(found, draw.sample(range(999), len(found)), strict=True)) for query, found in run.items()
        }
    ours = {"RR": reciprocal_rank, "R": judged_recall_at_k, "nDCG": ndcg_at_k}
    checked = 0
    for told in ir_measures.iter_calc([ir_measures.parse_measure(name) for name in names], qrels, run):
        # It counts a query without an answer as 0, as we do a ranking without hits.
        found = trec_order(run.get(told.query_id, {}))
        name, _, k = str(told.measure).partition("@")
        value = ours[name](found, qrels[told.query_id], int(k or 10**6))
        assert value == pytest.approx(told.value, abs=1e-9), told
        checked += 1
    assert checked >= len(names) * 8


def test_the_rank_order_of_ties_matters():
    scores = {"a": 0.5, "b": 0.5}
    assert trec_order(scores) == ["b", "a"] and reciprocal_rank(["b", "a"], {"a": 1.0}) == 0.5
    assert trec_order({"a": float(np.float32(0.1)), "b": 0.1}) == ["b", "a"]
