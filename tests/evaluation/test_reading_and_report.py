"""Tasks from files in every form, the report as JSON and back, and the cache."""

import gzip
import json

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'mrl-retrieval[evaluate]'")

from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.errors import InvalidInput
from mrl_retrieval.evaluation import EvaluationReport, PairsTask, evaluate, load_task
from tests.evaluation.common import write_beir, write_jsonl


def test_a_folder_with_gzip_and_one_qrels_file(tmp_path):
    plain = load_task(f"search:{write_beir(tmp_path / 'a')}")
    (tmp_path / "b" / "a").mkdir(parents=True)
    for name, target in (("corpus.jsonl",) * 2, ("queries.jsonl",) * 2, ("qrels/test.tsv", "qrels.tsv")):
        (tmp_path / "b" / "a" / f"{target}.gz").write_bytes(gzip.compress((tmp_path / "a" / name).read_bytes()))
    assert load_task(f"search:{tmp_path}/b/a") == plain
    assert plain.name == "search:a" and plain.documents[0] == "Title 0 apple cake of kitchen 0"
    assert len(plain.judged) == 20 and plain.judgements["q0"]


def test_tsv_is_literal_and_csv_is_not(tmp_path):
    rows = [('he said "no', "b", "1"), ('"no" he said', "b", "2"), ("c", "d", "3")]
    head = "sentence1{0}sentence2{0}score\n"
    (tmp_path / "a.tsv").write_text(head.format("\t") + "".join("\t".join(row) + "\n" for row in rows))
    task = load_task(f"sts:{tmp_path}/a.tsv")
    assert (task.first, task.second, task.scores) == (tuple(r[0] for r in rows), ("b", "b", "d"), (1.0, 2.0, 3.0))
    (tmp_path / "a.csv").write_text(head.format(",") + '"a, b",c,1\nd,e,2\nf,"g ""h""",3\n')
    assert load_task(f"sts:{tmp_path}/a.csv").first == ("a, b", "d", "f")


def test_columns_of_other_names_and_splits(tmp_path):
    rows = [
        {"ask": f"{word} {n}", "intent": word, "part": part}
        for word in ("a", "b")
        for n, part in enumerate(("train", "train", "test", "dev"))
    ]
    path = write_jsonl(tmp_path / "x.y.jsonl", rows)
    options = "?text=ask&label=intent&split=part"
    learned = load_task(f"classification:{path}{options}")
    assert learned.texts == ("a 0", "a 1", "b 0", "b 1") and learned.labels == ("a", "a", "b", "b")
    assert learned.test_texts == ("a 2", "b 2") and learned.name == "classification:x"
    assert load_task(f"clustering:{path}{options}").texts == ("a 2", "b 2")


def test_without_splits_every_class_gives_a_fifth(tmp_path):
    rows = [{"text": f"{label} {n}", "label": label} for label, count in (("a", 50), ("b", 3)) for n in range(count)]
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    task, again = load_task(f"classification:{path}"), load_task(f"classification:{path}")
    assert task == again and task.test_labels.count("a") == 10 and task.test_labels.count("b") == 1
    assert sorted(task.texts + task.test_texts) == sorted(row["text"] for row in rows)
    assert load_task(f"clustering:{path}").texts == tuple(row["text"] for row in rows)


def test_pairs_with_and_without_labels(tmp_path):
    rows = [{"sentence1": "a", "sentence2": "b", "label": n} for n in (1, 0, 1)]
    assert load_task(f"pairs:{write_jsonl(tmp_path / 'p.jsonl', rows)}").alike == (True, False, True)
    bare = write_jsonl(tmp_path / "p.jsonl", [{"sentence1": "a", "sentence2": "b"}])
    assert load_task(f"pairs:{bare}") == PairsTask("pairs:p", ("a",), ("b",))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = write_beir(tmp_path_factory.mktemp("r") / "fruit")
    pairs = PairsTask("pairs", ("apple pie", "plum"), ("apple cake", "plum jam"))
    return evaluate("hashing:64", [f"search:{folder}", pairs], dims=[16], rotate=True)


def test_json_and_back(report):
    text = json.dumps(report.to_json(), allow_nan=False)
    again = EvaluationReport.of_json(json.loads(text))
    assert again == report and again.to_json() == report.to_json()
    assert report.encoder.name == "hashing:64" and report.name == "hashing:64"
    assert report.settings["dims"] == [16, 64] and report.settings["rotate"] is True
    assert set(report.versions) == {"python", "mrl-retrieval", "numpy", "scikit-learn", "scipy"}
    assert report.date.endswith("+00:00")


def test_the_table_has_a_line_for_each_row(report):
    search, pairs = (task.table() for task in report.tasks)
    assert search[0] == [
        "dims", "", "ndcg@10", "95 %", "kept", "recall@10", "recall@100", "mrr@10", "coverage", "bytes/document",
        "ms/query",
    ]  # fmt: skip
    assert [line[:2] for line in search[1:]] == [
        ["16", "prefix"], ["16", "two stages"], ["16", "rotated"], ["16", "rotated two stages"], ["64", "full"],
    ]  # fmt: skip
    assert pairs[-1][0:2] == ["64", "full"] and pairs[-1][4] == "100.0%" and len(pairs[0]) == len(pairs[1]) == 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: [], "this is no evaluation"),
        (lambda value: value | {"kind": "recipe"}, "this is no evaluation"),
        (lambda value: value | {"format": 2}, "of format 2, this version reads 1"),
        (lambda value: {k: v for k, v in value.items() if k != "tasks"}, "not whole: KeyError"),
        (lambda value: value | {"encoder": {}}, "not whole"),
        (lambda value: value | {"tasks": [{"name": "x", "rows": []}]}, "not whole"),
        (lambda value: value | {"tasks": 3}, "not whole"),
    ],
)
def test_no_report(report, change, words):
    with pytest.raises(InvalidInput, match=words):
        EvaluationReport.of_json(change(report.to_json()))


def test_what_was_not_measured(report):
    with pytest.raises(InvalidInput, match="no row of 32 dims"):
        report.task("pairs").at(32)
    with pytest.raises(InvalidInput, match="no task is called 'x'"):
        report.task("x")


def test_the_cache_is_used_the_second_time(tmp_path, report):
    class Counted(HashingEncoder):
        calls = 0

        def encode_document(self, texts, **kwargs):
            Counted.calls += len(texts)
            return super().encode_document(texts, **kwargs)

    task = PairsTask("pairs", ("apple pie", "plum"), ("apple cake", "plum jam"))
    found = [evaluate(Counted(64), task, dims=[16], cache=tmp_path / "cache.sqlite") for _ in range(2)]
    assert Counted.calls == 4
    assert [row.metrics for row in found[0].tasks[0].rows] == [row.metrics for row in found[1].tasks[0].rows]
    assert found[0].tasks[0].at(16) == report.task("pairs").at(16)


def test_progress_reaches_the_end():
    told = []
    task = PairsTask("pairs", ("apple", "apple"), ("plum", "pear"))
    evaluate("hashing:64", task, batch_size=2, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (4, 4) and told == sorted(told)
