"""``mrl learn`` and ``mrl search --recall``."""

from __future__ import annotations

import json

import pytest

from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.retriever import MatryoshkaRetriever

from .words import texts


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    address = f"faiss:{tmp_path_factory.mktemp('learn') / 'kb'}"
    with MatryoshkaRetriever(encoder=HashingEncoder(), backend=address, coarse_dims=64) as retriever:
        retriever.index(texts(0, 3000))
    return address


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text("\n\n".join(texts(5000, 5200)) + "\n", encoding="utf-8")
    return path


def test_what_was_learned_is_used(mrl, uri, questions):
    refused = mrl("search", uri, "river stone", "--recall", "0.8")
    assert refused.status == 1 and "'mrl learn'" in refused.err
    done = mrl("learn", uri, "--queries", questions)
    assert (done.status, done.err) == (0, "")
    head, *rows, deepest, source = done.out.splitlines()
    assert head.split() == ["asked", "held", "documents", "scanned", "candidates"]
    assert rows and all(float(row.split()[1]) >= float(row.split()[0]) for row in rows)
    assert deepest.startswith("the deepest holds 0.")
    assert source.startswith("learned from 200 questions, for 10 hits at most, at faiss:")
    found = mrl("search", uri, "river stone", "--recall", "0.8", "--top-k", 3)
    assert found.status == 0 and "3 hits" in found.out


def test_json_has_every_depth(mrl, uri):
    value = json.loads(mrl("learn", uri, "--top-k", 5, "--json").out)
    recalls = [step["recall"] for step in value["steps"]]
    assert value["k"] == 5 and value["address"] == uri and recalls == sorted(recalls)


def test_what_cannot_be_used(mrl, uri, questions, tmp_path):
    for text, words in (("", "has no line that is not empty"), ("one\ntwo", "at least"), (b"\xff\xfe\x00", "not text")):
        path = tmp_path / "file"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        done = mrl("learn", uri, "--queries", path)
        assert done.status == 1 and words in done.err and len(done.err.splitlines()) == 1
    done = mrl("learn", uri, "--queries", tmp_path / "nowhere")
    assert done.status == 1 and "No such file" in done.err
    done = mrl("learn", f"faiss:{tmp_path / 'none'}", "--queries", questions)
    assert done.status == 1 and "no collection" in done.err
    for arguments in (("--exact",), ("--coarse-top-k", 5)):
        done = mrl("search", uri, "x", "--recall", "0.9", *arguments)
        assert done.status == 1 and "leave out --exact" in done.err
    for share in ("0", "1", "nan", "x"):
        done = mrl("search", uri, "x", "--recall", share)
        assert done.status == 2 and "between 0 and 1" in done.err


def test_other_databases_do_not_learn(mrl, tmp_path):
    address = f"memory:learn-{tmp_path.name}"

    with MatryoshkaRetriever(encoder=HashingEncoder(), backend=address) as retriever:
        retriever.index(texts(0, 5))
        done = mrl("learn", address)
    assert done.status == 1 and "does not learn" in done.err
