"""``mrl search``: what is printed, as text and as JSON."""

from __future__ import annotations

import json

import pytest

from mrl_retrieval.cli.output import fitted, on_one_line, readable_bytes, snippet, text_width

TEXTS = {
    "git": "To undo the last commit, run git revert. It makes a new commit.",
    "cake": "A cake needs flour, sugar and eggs.",
    "日本": "日本語の文書です。" * 30,
    "long": "Nothing of interest here. " * 40 + "But the zebra crosses the savanna. " + "And nothing again. " * 40,
}


@pytest.fixture
def filled(index, jsonl, uri):
    path = jsonl(
        "corpus.jsonl", *({"id": id, "text": text, "n": i, "kind": "x"} for i, (id, text) in enumerate(TEXTS.items()))
    )
    index(path, "--no-chunk", "--metadata-fields", "n,kind")
    return path


def test_readable_output(mrl, uri, filled):
    done = mrl("search", uri, "How do I undo a commit?", "--top-k", 2)
    assert (done.status, done.err) == (0, "")
    first, *_ = done.out.splitlines()
    assert first.split()[0] == "1"
    assert "coarse" in first
    assert "git" in first
    assert "corpus.jsonl [0-63]" in first
    assert "run git revert" in done.out
    assert "2 hits in" in done.out.splitlines()[-1]
    assert "\x1b" not in done.out, "no colour where stdout is no terminal"


@pytest.mark.parametrize("columns", [1, 40, 57, 100, 500])
def test_output_fits_the_width(mrl, uri, filled, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    done = mrl("search", uri, "zebra 日本語", "--top-k", 4)
    width = min(max(columns, 40), 120)
    assert max(text_width(line) for line in done.out.splitlines()[:-1]) <= width


def test_the_snippet_shows_where_the_words_are(mrl, uri, filled):
    assert "zebra crosses" in mrl("search", uri, "Where is the zebra?", "--top-k", 1).out


def test_json_is_one_document_equal_to_the_api(mrl, uri, filled):
    from mrl_retrieval.retriever import MatryoshkaRetriever

    value = json.loads(mrl("search", uri, "undo 日本", "--top-k", 3, "--json").out)
    with MatryoshkaRetriever.open(uri) as retriever:
        expected = retriever.search("undo 日本", 3, explain=True)
    assert [(hit["id"], hit["score"], hit["document"]) for hit in value["hits"]] == [tuple(hit) for hit in expected]
    assert [hit["coarse_score"] for hit in value["hits"]] == [hit.coarse_score for hit in expected]
    assert [hit["rank"] for hit in value["hits"]] == [1, 2, 3]
    assert value["query"] == "undo 日本"
    assert value["address"] == uri
    assert value["certificate"] == "candidates"
    assert [stage["dims"] for stage in value["stages"]] == [64, retriever.manifest.dim]
    metadata = value["hits"][0]["metadata"]
    assert set(metadata) == {"n", "kind", "source", "start", "end"}, "the bookkeeping is not shown"


def test_filter_top_k_and_exact(mrl, uri, filled):
    out = mrl("search", uri, "cake", "--filter", '{"n": {"$gte": 2}}', "--json").out
    assert {hit["id"] for hit in json.loads(out)["hits"]} == {"日本", "long"}
    exact = json.loads(mrl("search", uri, "cake", "--exact", "--json").out)
    assert exact["certificate"] == "exact"
    assert exact["hits"][0]["id"] == "cake"
    assert [stage["name"] for stage in exact["stages"]] == ["exact"]
    assert len(json.loads(mrl("search", uri, "cake", "--top-k", 1, "--coarse-top-k", 1, "--json").out)["hits"]) == 1
    assert "0 hits" in mrl("search", uri, "cake", "--filter", '{"n": 99}').out


def test_explain(mrl, uri, filled):
    lines = mrl("search", uri, "cake", "--explain", "--top-k", 2).out.splitlines()
    table = [line.split() for line in lines[-7:]]
    assert table[0] == ["stage", "dims", "in", "out", "ms", "read", "last", "score", "margin"]
    assert table[1][:4] == ["coarse", "64", "4", "4"] and len(table[1]) == 8  # nothing was dropped: no margin
    assert table[2][0] == "rerank" and table[2][2:4] == ["4", "2"] and float(table[2][-1]) > 0
    assert table[4][:4] == ["rank", "in", "coarse", "64"]
    assert table[5] == ["cake", "1", "1"]


def test_control_characters_do_not_reach_the_terminal(mrl, uri, index, jsonl):
    index(jsonl("evil.jsonl", {"id": "a\x1b[31m", "text": "red \x1b[31m alert \x07 \u2028 end\r\n"}))
    done = mrl("search", uri, "alert")
    assert not set(done.out) & set("\x1b\x07\r\u2028")
    assert "red [31m alert end" in done.out


def test_colour_only_on_a_terminal(monkeypatch):
    import io

    from mrl_retrieval.cli.output import Output

    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    assert Output(Terminal()).bold("x") == "\x1b[1mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert Output(Terminal()).bold("x") == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert Output(Terminal()).bold("x") == "x"


def test_widths():
    assert text_width("日本") == 4
    assert text_width("e\u0301") == 1
    assert fitted("日本語", 5) == "日本…"
    assert fitted("/a/b/c.md#12", 7, keep_end=True) == "….md#12"
    assert fitted("short", 10) == "short"
    assert on_one_line("a\n\tb\x00c") == "a b c"
    assert snippet("", "x", 40) == [""]
    assert snippet("one two three", "x", 40) == ["one two three"]
    assert all(text_width(line) <= 10 for line in snippet("x" * 100 + " y", "z", 10))
    assert [readable_bytes(n) for n in (None, 0, 999, 1500, 2_000_000, 3e12)] == [
        "unknown", "0 B", "999 B", "1.5 KB", "2.0 MB", "3.0 TB"]  # fmt: skip


def test_why_not(mrl, uri, filled):
    lost = mrl("why-not", uri, "How do I undo a commit?", "cake", "--top-k", 1)
    assert (lost.status, lost.err) == (0, "")
    assert lost.out.startswith("'cake' was lost in the final cut") and "would have kept it." in lost.out
    found = mrl("why-not", uri, "cake", "cake", "--coarse-top-k", 10)
    assert found.out.startswith("'cake' was found: it is hit 1, with a score of ")
    told = json.loads(mrl("why-not", uri, "commit", "cake", "--top-k", 1, "--exact", "--json").out)
    assert (told["verdict"], told["stage"]) == ("lost", "exact") and told["rank"] == told["top_k"] > 1
    assert told["lost_by"] == told["last_score"] - told["score"] and "'cake' was lost" in told["why"]
    assert (
        json.loads(mrl("why-not", uri, "cake", "cake", "--filter", '{"n": 99}', "--json").out)["verdict"]
        == "filtered out"
    )
    assert "no row with this id" in mrl("why-not", uri, "cake", "nobody").out


def test_a_reranker_that_is_not_there(mrl, uri, filled, tmp_path):
    for command in (("search", uri, "cake"), ("why-not", uri, "cake", "git")):
        done = mrl(*command, "--reranker", f"cross-encoder:{tmp_path}/none", "--rerank-top-k", 3)
        assert done.status == 1 and "cannot be loaded" in done.err
        assert "cross-encoder:FOLDER_OR_NAME" in mrl(*command, "--reranker", "none").err
        assert "there is none" in mrl(*command, "--rerank-top-k", 3).err
