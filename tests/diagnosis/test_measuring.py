"""Diagnoses against plain NumPy, and the advice that follows from them."""

import numpy as np
import pytest

from mrl_retrieval import as_encoder, diagnose, load_encoder
from mrl_retrieval.diagnosis import DimsReport, TruncationReport, diagnose_vectors
from mrl_retrieval.errors import DimensionError, EncoderError, InvalidInput
from mrl_retrieval.matryoshka import normalize, prefix
from mrl_retrieval.metrics import coverage, ndcg_at_k
from mrl_retrieval.rotation_fitting import fit_rotation
from mrl_retrieval.scoring import exact_search


def vectors(n, dim=24, seed=0, turned=True):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(99).standard_normal((dim, dim)))[0] if turned else np.eye(dim)
    return normalize((rng.standard_normal((n, dim)) * np.arange(1, dim + 1) ** -0.8) @ basis.T)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("dims", [2, 8, 24])
def test_every_number_is_that_of_the_oracle(dims, rotated):
    documents, queries = vectors(400), vectors(30, seed=1)
    ids = [f"d{i:03}" for i in range(400)]
    rng = np.random.default_rng(2)
    judged = [{ids[i]: float(rng.integers(0, 3)) for i in rng.integers(0, 400, 4)} for _ in queries]
    report = diagnose_vectors(documents, queries, ids=ids, judgements=judged, dims=[2, 8], k=5, candidates=40)
    row = report.at(dims, rotated=rotated)
    turn = fit_rotation(None, documents) if rotated and dims < 24 else None
    short = [prefix(side if turn is None else turn.apply(side), dims) for side in (queries, documents)]
    truth = [found for found, _ in exact_search(queries, documents, ids, 5)]
    near = [found for found, _ in exact_search(*short, ids, 40)]
    covered = [coverage(found, true, 5) for found, true in zip(near, truth, strict=True)]
    assert row.coverage == pytest.approx(np.mean(covered), abs=1e-9)
    assert row.error == pytest.approx(np.std(covered, ddof=1) / 30**0.5, abs=1e-9)
    some = [i for i, gains in enumerate(judged) if max(gains.values()) > 0]
    assert row.ndcg == pytest.approx(np.mean([ndcg_at_k(near[i], judged[i], 5) for i in some]))
    places = {id: i for i, id in enumerate(ids)}
    best = [sorted(near[i], key=lambda one: -float(documents[places[one]] @ queries[i])) for i in range(30)]
    assert row.two_stages == pytest.approx(np.mean([ndcg_at_k(best[i], judged[i], 5) for i in some]))
    assert report.ndcg == pytest.approx(np.mean([ndcg_at_k(truth[i], judged[i], 5) for i in some]))
    assert row.bytes == 2 * dims and row.rotated is (rotated and dims < 24)


def test_the_full_length_loses_nothing():
    report = diagnose_vectors(vectors(100), vectors(5, seed=1))
    assert [row.dims for row in report.rows][-1] == 24 and report.rows[-1].coverage == 1
    assert report.ndcg is None and report.rows[0].ndcg is None


def test_without_queries_documents_are_taken_out_of_the_corpus():
    report = diagnose_vectors(vectors(1000), dims=[12])
    assert (report.documents, report.queries, report.pseudo_queries) == (900, 100, True)
    assert report.at(12).coverage < 1  # a query that were in the corpus would find itself
    assert diagnose_vectors(vectors(20)).queries == 2


def test_a_rotation_is_advised_where_it_helps_and_only_there():
    queries = vectors(100, seed=1)
    turned = diagnose_vectors(vectors(3000), queries, dims=[4, 8, 16])
    assert turned.best.rotated and turned.advice.startswith("Rotate, and search 8 of 24 dims")
    assert turned.at(8).coverage < 0.9 < turned.at(8, rotated=True).coverage
    straight = diagnose_vectors(vectors(3000, turned=False), vectors(100, seed=1, turned=False), dims=[4, 8, 16])
    assert not straight.best.rotated and "no rotation needed" in straight.advice
    flat = np.random.default_rng(0)
    noise = diagnose_vectors(flat.standard_normal((3000, 32)), flat.standard_normal((50, 32)), dims=[4, 8])
    assert noise.best is None and noise.advice.startswith("Do not truncate: even")
    assert diagnose_vectors(vectors(100), dims=[24]).advice == "Do not truncate: search all 24 dims."


