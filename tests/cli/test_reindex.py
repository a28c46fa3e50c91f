"""``mrl reindex``."""

from __future__ import annotations

import json

import pytest

from mrl_retrieval.registry import open_backend
from mrl_retrieval.retriever import MatryoshkaRetriever


@pytest.fixture
def filled(index, jsonl):
    return index(jsonl("a.jsonl", *({"id": str(i), "text": f"text number {i}"} for i in range(20))))


def test_reindex_and_back(mrl, uri, filled):
    done = mrl("reindex", uri, "--encoder", "hashing:32", "--coarse-dims", "8", "--batch-size", "6")
    assert (done.status, done.err) == (0, "")
    assert "20 rows, 20 encoded" in done.out and "'default.g1'" in done.out
    with MatryoshkaRetriever.open(uri) as retriever:
        assert retriever.manifest is not None and (retriever.manifest.dim, retriever.manifest.coarse_dims) == (32, 8)
    assert "text number 7" in mrl("search", uri, "text number 7", "--top-k", "1").out
    back = mrl("reindex", uri, "--rollback")
    assert back.status == 0 and "'default' now" in back.out
    with MatryoshkaRetriever.open(uri) as retriever:
        assert retriever.manifest is not None and retriever.manifest.dim != 32


def test_generations_are_one_collection(mrl, uri, filled, jsonl):
    for encoder in ("hashing:32", "hashing:48"):
        assert mrl("reindex", uri, "--encoder", encoder).status == 0
    (one,) = json.loads(mrl("list", uri, "--json").out)
    assert (one["collection"], one["rows"], one["dims"]["full"]) == ("default", 20, 48)
    info = json.loads(mrl("info", uri, "--json").out)
    assert info["rows"] == 20 and info["dims"]["full"] == 48 and info["origin"]["base"] == "default"
    assert "made from" in mrl("info", uri).out
    again = mrl("index", jsonl("a.jsonl", {"id": "0", "text": "changed"}), "--to", uri)
    assert again.status == 0 and "1 changed" in again.out and "19 dropped" in again.out
    assert mrl("search", uri, "changed", "--top-k", "1", "--json").status == 0
    with MatryoshkaRetriever(encoder=None, backend=f"{uri}?collection=default.g7") as mine:
        mine.index(["a"], vectors=[[1.0, 2.0]])  # looks like a generation, and is none
    dropped = mrl("drop", uri, "--yes")
    assert dropped.status == 0 and "(1 row)" in dropped.out
    (left,) = json.loads(mrl("list", uri, "--json").out)
    assert left["collection"] == "default.g7"


def test_the_same_encoder_again(mrl, uri, filled):
    done = mrl("reindex", uri, "--encoder", "hashing:32")
    again = mrl("reindex", uri, "--encoder", "hashing:32")
    assert (done.status, again.status) == (0, 0) and "already" in again.out and "--force" in again.out
    assert "20 encoded" in mrl("reindex", uri, "--encoder", "hashing:32", "--force").out


def test_the_generation_in_use_is_not_dropped_by_its_own_name(mrl, uri, filled):
    for encoder in ("hashing:32", "hashing:48"):
        assert mrl("reindex", uri, "--encoder", encoder).status == 0
    refused = mrl("drop", f"{uri}?collection=default.g2", "--yes")
    assert refused.status == 1 and "holds the rows of 'default'" in refused.err and refused.err.count("\n") == 1
    assert mrl("drop", f"{uri}?collection=default.g1", "--yes").status == 0
    assert mrl("search", uri, "text number 7", "--top-k", "1").status == 0
    gone = mrl("reindex", uri, "--rollback")
    assert gone.status == 1 and "no generation before" in gone.err


def test_a_generation_in_use_that_is_gone(mrl, uri, filled):
    assert mrl("reindex", uri, "--encoder", "hashing:32").status == 0
    with open_backend(f"{uri}?collection=default.g1") as one:
        one.drop()
    for command in (("search", uri, "x"), ("info", uri), ("list", uri)):
        done = mrl(*command)
        assert done.status == 1 and "were in its generation" in done.err + done.out, command
    assert mrl("reindex", uri, "--rollback").status == 0
    assert mrl("search", uri, "text number 7", "--top-k", "1").status == 0


def test_what_is_refused(mrl, uri, filled):
    assert mrl("reindex", uri).status == 2
    assert mrl("reindex", uri, "--rollback", "--encoder", "hashing").status == 2
    for arguments, words in (
        ([uri, "--rollback"], "no generation before"),
        ([f"{uri}?collection=none", "--encoder", "hashing"], "no collection"),
        ([uri, "--encoder", "nonsense"], "unknown encoder"),
        ([uri, "--rollback", "--fine-dims", "3"], "--fine-dims"),
    ):
        done = mrl("reindex", *arguments)
        assert done.status == 1 and words in done.err and done.err.count("\n") == 1, done.err
