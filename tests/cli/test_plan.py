"""``mrl plan``, and what ``mrl info`` says of a plan."""

from __future__ import annotations

import json

import pytest

from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.planning import planner
from mrl_retrieval.planning.costs import Costs
from mrl_retrieval.retriever import MatryoshkaRetriever

from .words import texts


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    address = f"faiss:{tmp_path_factory.mktemp('plan') / 'kb'}"
    with MatryoshkaRetriever(encoder=HashingEncoder(), backend=address, coarse_dims=64) as retriever:
        retriever.index(texts(0, 2000))
    return address


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text("\n".join(texts(5000, 5500)), encoding="utf-8")
    return path


@pytest.fixture
def dear(monkeypatch):
    monkeypatch.setattr(planner, "timed", lambda *_: Costs((10, 2000), (1e-3, 9e-3), 1.0))


@pytest.mark.usefixtures("dear")
def test_a_plan_is_printed_kept_and_shown(mrl, uri, questions):
    assert "plan " not in mrl("info", uri).out
    dry = mrl("plan", uri, "--queries", questions, "--target-recall", "0.8", "--dry-run")
    assert (dry.status, dry.err) == (0, "") and dry.out.splitlines()[-1] == "nothing was kept"
    assert "plan " not in mrl("info", uri).out
    done = mrl("plan", uri, "--queries", questions, "--target-recall", "0.8")
    assert (done.status, done.err) == (0, "")
    first, found, *rest = done.out.splitlines()
    assert "candidates by 64 dims hold recall@10 of 0.8 with confidence 0.95." in first
    assert found.startswith("found 0.") and "ms a search, 1000.00 ms an exact one" in found
    assert any(line.split()[:2] == ["64", "(now)"] for line in rest) and any("64, 128" in line for line in rest)
    assert rest[-1].startswith("kept: ") and rest[-2].startswith("measured on 500 given queries at 2,000 rows on 20")
    shown = mrl("info", uri).out
    assert f"{first.split()[0].replace(',', '')} candidates for recall@10 of 0.8 with confidence 0.95" in shown
    assert "measured on 500 queries at 2,000 rows on 20" in shown and "out of date" not in shown
    with MatryoshkaRetriever.open(uri, encoder=HashingEncoder()) as retriever:
        retriever.index(texts(7000, 8500))
    assert "out of date: it was made at 2,000 rows, there are 3,500 now" in mrl("info", uri).out
    value = json.loads(mrl("info", uri, "--json").out)["plan"]
    assert value["target_recall"] == 0.8 and value["source"] == "given"


@pytest.mark.usefixtures("dear")
def test_json_and_documents_as_queries(mrl, uri):
    value = json.loads(mrl("plan", uri, "--target-recall", "0.7", "--k", "5", "--dry-run", "--json").out)
    assert (value["k"], value["source"], value["verdict"], value["stored"]) == (5, "documents", "planned", False)
    told = mrl("plan", uri, "--target-recall", "0.7", "--k", "5", "--dry-run").out
    assert "documents that stood for queries" in told and "which are easier than questions" in told


@pytest.mark.usefixtures("dear")
def test_an_answer_that_is_no_setting_has_a_status_of_its_own(mrl, questions, tmp_path, monkeypatch):
    monkeypatch.setattr(planner, "MOST_CANDIDATES", 10)
    address = f"faiss:{tmp_path / 'kb'}"
    with MatryoshkaRetriever(encoder=HashingEncoder(), backend=address, coarse_dims=4) as retriever:
        retriever.index(texts(0, 500))
    done = mrl("plan", address, "--queries", questions)
    assert done.status == 3 and done.out.startswith("No setting reaches") and "nothing was kept" in done.out


def test_what_cannot_be_used(mrl, uri, questions, tmp_path):
    for arguments, status, words in (
        (["--target-recall", "1"], 2, "expected a share between 0 and 1"),
        (["--budget", "money"], 2, "invalid choice"),
        (["--queries", tmp_path / "nowhere"], 1, "cannot be read"),
        (["--queries", questions, "--target-recall", "0.999"], 1, "needs 3,822 at least"),
        (["--queries", questions, "--k", "9999"], 1, "k=9999 is beyond"),
    ):
        done = mrl("plan", uri, *arguments)
        assert done.status == status and words in done.err and len(done.err.splitlines()) == 1
