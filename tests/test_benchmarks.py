"""The benchmarks run, on tiny data, and measure what they say; no figure is judged."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from benchmarks import backends
from benchmarks.comparison import report
from benchmarks.comparison.corpus import FILTERS, Corpus
from benchmarks.comparison.measuring import RECALL
from benchmarks.comparison.processes import cpu_seconds, family, memory, occupied
from benchmarks.comparison.side import SIDES, Place, open_side
from mrl_retrieval.matryoshka import normalize
from mrl_retrieval.scoring import exact_search

ROWS, DIMS = 3000, 32


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    vectors = normalize(rng.standard_normal((ROWS, DIMS)) / np.arange(1, DIMS + 1))
    np.save(folder / "vectors.npy", vectors.astype(np.float32))
    np.save(folder / "queries.npy", vectors[:40].astype(np.float32))
    return Corpus(folder)


def test_corpus_gives_every_row_once_and_its_filters_match_their_share(corpus):
    batches = list(corpus.batches(700))
    assert [id for batch in batches for id in batch.ids] == [str(i) for i in range(ROWS)]
    assert len({text for batch in batches for text in batch.documents}) == ROWS
    assert np.array_equal(np.vstack([batch.vectors for batch in batches]), np.load(corpus.folder / "vectors.npy"))
    metadatas = [metadata for batch in batches for metadata in batch.metadatas]
    for name, only in FILTERS.items():
        passing = corpus.matching(only)
        assert [only is None or m[only.key] == only.value for m in metadatas] == passing.tolist()
        share = {"none": 1, "10 %": 0.1, "0.1 %": 0.001}[name]
        assert abs(passing.mean() - share) <= 3 * np.sqrt(share * (1 - share) / ROWS)
    assert np.array_equal(corpus.read([5, 2999, 0]), np.load(corpus.folder / "vectors.npy")[[5, 2999, 0]])


@pytest.mark.parametrize("name", FILTERS)
def test_truth_is_that_of_the_oracle(corpus, name, monkeypatch):
    monkeypatch.setattr("benchmarks.comparison.corpus._BLOCK", 256)
    k = 7
    passing = np.flatnonzero(corpus.matching(FILTERS[name]))
    vectors, queries = np.load(corpus.folder / "vectors.npy")[passing], corpus.queries(40)
    expected = [scores[-1] for _, scores in exact_search(queries, vectors, [str(i) for i in passing], k)]
    assert np.allclose(corpus.worst_scores(name, k), expected, atol=1e-6)


def test_backends_are_measured_reported_and_taken_up_again(corpus, tmp_path, capsys):
    arguments = f"--rows {ROWS} --dims {DIMS} --coarse-dims 16 --backends faiss --queries 31 --seconds 1 --timeout 120"
    arguments = [*arguments.split(), "--data", str(corpus.folder), "--out", str(tmp_path / "out")]
    backends.main(arguments)
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [f"faiss, {way} …" for way in SIDES["faiss"]]
    results = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").iterdir())]
    assert [each["way"] for each in results] == ["plain, flat", "plain", "two-stage"]
    for each in results:
        assert "error" not in each, each
        assert each["searches"].keys() == FILTERS.keys()
        for found in each["searches"].values():
            assert found["recall"] >= RECALL
            assert 0 < found["p50"] <= found["p99"]
        assert each["memory"]["resident"] > each["memory"]["of_files"] >= 0
        assert each["disk_bytes"] > ROWS * DIMS * 2
    assert printed.out.count("| faiss ") == 3 * 4 + 2
    assert "3,000 rows" in printed.out

    backends.main(arguments)
    again = capsys.readouterr()
    assert (again.out, again.err) == (printed.out, ""), "nothing is measured twice"


def test_one_that_fails_does_not_end_the_others(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(SIDES, "faiss", {"two-stage": "plain.nowhere:Side", "plain": "plain.faiss:Flat"})
    monkeypatch.setattr(backends, "_phase", _without_a_process)
    backends.main(
        [*f"--rows {ROWS} --dims {DIMS} --backends faiss --data {corpus.folder} --out {tmp_path / 'out'}".split()]
    )
    printed = capsys.readouterr().out
    assert "**faiss, two-stage**: load ended with 1: no such way." in printed
    assert "**faiss, plain**" not in printed


def _without_a_process(phase, backend, way, *_):
    if way == "two-stage":
        raise backends._Failed(f"{phase} ended with 1: no such way", {})
    search = {"recall": 1.0, "p50": 0.001, "p99": 0.002, "cpu": 0.001, "queries": 30, "setting": {}}
    return {"searches": dict.fromkeys(FILTERS, search)} if phase == "serve" else {"load_seconds": 1.0}


def test_a_phase_that_takes_too_long_is_ended_and_said(corpus, tmp_path, capsys):
    backends.main(
        [
            *f"--rows {ROWS} --dims {DIMS} --backends faiss --data {corpus.folder} --out {tmp_path / 'out'}".split(),
            *["--timeout", "0.01"],
        ]
    )
    assert "**faiss, plain**: load took more than 0.01 s." in capsys.readouterr().out


def _result(way, *, p50, resident, recall=1.0):
    search = {"recall": recall, "p50": p50, "p99": p50, "cpu": p50, "queries": 30, "setting": {"ef": 3}}
    asked = {"backend": "faiss", "way": way, "rows": 1000, "dims": 8, "queries": 30}
    loaded = {"load_seconds": 2.0, "disk_bytes": 10, "reopen_seconds": 0.1, "empty": {"resident": 1}}
    served = {"memory": {"resident": resident, "of_files": 0}, "searches": dict.fromkeys(FILTERS, search)}
    return asked | loaded | served


def _row(printed, heading, *begins):
    """The cells of a row of the table under a heading."""
    lines = printed.partition(f"### {heading}\n")[2].partition("###")[0].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    return next(row for row in rows if row[: len(begins)] == list(begins))


def test_report_gives_ratios_and_says_where_two_stage_does_not_win(monkeypatch):
    monkeypatch.setattr(report, "reason", lambda *what: "because of " + "/".join(what))
    printed = report.report([_result("two-stage", p50=0.004, resident=50), _result("plain", p50=0.002, resident=100)])
    row = _row(printed, "Two-stage over plain", "faiss", "plain")
    assert row[2:] == ["2.00", "2.00", "2.00", "0.50", "2.00", "1.00", "resident"]
    assert "**faiss over plain**, p50 2.00: because of faiss/plain/p50." in printed
    assert "because of faiss/plain/resident" not in printed
    assert _row(printed, "Loading and footprint", "faiss", "plain")[2] == "500"


def test_report_compares_nothing_where_the_recall_was_not_reached():
    printed = report.report(
        [_result("two-stage", p50=0.004, resident=50), _result("plain", p50=0.002, resident=100, recall=0.9)]
    )
    assert _row(printed, "Two-stage over plain", "faiss", "plain")[2:] == [*["–"] * 3, "0.50", "–", "1.00", "resident"]
    assert "no setting reached recall 0.95; at best 0.900 (filter: none), 0.900 (filter: 10 %)" in printed
    assert "over plain**" not in printed


@pytest.mark.parametrize(("backend", "way"), [(b, w) for b, ways in SIDES.items() for w in ways])
def test_every_way_is_there_and_says_what_it_is(backend, way, tmp_path):
    side = open_side(backend, way)(backend, Place(tmp_path), DIMS, 16)
    assert side.note
    assert side.settings(10)


def test_processes_are_measured(tmp_path):
    me = os.getpid()
    assert family(me)[0] == me
    found = memory([me])
    assert found.resident > 10_000_000 > 0 <= found.of_files < found.resident
    assert cpu_seconds([me]) > 0
    (tmp_path / "file").write_bytes(b"x" * 50_000)
    assert 50_000 <= occupied(tmp_path) < 100_000