def test_texts():
    encoder = load_encoder("hashing:64")
    texts = [f"{a} {b} document number {i}" for i in range(20) for a in ("red", "blue") for b in ("cat", "dog", "cow")]
    seen = []
    report = diagnose(
        "hashing:64", texts, queries=["a red cat", "a blue cow"], batch_size=50, progress=lambda done, of: seen.append(done)
    )  # fmt: skip
    assert report == diagnose(encoder, texts, queries=["a red cat", "a blue cow"])
    assert report.encoder == "hashing:64" and report.dim == 64 and seen[-1] == 122
    by_hand = diagnose_vectors(encoder.encode_document(texts), encoder.encode_query(["a red cat", "a blue cow"]))
    assert [row.coverage for row in report.rows] == [row.coverage for row in by_hand.rows]


@pytest.mark.parametrize("wrong", [{"k": 0}, {"candidates": 9}, {"dims": [0]}, {"judgements": [{}]}])
def test_what_is_wrong_is_said_before_anything_is_encoded(wrong):
    def encode(texts):
        assert len(texts) < 50, "the corpus was encoded"
        return np.ones((len(texts), 8))

    with pytest.raises(InvalidInput):
        diagnose(as_encoder(encode, name="mine"), ["text"] * 50, batch_size=50, **wrong)


def test_few_texts_are_said_to_be_few(caplog):
    texts = [f"document number {i}" for i in range(90)]
    diagnose("hashing:8", texts)
    assert "fitted on" not in caplog.text
    diagnose("hashing:8", texts[:88])
    assert "fitted on 80 vectors" not in caplog.text
    diagnose("hashing:8", texts[:87])
    assert "a rotation of 8 dims was fitted on 79 vectors: with fewer than 80" in caplog.text


def test_json_has_everything():
    report = diagnose_vectors(vectors(100), dims=[8])
    told = report.to_json()
    assert told["advice"] == report.advice and [row["dims"] for row in told["rows"]] == [8, 8, 24]
    assert {len(row) for row in report.table()} == {5}


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: diagnose("hashing", ["few"] * 19), InvalidInput, "19 documents"),
        (lambda: diagnose("hashing", ["a"] * 20, queries=[]), InvalidInput, "no queries"),
        (lambda: diagnose("hashing", ["a"] * 20, judgements=[{}]), InvalidInput, "1 judgements .* no queries"),
        (lambda: diagnose("hashing", ["a"] * 20, queries=["q"], judgements=[{}]), InvalidInput, "no ids"),
        (lambda: diagnose(lambda texts: [[1, 2]], ["a"] * 20), EncoderError, "1 vectors for 2"),
        (lambda: diagnose_vectors(vectors(50), k=10, candidates=9), InvalidInput, "cannot hold"),
        (lambda: diagnose_vectors(vectors(50), k=0), InvalidInput, "k"),
        (lambda: diagnose_vectors(vectors(50), dims=[0]), DimensionError, "from 1 to 24"),
        (lambda: diagnose_vectors(vectors(50), dims=[8]).at(9), InvalidInput, "8, 24"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_a_plot_is_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'mrl-retrieval[plot]'")
    from mrl_retrieval.diagnosis.plot import save_plot

    row = DimsReport(8, False, 0.9, 0.01, 0.4, 0.5, 16)
    full = DimsReport(16, False, 1, 0, 0.6, 0.6, 32)
    for ndcg in (None, 0.6):
        report = TruncationReport("x", 16, 100, 10, False, 10, 100, ndcg, (row, full))
        save_plot(report, tmp_path / "plot.png")
        assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG") and (
            tmp_path / "plot.png"
        ).stat().st_size > 9000
    with pytest.raises(InvalidInput, match=r"name it \.png"):
        save_plot(report, tmp_path / "plot.xyz")
