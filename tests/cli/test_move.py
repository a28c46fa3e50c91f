"""``mrl copy``."""

from __future__ import annotations

import pytest

from mrl_retrieval.retriever import MatryoshkaRetriever


@pytest.fixture
def filled(index, jsonl):
    return index(jsonl("a.jsonl", *({"id": str(i), "text": f"text number {i}"} for i in range(20))))


def test_copy_and_copy_again(mrl, uri, filled, tmp_path):
    target = f"faiss:{tmp_path}/kb?collection=b"
    done = mrl("copy", uri, target, "--target-option", "fine_dtype=float32", "--batch-size", "7")
    assert (done.status, done.err) == (0, "")
    assert f"{target} holds 20 rows, 20 with a vector" in done.out and "20 written" in done.out
    assert "0 written, 0 removed" in mrl("copy", uri, target).out
    with MatryoshkaRetriever.open(target) as retriever:
        assert retriever.search("text number 7", 1).ids == ["7"]
    found = mrl("index", tmp_path / "a.jsonl", "--to", target)
    assert "20 unchanged" in found.out


def test_precision(mrl, uri, filled, tmp_path):
    refused = mrl("copy", uri, f"faiss:{tmp_path}/kb")
    assert refused.status == 1 and "float16" in refused.err and "--allow-lossy" in refused.err
    assert refused.err.count("\n") == 1
    done = mrl("copy", uri, f"faiss:{tmp_path}/kb", "--allow-lossy")
    assert done.status == 0 and done.out.startswith("note: ") and "rounded" in done.out


def test_what_cannot_be_copied(mrl, uri, filled, tmp_path):
    for arguments, words in (
        (["memory:nothing-here", f"chroma:{tmp_path}/x"], "no collection at memory:nothing-here"),
        ([uri, uri], "same collection"),
        ([uri, "nowhere:x"], "unknown backend 'nowhere'"),
        ([uri, f"faiss:{tmp_path}/x", "--target-option", "colour=red"], "colour"),
    ):
        done = mrl("copy", *arguments)
        assert done.status == 1 and words in done.err and done.err.count("\n") == 1, done.err
    assert mrl("copy", uri, "memory:x", "--target-option", "red").status == 2
    assert not (tmp_path / "x").exists()


def test_progress(mrl, uri, filled):
    assert "20 / 20 rows" in mrl("copy", uri, f"{uri}?collection=c", "--progress").err
