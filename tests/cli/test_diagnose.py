"""``mrl diagnose``: a table, a plot, JSON, and one sentence of advice."""

import gzip
import json

import pytest

from .words import WORDS


def text(n):
    return " ".join(WORDS[n // 14**i % 14] for i in range(3)) + f" {n}"


@pytest.fixture
def files(tmp_path):
    corpus, queries, qrels = (tmp_path / name for name in ("corpus.jsonl.gz", "queries.jsonl", "qrels.tsv"))
    with gzip.open(corpus, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"_id": f"d{n}", "title": "t", "text": text(n)}) + "\n" for n in range(300))
    queries.write_text("".join(json.dumps({"_id": f"q{n}", "text": text(7 * n)}) + "\n" for n in range(25)))
    rows = "".join(f"q{n}\td{7 * n}\t1\n" for n in range(20))
    qrels.write_text("query-id\tcorpus-id\tscore\n" + rows)
    return corpus, queries, qrels


def test_a_table_and_one_sentence(mrl, files):
    done = mrl("diagnose", "hashing:64", "--corpus", files[0], "--no-progress")
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split() == ["dims", "top", "10", "in", "100", "±", "bytes/document"]
    assert [line.split()[:2] for line in lines[1:4]] == [["32", "raw"], ["32", "rotated"], ["64", "full"]]
    assert lines[5].startswith(("Rotate", "Search", "Do not truncate"))
    assert "270 documents" in lines[6] and "stood for questions" in lines[6]


def test_with_questions_and_judgements(mrl, files, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'mrl-retrieval[plot]'")
    corpus, queries, qrels = files
    plot = tmp_path / "plot.png"
    asked = ("diagnose", "hashing:64", "--corpus", corpus, "--queries", queries, "--qrels", qrels, "--dims", "16,32")
    done = mrl(*asked, "--plot", plot)
    assert done.status == 0, done.err
    assert "two stages" in done.out and "20 questions" in done.out and plot.read_bytes().startswith(b"\x89PNG")
    told = json.loads(mrl(*asked, "--json", "--top-k", "5", "--candidates", "50").out)
    assert (told["k"], told["candidates"], told["queries"]) == (5, 50, 20)
    assert [(row["dims"], row["rotated"]) for row in told["rows"]] == [
        (16, False), (16, True), (32, False), (32, True), (64, False),
    ]  # fmt: skip
    assert told["ndcg"] > 0.9 and told["advice"]


def test_a_part_of_the_corpus_with_all_that_is_judged(mrl, files):
    corpus, queries, qrels = files
    asked = (
        "diagnose",
        "hashing:64",
        "--corpus",
        corpus,
        "--queries",
        queries,
        "--qrels",
        qrels,
        "--limit",
        "50",
        "--json",
    )
    told = json.loads(mrl(*asked).out)
    assert told["documents"] == 70 and told["ndcg"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--qrels", "x"), "give these with --queries"),
        (("--queries", "absent.jsonl"), "absent.jsonl: no such file"),
        (("--dims", "0"), "at least 1"),
        (("--dims", "128"), None),
        (("--candidates", "5"), "cannot hold the true top"),
    ],
)
def test_wrong_arguments(mrl, files, arguments, message):
    done = mrl("diagnose", "hashing:64", "--corpus", files[0], *arguments)
    if message is None:  # beyond the full length: clamped to it
        assert done.status == 0
        return
    assert done.status and message in done.err and len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("a\tb\n1\t2\n", "no column 'query-id'"),
        ("query-id\tcorpus-id\tscore\nq1\td1\tmuch\n", ":2: the score is 'much'"),
        ("query-id\tcorpus-id\tscore\nq1\td1\tnan\n", ":2: the score is 'nan', expected a number"),
        ("query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t-inf\n", ":3: the score is '-inf'"),
        ("query-id\tcorpus-id\tscore\nq1\td1\t1e999\n", ":2: the score is '1e999'"),
        ("query-id\tcorpus-id\tscore\nother\td1\t1\n", "judges no question"),
    ],
)
def test_wrong_judgements(mrl, files, qrels, message):
    files[2].write_text(qrels)
    done = mrl("diagnose", "hashing:64", "--corpus", files[0], "--queries", files[1], "--qrels", files[2])
    assert done.status == 1 and message in done.err and len(done.err.splitlines()) == 1


@pytest.mark.parametrize(("name", "message"), [("plot.xyz", "name it .png"), ("no/plot.png", "no such folder")])
def test_a_plot_that_cannot_be_written_is_said_before_the_work(mrl, files, tmp_path, monkeypatch, name, message):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'mrl-retrieval[plot]'")
    monkeypatch.setattr("mrl_retrieval.cli.diagnose.diagnose", lambda *_, **__: pytest.fail("it was measured"))
    done = mrl("diagnose", "hashing:64", "--corpus", files[0], "--plot", tmp_path / name)
    assert done.status == 1 and message in done.err and len(done.err.splitlines()) == 1


def test_too_small_a_corpus(mrl, tmp_path):
    (tmp_path / "one.txt").write_text("one text")
    done = mrl("diagnose", "hashing:64", "--corpus", tmp_path / "one.txt")
    assert done.status == 1 and "1 documents tell nothing" in done.err
