"""``mrl evaluate``: a table for each task, and the report."""

import json

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'mrl-retrieval[evaluate]'")

from mrl_retrieval.evaluation import EvaluationReport
from tests.evaluation.common import write_beir, write_jsonl


@pytest.fixture
def tasks(tmp_path):
    pairs = [{"sentence1": f"apple {n}", "sentence2": f"plum {n}", "score": n} for n in range(5)]
    return f"search:{write_beir(tmp_path / 'fruit')}", f"sts:{write_jsonl(tmp_path / 'p.jsonl', pairs)}"


def test_tables_and_report(mrl, tasks, tmp_path):
    asked = ("evaluate", "--encoder", "hashing:64", "--dims", "16,32", "--candidates", "20", "--no-progress")
    done = mrl(*asked, "--task", *tasks, "--json", tmp_path / "report.json")
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "search:fruit  130 documents, 20 queries, 4 queries left out"
    assert lines[1].split()[:4] == ["dims", "ndcg@10", "95", "%"] and lines[1].split()[-2:] == [
        "bytes/document",
        "ms/query",
    ]
    assert [line.split()[:2] for line in lines[2:7]] == [
        ["16", "prefix"], ["16", "two"], ["32", "prefix"], ["32", "two"], ["64", "full"],
    ]  # fmt: skip
    assert " texts encoded in " in done.out
    report = EvaluationReport.of_json(json.loads((tmp_path / "report.json").read_text(encoding="utf-8")))
    assert [task.name for task in report.tasks] == ["search:fruit", "sts:p"]
    assert report.settings["candidates"] == 20 and report.settings["dims"] == [16, 32, 64]
    assert f"{report.tasks[0].at(16).metrics['ndcg@10'].value:.4f}" in lines[2]
    # Several --task are the same as several tasks.
    again = mrl(
        *asked, "--task", tasks[0], "--task", tasks[1], "--json", tmp_path / "again.json", "--cache", tmp_path / "c"
    )
    assert again.status == 0, again.err
    other = EvaluationReport.of_json(json.loads((tmp_path / "again.json").read_text(encoding="utf-8")))
    for one, two in zip(report.tasks, other.tasks, strict=True):
        assert [row.metrics for row in one.rows] == [row.metrics for row in two.rows]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--task", "search:absent"), "absent is not there"),
        (("--dims", "128"), "dims has 128"),
        (("--dims", "x"), "at least 1"),
        (("--json", "absent/report.json"), "no such folder absent"),
        (("--json", "."), "is a folder"),
        (("--top-k", "200"), "cannot hold the true top k=200"),
    ],
)
def test_bad_input_in_one_line(mrl, tasks, more, words):
    done = mrl("evaluate", "--encoder", "hashing:64", "--task", tasks[0], *more)
    assert done.status != 0 and done.out == "" and words in done.err and done.err.count("\n") == 1


def test_an_encoder_and_a_task_are_needed(mrl):
    assert "--encoder" in mrl("evaluate", "--task", "x").err
    assert "--task" in mrl("evaluate", "--encoder", "hashing").err
