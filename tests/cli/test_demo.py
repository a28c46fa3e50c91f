"""``mrl demo`` and the corpus it ships with."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mrl_retrieval.cli import demo, demo_data
from mrl_retrieval.cli.demo_measure import CANDIDATES, LADDER, measure_quality, timed_index
from mrl_retrieval.errors import MissingExtra, MRLError
from mrl_retrieval.matryoshka import prefix
from mrl_retrieval.retriever import MatryoshkaRetriever
from mrl_retrieval.scoring import exact_search

ROOT = Path(__file__).resolve().parents[2]
FULL = ROOT.parent / "shared" / "data" / "medquad"


def test_the_corpus_is_whole_and_small():
    data = demo_data.load_demo_data()
    assert len(data.texts) == len(set(data.ids)) == 6000
    assert len(data.questions) == 500
    assert set(data.judged) == set(data.questions)
    assert {id for gains in data.judged.values() for id in gains} <= set(data.ids)
    assert all(len(text) >= 200 for text in data.texts)
    assert set(demo.SAMPLES) <= set(data.questions)
    folder = ROOT / "examples" / "medquad"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000
    assert "CC BY 4.0" in (folder / "NOTICE.md").read_text(encoding="utf-8")


def test_a_sample_is_spread_and_never_too_large():
    data = demo_data.load_demo_data()
    assert data.sample(10_000) == list(data.questions)
    assert len(set(data.sample(7))) == 7
    assert data.sample(1) == list(data.questions)[:1]


@pytest.mark.skipif(not FULL.is_dir(), reason="shared/data is not here: the corpus cannot be built again")
def test_the_corpus_is_what_its_script_makes(tmp_path):
    subprocess.run(
        [sys.executable, ROOT / "examples" / "build_medquad.py", FULL, tmp_path], check=True, capture_output=True
    )
    for path in tmp_path.iterdir():
        shipped = ROOT / "examples" / "medquad" / path.name
        # The text is compared and not the gzip bytes, which are zlib's choice.
        read = gzip.decompress if path.suffix == ".gz" else bytes
        assert (
            hashlib.sha256(read(path.read_bytes())).hexdigest()
            == hashlib.sha256(read(shipped.read_bytes())).hexdigest()
        )


def test_an_installed_package_brings_its_own_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_data, "files", lambda package: tmp_path)
    installed = tmp_path / "examples_data" / "medquad"
    installed.mkdir(parents=True)
    rows = {"corpus.jsonl.gz": [{"_id": "a", "text": "answer"}], "queries.jsonl.gz": [{"_id": "q", "text": "question"}]}
    for name, lines in rows.items():
        (installed / name).write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    (installed / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\n")
    data = demo_data.load_demo_data()
    assert (data.ids, data.texts, data.questions, data.judged) == (
        ["a"],
        ["answer"],
        {"q": "question"},
        {"q": {"a": 1.0}},
    )


def test_a_corpus_that_is_nowhere(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_data, "files", lambda package: tmp_path)
    monkeypatch.setattr(demo_data, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    with pytest.raises(MRLError, match="reinstall"):
        demo_data.load_demo_data()


def test_output(mrl):
    done = mrl("demo", "--backend", "memory:", "--encoder", "hashing", "--queries", 20)
    assert (done.status, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) <= 100
    for part in ("6,000 answers", "hashing", "documents/s", "recall@10", "nDCG@10", "coverage", "per document", "256 B",
                 "64 → 256", "stage: coarse", "stage: rerank", "exact, every vector", "64: 0."):  # fmt: skip
        assert part in done.out, part


def test_the_default_leaves_nothing_behind(mrl, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = mrl("demo", "--queries", 5)
    assert done.status == 0, done.err
    assert list(tmp_path.iterdir()) == []
    if importlib.util.find_spec("faiss"):
        assert "into faiss" in done.out


def test_a_backend_that_is_given_is_kept_and_can_be_asked(mrl, uri):
    assert mrl("demo", "--backend", uri, "--encoder", "hashing", "--queries", 5).status == 0
    assert json.loads(mrl("info", uri, "--json").out)["rows"] == 6000
    assert mrl("search", uri, "What is Tourette syndrome?").status == 0
    done = mrl("demo", "--backend", uri, "--encoder", "hashing")
    assert done.status == 1
    assert f"there is a collection at {uri} already" in done.err


def test_it_works_without_extras_and_says_so(mrl, monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)

    def missing(name):
        raise MissingExtra("the faiss backend", "faiss")

    monkeypatch.setattr(demo, "backend_class", missing)
    done = mrl("demo", "--queries", 5)
    assert done.status == 0, done.err
    assert "wordllama is not installed (pip install 'mrl-retrieval[wordllama]')" in done.out
    assert "faiss is not installed (pip install 'mrl-retrieval[faiss]')" in done.out
    assert "into memory" in done.out


def test_the_figures_equal_the_oracle():
    data = demo_data.load_demo_data()
    part = demo_data.DemoData(data.ids[:1500], data.texts[:1500], data.questions, data.judged)
    asked = part.sample(12)
    retriever = MatryoshkaRetriever("hashing", "memory:", coarse_dims=64, coarse_top_k=CANDIDATES, final_top_k=10)
    timed_index(retriever, part)
    quality = measure_quality(retriever, part, asked)
    rows = retriever.get(part.ids, vectors=True)
    vectors = np.array([row.vector for row in rows])
    truth = [ids for ids, _ in exact_search(quality.vectors, vectors, part.ids, 10)]
    coarse = [ids for ids, _ in exact_search(prefix(quality.vectors, 64), prefix(vectors, 64), part.ids, max(LADDER))]
    for count, share in zip(LADDER, quality.coverage, strict=True):
        expected = np.mean([len({*best} & {*found[:count]}) / 10 for best, found in zip(truth, coarse, strict=True)])
        assert share == pytest.approx(expected, abs=0.009)  # ties at a boundary may fall either way
    alone, both, exact = quality.rankings
    assert exact.recall == 1.0
    assert both.recall == pytest.approx(quality.coverage[LADDER.index(CANDIDATES)], abs=1e-9)
    assert alone.recall <= both.recall
    assert 0 <= alone.ndcg <= 1
