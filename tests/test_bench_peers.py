"""The benchmark of peers: how recall is counted, and a run of seconds of everything that is installed here."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.peers.__main__ import _cut, main
from benchmarks.peers.contract import Peer, truncated
from benchmarks.peers.libraries import PEERS, load, missing
from benchmarks.peers.memory import held
from benchmarks.peers.plots import envelope
from benchmarks.peers.results import cheapest, front, read_results
from benchmarks.peers.runner import Plan, results_folder, run, slug
from benchmarks.peers.sentences import principal_axes
from benchmarks.peers.sets import SETS, Shape, open_set
from benchmarks.peers.truth import exact_answers, recall, scores_of
from mrl_retrieval import normalize

QUICK = Plan(seconds=0.02, builds=1, settings=5, one_process=True)


class Killed(Peer):
    """A library that ends its process, as one does that was built for another processor."""

    label = "killed"

    def build(self, vectors, folder, threads):
        os.kill(os.getpid(), signal.SIGILL)

    def open(self, folder, vectors, threads):
        raise AssertionError("there is nothing to open")

    def settings(self, k):
        return [{}]

    def query(self, vector, k):
        return []


class Refusing(Killed):
    label = "refusing"

    def build(self, vectors, folder, threads):
        raise RuntimeError("not on this machine")


class NeverHere(Killed):
    label = "never here"
    needs = ("no_such_library",)


def unit_rows(seed, n, dims, copies=0):
    rows = normalize(np.random.default_rng(seed).standard_normal((n, dims)).astype(np.float32))
    rows[n - copies :] = rows[:copies]
    return rows


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke set, and a run on it of every peer whose library is here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRL_PEERS_CACHE", str(tmp_path_factory.mktemp("peers")))
        data = open_set("smoke")
        run(data, QUICK, say=lambda line: None)
        yield data


# -- recall ------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 1000), n=st.integers(1, 60), k=st.integers(1, 12), copies=st.integers(0, 20))
def test_exact_answers_are_those_of_a_sort_and_have_recall_one(seed, n, k, copies):
    vectors = unit_rows(seed, n, 8, min(copies, n // 2))
    queries = unit_rows(seed + 1, 3, 8)
    rows, scores = exact_answers(queries, vectors, k)
    assert rows.shape == scores.shape == (3, min(k, n))
    for query, each, true in zip(queries, rows, scores, strict=True):
        expected = np.sort(vectors.astype(np.float64) @ query.astype(np.float64))[::-1][:k]
        np.testing.assert_allclose(true, expected, atol=1e-12)
        assert recall(each, query, vectors, true, k) == 1


def test_blocks_do_not_change_exact_answers(monkeypatch):
    vectors, queries = unit_rows(1, 500, 16, 100), unit_rows(2, 20, 16)
    whole = exact_answers(queries, vectors, 10)
    monkeypatch.setattr("benchmarks.peers.truth._BLOCK", 37)
    for left, right in zip(whole, exact_answers(queries, vectors, 10), strict=True):
        np.testing.assert_array_equal(left, right)


def test_any_member_of_a_tie_counts_as_found():
    """The first 3 rows are equal; the true top 2 are any two of them."""
    vectors = normalize(np.array([[1, 0], [1, 0], [1, 0], [0, 1]], dtype=np.float32))
    query = np.array([1, 0], dtype=np.float32)
    _, scores = exact_answers(query[None], vectors, 2)
    for answer in ([0, 1], [0, 2], [2, 1]):
        assert recall(answer, query, vectors, scores[0], 2) == 1
    assert recall([2, 3], query, vectors, scores[0], 2) == 0.5


def test_scores_nearer_than_rounding_are_equal_and_no_more():
    query = np.array([1, 0], dtype=np.float32)
    angles = np.arccos([0.5, 0.5 - 5e-7, 0.5 - 5e-5])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    _, scores = exact_answers(query[None], vectors, 1)
    assert [recall([row], query, vectors, scores[0], 1) for row in range(3)] == [1, 1, 0]


def test_what_is_no_answer_is_not_counted():
    vectors, query = unit_rows(3, 30, 8), unit_rows(4, 1, 8)[0]
    rows, scores = (each[0] for each in exact_answers(query[None], vectors, 30))
    best = int(rows[0])
    assert recall([best] * 10, query, vectors, scores, 10) == pytest.approx(0.1)  # repeated
    assert recall([-1, 10**9, best], query, vectors, scores, 10) == pytest.approx(0.1)  # no rows
    assert recall([*rows[10:20], *rows[:10]], query, vectors, scores, 10) == 0  # beyond the first k
    assert recall([], query, vectors, scores, 10) == 0
    assert recall(rows, query, vectors, scores, 50) == 1  # fewer rows than asked for


def test_scores_are_in_the_order_of_the_rows_asked_for():
    vectors, query = unit_rows(5, 20, 8), unit_rows(6, 1, 8)[0]
    np.testing.assert_allclose(scores_of(query, vectors, [7, 3, 7, 0]), vectors[[7, 3, 7, 0]] @ query, atol=1e-6)


# -- parts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_can_be_planned_without_its_library(name):
    peer = load(name)
    for set_name, source in SETS.items():
        builds = [slug(build) for build in peer.grid(Shape(set_name, 1_000_000, 768, source.coarse))]
        assert len(set(builds)) == len(builds)
        assert not any("/" in build for build in builds)
    assert peer.label


def test_prefixes_have_unit_length():
    vectors = unit_rows(7, 50, 32)
    prefixes = truncated(vectors, 8)
    np.testing.assert_allclose(prefixes, normalize(vectors[:, :8]), atol=1e-6)
    assert prefixes.flags.c_contiguous


def test_a_rotation_keeps_dot_products_and_moves_the_energy_to_the_front():
    rng = np.random.default_rng(8)
    rows = normalize((rng.standard_normal((400, 12)) * (np.arange(12) + 1)).astype(np.float32))
    turned = rows @ principal_axes(rows)
    np.testing.assert_allclose(turned @ turned.T, rows @ rows.T, atol=1e-5)
    energy = (turned**2).sum(axis=0)
    assert (np.diff(energy) <= 1e-3).all()


def test_touched_pages_of_a_mapped_file_count_and_others_do_not(tmp_path):
    for folder in ("coarse", "fine", "elsewhere"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "rows.npy", np.ones(1 << 20, dtype=np.float32))
    folders = [tmp_path / "coarse", tmp_path / "fine"]
    before = held(folders, folders[1:])
    maps = [np.load(path, mmap_mode="r") for path in tmp_path.glob("*/rows.npy")]
    assert sum(float(each.sum()) for each in maps) == 3 << 20
    added = held(folders, folders[1:]).since(before)
    assert added["mapped"] == pytest.approx(4 << 20, rel=0.1)
    assert added["fine"] == pytest.approx(4 << 20, rel=0.1)
    assert held([folders[0] / "rows.npy"]).mapped == pytest.approx(4 << 20, rel=0.1)


def test_an_envelope_holds_what_no_other_beats():
    pairs = [(0.9, 10.0), (0.95, 9.0), (0.99, 30.0), (0.99, 40.0)]
    assert envelope(pairs, more=False) == [(0.95, 9.0), (0.99, 30.0)]
    assert envelope(pairs, more=True) == [(0.99, 40.0)]


@pytest.mark.parametrize("arguments", [["--sets", "N"], ["--only", "no-such-peer"]])
def test_unknown_names_are_refused_with_those_there_are(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert "unknown: " in capsys.readouterr().err


# -- a run -------------------------------------------------------------------------------------------------


def test_peers_that_are_here_answer_and_those_that_are_not_are_reported(smoke):
    measured = read_results(smoke, 10)
    found = {point.peer for point in measured.points}
    here = {name for name in PEERS if not missing(load(name)) and load(name).grid(smoke.shape)}
    assert found == here, measured.failures
    assert {failure.label for failure in measured.failures} == {
        load(name).label for name in PEERS if missing(load(name))
    }
    for name in here:
        points = [point for point in measured.points if point.peer == name]
        best = max(point.recall for point in points)
        assert best == 1 if load(name).exact else best > 0.9, name
        assert all(point.p50 > 0 and point.disk > 0 and point.build_seconds > 0 for point in points), name
        assert max(batch.recall for batch in measured.batches if batch.peer == name) == pytest.approx(best, abs=0.02)


def test_the_report_has_a_row_for_each_peer(smoke, tmp_path):
    page = tmp_path / "page.md"
    main(["--sets", "smoke", "--report-only", "--report", str(page), "--plots", str(tmp_path / "plots")])
    text = page.read_text()
    for name in PEERS:
        assert load(name).label in text or not load(name).grid(smoke.shape)
    assert "not installed here" in text or not any(missing(load(name)) for name in PEERS)
    for heading in ("## smoke", "### Recall at least 0.95", "### Ratios", "### Small memory", "### The front"):
        assert heading in text


def test_a_cut_is_named_with_its_rows():
    assert _cut("M:200000", None) == ("M", 200_000)
    assert _cut("M", 5) == ("M", 5) and _cut("smoke", None) == ("smoke", None)
    for wrong in ("X:1", "M:-1", "M:x", "M:1:2"):
        with pytest.raises(SystemExit, match="as M:200000"):
            _cut(wrong, None)


def test_the_front_and_the_cheapest_are_not_beaten(smoke):
    points = read_results(smoke, 10).points
    best = cheapest(points, 0.95)
    assert best is not None
    assert not any(point.recall >= 0.95 and point.p50 < best.p50 for point in points)
    for point in front(points):
        assert not any(other.recall >= point.recall and other.p50 < point.p50 for other in points)
    assert cheapest(points, 0.95, resident=0) is None or best.resident <= 0


def test_what_is_there_is_not_measured_again(smoke):
    files = {path: path.stat().st_mtime_ns for path in results_folder(smoke).rglob("*-k10.json")}
    said = []
    run(smoke, QUICK, say=said.append)
    assert all("not installed" in line for line in said)
    assert files == {path: path.stat().st_mtime_ns for path in files}
    run(smoke, Plan(only=["numpy"], seconds=0.02, builds=1, one_process=True, again=True), say=said.append)
    changed = {path.parent.parent.name for path in files if files[path] != path.stat().st_mtime_ns}
    assert changed == {"numpy"}


def test_phases_in_processes_of_their_own_and_a_discarded_index(smoke):
    """As in a real run; then memory is measured in a process that has built nothing."""
    said = []
    run(
        smoke,
        Plan(only=["faiss-hnsw"], seconds=0.02, builds=1, settings=2, rebuild=True, discard=True),
        say=said.append,
    )
    assert [line.rpartition("  ")[2] for line in said] == ["build: done", "query: done", "batch: done"]
    folder = next(path for path in (results_folder(smoke) / "faiss-hnsw").iterdir() if path.is_dir())
    assert not (folder / "index").exists()
    assert {json.loads(path.read_text())["threads"] for path in folder.glob("query-*.json")} == {1}
    run(smoke, Plan(only=["faiss-hnsw"], seconds=0.02, builds=1, settings=2), say=said.append)
    assert len(said) == 3


def test_a_process_that_is_killed_and_one_that_fails_are_reported(smoke, tmp_path):
    here = f"{__name__}:" if __name__.startswith("tests.") else f"tests.{Path(__file__).stem}:"
    said = []
    plan = Plan(only=[f"{here}Killed", f"{here}Refusing", f"{here}NeverHere"], seconds=0.02)
    run(smoke, plan, say=said.append)
    assert "ended by signal 4 (SIGILL) here" in said[0]
    assert "RuntimeError: not on this machine" in said[1]
    assert "not installed (no_such_library)" in said[2]
    said.clear()
    run(smoke, plan, say=said.append)
    assert len(said) == 1, "what failed is not tried again"
    main(["--sets", "smoke", "--report-only", "--report", str(tmp_path / "page.md"), "--plots", str(tmp_path)])
    assert "**killed** (default): build ended by signal 4 (SIGILL) here" in (tmp_path / "page.md").read_text()
    for name in ("Killed", "Refusing", "NeverHere"):
        for path in sorted((results_folder(smoke) / f"{here}{name}".replace(":", ".")).rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
