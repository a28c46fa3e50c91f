"""``mrl reindex``."""

from __future__ import annotations

import pytest

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
