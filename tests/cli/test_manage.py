"""``mrl info``, ``mrl list``, ``mrl drop``."""

from __future__ import annotations

import json
import sys

import pytest

from mrl_retrieval.cli import output
from mrl_retrieval.errors import ManifestError
from mrl_retrieval.memory import MemoryBackend
from mrl_retrieval.retriever import MatryoshkaRetriever


@pytest.fixture
def filled(index, jsonl):
    return index(jsonl("a.jsonl", *({"id": str(i), "text": f"text number {i}"} for i in range(5))))


def test_info(mrl, uri, filled):
    done = mrl("info", uri)
    assert done.status == 0
    for part in ("5 (5 with a vector, 0 without)", "coarse 64, fine", "hashing", "mrl-retrieval", "memory", "per row"):
        assert part in done.out


def test_info_as_json(mrl, uri, filled):
    value = json.loads(mrl("info", uri, "--json").out)
    with MatryoshkaRetriever.open(uri) as retriever:
        info = retriever.info()
    assert (value["rows"], value["vectors"]) == (5, 5)
    assert value["dims"] == {"full": info.manifest.dim, "coarse": 64, "fine": info.manifest.fine_dims, "funnel": []}
    assert value["encoder"] == info.manifest.encoder.to_json()
    assert value["bytes"] == dict(info.stats.bytes)
    assert value["bytes_per_row"]["coarse"] == 64 * 4
    assert value["collection_id"] == info.manifest.collection_id


def test_info_needs_no_encoder(mrl, uri, filled, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise ImportError("no such package")

    monkeypatch.setattr("mrl_retrieval.encoders.hashing.from_spec", refuse)
    assert "hashing" in mrl("info", uri).out


def test_info_of_given_vectors_and_of_nothing(mrl, uri):
    with MatryoshkaRetriever(encoder=None, backend=uri) as retriever:
        retriever.index(["a", "b"], ids=["a", "b"], vectors=[[1.0, 0, 0, 0], None])
        assert "none: vectors were given" in mrl("info", uri).out
        assert "2 (1 with a vector, 1 without)" in mrl("info", uri).out
        retriever.delete(["a", "b"])
    assert "0 rows" in mrl("info", uri).out


def test_list(mrl, uri, filled, index, jsonl):
    assert (
        mrl("index", jsonl("b.jsonl", {"text": "x"}), "--to", f"{uri}?collection=second", "--encoder", "hashing").status
        == 0
    )
    done = mrl("list", uri)
    assert done.status == 0
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[0] == ["collection", "rows", "dims", "encoder"]
    assert [(line[0], line[1], line[-1]) for line in lines[1:]] == [
        ("default", "5", "hashing:256"),
        ("second", "1", "hashing:256"),
    ]
    value = json.loads(mrl("list", uri, "--json").out)
    assert [(one["collection"], one["address"], one["rows"]) for one in value] == [
        ("default", uri, 5), ("second", f"{uri}?collection=second", 1)]  # fmt: skip


def test_list_of_nothing(mrl, uri):
    done = mrl("list", uri)
    assert (done.status, done.out) == (0, f"no collections at {uri}\n")
    assert json.loads(mrl("list", uri, "--json").out) == []


def test_a_damaged_collection_is_listed_and_can_be_dropped(mrl, uri, filled, monkeypatch):
    def damaged(self):
        raise ManifestError("the manifest is no JSON")

    monkeypatch.setattr(MemoryBackend, "read_manifest", damaged)
    done = mrl("list", uri)
    assert done.status == 1
    assert "the manifest is no JSON" in done.out
    done = mrl("drop", uri, "--yes")
    assert done.status == 0
    assert "the manifest is no JSON" in done.out
    assert "no collections" in mrl("list", uri).out


def test_drop_asks_on_a_terminal(mrl, uri, filled, monkeypatch):
    class Terminal:
        def __init__(self, answer):
            self.answer = answer

        def isatty(self):
            return True

        def readline(self):
            return self.answer

    for answer in ("", "n\n", "\n", "yess\n"):
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        done = mrl("drop", uri)
        assert (done.status, done.out) == (1, "kept.\n")
        assert f"drop the collection 'default' at {uri} (5 rows)? [y/N]" in done.err
    monkeypatch.setattr(sys, "stdin", Terminal("Y\n"))
    done = mrl("drop", uri)
    assert (done.status, done.out) == (0, f"dropped {uri} (5 rows).\n")


def test_drop_without_a_terminal(mrl, uri, filled):
    done = mrl("drop", uri)
    assert done.status == 1
    assert "say --yes" in done.err
    assert mrl("info", uri).status == 0
    assert mrl("drop", uri, "--yes").status == 0
    done = mrl("drop", uri, "--yes")
    assert done.status == 1
    assert done.err.startswith(f"mrl: there is no collection at {uri}")


def test_drop_leaves_the_neighbours(mrl, uri, filled, jsonl):
    other = f"{uri}?collection=other"
    assert mrl("index", jsonl("b.jsonl", {"text": "x"}), "--to", other, "--encoder", "hashing").status == 0
    assert mrl("drop", uri, "--yes").status == 0
    assert mrl("info", other).status == 0


def test_plural():
    assert output.plural(1, "row") == "1 row"
    assert output.plural(1234, "row") == "1,234 rows"


def test_options_reach_the_backend(mrl, tmp_path, jsonl):
    place = f"faiss:{tmp_path}/kb"
    file = jsonl("o.jsonl", {"id": "1", "text": "some text"})
    made = mrl("index", file, "--to", place, "--encoder", "hashing", "--option", "fine_dtype=float32")
    assert made.status == 0, made.err
    assert json.loads(mrl("info", place, "--json", "--option", "lock_timeout=2").out)["fine_dtype"] == "float32"
    assert "some text" in mrl("search", place, "text", "--option", "fine_dtype=float32").out
    for command in (
        ["search", place, "x"],
        ["info", place],
        ["list", place],
        ["verify", place],
        ["drop", place, "--yes"],
    ):
        refused = mrl(*command, "--option", "colour=red")
        assert refused.status == 1 and "colour" in refused.err and refused.err.count("\n") == 1
    assert mrl("info", place, "--option", "nonsense").status == 2
