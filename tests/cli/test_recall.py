"""``mrl recall``: what is found, what was lost, and what cannot be measured."""

from __future__ import annotations

import json

import pytest

from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.retriever import MatryoshkaRetriever

from .words import texts


@pytest.fixture
def filled(uri):
    with MatryoshkaRetriever(encoder=HashingEncoder(), backend=uri, coarse_dims=8) as retriever:
        retriever.index(texts(0, 600), range(600), [{"even": n % 2 == 0} for n in range(600)])
        yield uri


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text("\n\n".join(texts(5000, 5040)) + "\n", encoding="utf-8")
    return path


def test_what_was_found_and_what_was_lost(mrl, filled, questions):
    done = mrl("recall", filled, "--queries", questions, "--coarse-top-k", 20, "--top-k", 5)
    assert (done.status, done.err) == (0, "")
    head, stages, *lost, last = done.out.splitlines()
    assert head.startswith("recall@5 0.") and ", with 95 % confidence from 0." in head
    assert stages == "20 by 8 dims → 5 by 256 dims"
    assert lost[0].startswith("  0.") and lost[1].startswith("        lost 0.") and len(lost) <= 12
    assert last.startswith(f"40 questions at {filled}, as asked; ")


def test_json_and_documents_that_stand_for_questions(mrl, filled):
    value = json.loads(mrl("recall", filled, "--n", 20, "--filter", '{"even": true}', "--json").out)
    assert value["address"] == filled and (value["n"], value["k"]) == (20, 10) and value["pseudo_queries"]
    assert value["filter"] == "even $eq" and value["lower"] <= value["mean"] <= value["upper"]
    assert value["stages"][-1] == [256, 10] and value["changed"] == value["empty"] == 0
    assert "documents stood for questions, which is easier" in mrl("recall", filled, "--n", 20).out


def test_what_cannot_be_used(mrl, filled, questions, tmp_path):
    few = tmp_path / "few.txt"
    few.write_text("one\ntwo\n", encoding="utf-8")
    for arguments, words in (
        (("--queries", few), "2 queries say nothing of recall, expected 10 at least"),
        (("--n", 5), "5 queries say nothing"),
        (("--queries", tmp_path / "nowhere"), "No such file"),
        (("--filter", '{"even": 3}'), "holds 0 rows with a vector that match the filter"),
        (("--recall", 0.9), "does not learn"),
        (("--top-k", 20, "--coarse-top-k", 10), "is below"),
    ):
        done = mrl("recall", filled, *arguments)
        assert done.status == 1 and words in done.err and len(done.err.splitlines()) == 1, arguments
    assert mrl("recall", filled, "--recall", 2).status == 2
    assert "no collection" in mrl("recall", "memory:nothing-here").err
