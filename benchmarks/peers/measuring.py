"""``python -m benchmarks.peers.measuring JOB.json``: one phase of one build of one peer, in a process of its own.

``build`` makes the index. ``query`` opens it with one thread on one core and times single queries, ``batch`` opens it
with two and times all queries at once. The harness times only the calls, and finds the recall itself, from the rows
that were returned and the vectors, after the memory was measured.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.comparison.processes import occupied, pin
from benchmarks.peers.contract import Peer, Rows, Setting
from benchmarks.peers.libraries import load, versions
from benchmarks.peers.memory import held, load_average
from benchmarks.peers.sets import Set
from benchmarks.peers.truth import recall
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["PHASES", "Job", "perform"]

PHASES = ("build", "query", "batch")
THREADS = {"build": 2, "query": 1, "batch": 2}
_WARM_UP = 20
_LEAST_QUERIES = 30
_PASSES = 3
_ENOUGH = 0.9995  # more of the same knob cannot be told apart


@dataclass(frozen=True)
class Job:
    """What one process is to do."""

    peer: str
    build: dict[str, Any]
    set: str
    rows: int
    data: str
    """The folder of the set."""
    folder: str
    """Of the build."""
    phases: list[str]
    k: int = 10
    seconds: float = 10.0
    """After so long no more queries at one setting, if there were enough for a median."""
    most_settings: int | None = None
    """Ask with no more settings than that, evenly picked."""
    results: dict[str, str] = field(default_factory=dict)
    """For each phase, the file to write."""


@dataclass
class Passes:
    """One setting: nanoseconds of every query, pass by pass, and the rows that were returned ``(Q, K)``.

    The rows are kept in little space, as they are in the memory that is measured; -1 where there was none.
    """

    setting: Setting
    nanoseconds: list[npt.NDArray[np.int64]]
    answers: npt.NDArray[np.int32]

    def figures(self) -> dict[str, Any]:
        """Of the quietest pass; and the medians of all, to see how quiet it was."""
        best = min(self.nanoseconds, key=lambda each: float(np.median(each))) / 1e9
        return {
            "setting": dict(self.setting),
            "p50": float(np.median(best)),
            "p99": float(np.percentile(best, 99)),
            "mean": float(best.mean()),
            "qps": float(1 / best.mean()),
            "queries": len(best),
            "medians": [float(np.median(each)) / 1e9 for each in self.nanoseconds],
        }


def main() -> None:
    """Do the job."""
    perform(Job(**json.loads(Path(sys.argv[1]).read_text())))


def perform(job: Job) -> None:
    """Do its phases one after the other, and write what was measured."""
    data = Set(job.set, job.rows, Path(job.data))
    actions = {"build": build, "query": query, "batch": batch}
    for phase in job.phases:
        peer = load(job.peer)(data.shape, job.build)
        before = load_average()
        found = actions[phase](job, peer, data)
        found |= {"phase": phase, "load_average": [before, load_average()], "threads": THREADS[phase]}
        write(Path(job.results[phase]), found)


def build(job: Job, peer: Peer, data: Set) -> dict[str, Any]:
    """Make the index; seconds of wall clock and of processors, and the most memory that it took."""
    folder = Path(job.folder)
    folder.mkdir(parents=True)
    vectors = data.vectors()
    wall, processors = time.perf_counter(), time.process_time()
    peer.build(vectors, folder, THREADS["build"])
    wall, processors = time.perf_counter() - wall, time.process_time() - processors
    kept = vectors.nbytes if peer.rereads else 0
    kept += occupied(folder) + sum(each.stat().st_blocks * 512 for each in peer.files(folder))
    return {
        "seconds": wall,
        "cpu_seconds": processors,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "versions": versions(type(peer)),
        "disk_bytes": kept,
    }


def query(job: Job, peer: Peer, data: Set) -> dict[str, Any]:
    """Single queries with one thread on one core, at every setting."""
    if job.phases == ["query"]:
        pin([os.getpid()])  # before libraries count the cores
    queries = data.queries()
    ids = data.truth()[0][:, : job.k]
    files = [Path(job.folder), *peer.files(Path(job.folder)), data.folder]
    peer.prepare()
    gc.collect()
    fine = peer.fine(Path(job.folder))
    before = held(files, fine)
    start = time.perf_counter()
    peer.open(Path(job.folder), data.vectors(), THREADS["query"])
    opening = time.perf_counter() - start
    gc.collect()
    opened = held(files, fine).since(before)

    measured: list[tuple[Passes, dict[str, int]]] = []
    for setting in _some(peer.settings(job.k), job.most_settings):
        peer.use(setting)
        passes = _ask(peer, queries, job)
        measured.append((passes, held(files, fine).since(before)))
        if _overlap(passes.answers, ids) >= _ENOUGH:
            break
    # From here on the vectors are read by the harness, so memory can no longer be measured.
    settings = [
        passes.figures() | {"memory": memory, "recall": _recall(passes.answers, job, data)}
        for passes, memory in measured
    ]
    return {"open_seconds": opening, "opened": opened, "settings": settings}


def batch(job: Job, peer: Peer, data: Set) -> dict[str, Any]:
    """All queries at once with two threads, at every setting."""
    queries = data.queries()
    peer.open(Path(job.folder), data.vectors(), THREADS["batch"])
    settings = []
    for setting in _some(peer.settings(job.k), job.most_settings):
        peer.use(setting)
        some = queries[:_LEAST_QUERIES]  # they warm up, and say how many can be asked
        each = _timed_batch(peer, some, job.k)[0] / len(some)
        asked = queries[: max(len(some), int(job.seconds / each))]
        runs = [_timed_batch(peer, asked, job.k)]
        while len(runs) < _PASSES and sum(seconds for seconds, _ in runs) < job.seconds:
            runs.append(_timed_batch(peer, asked, job.k))
        reached = _recall(runs[0][1], job, data)
        qps = len(asked) / min(seconds for seconds, _ in runs)
        settings.append({"setting": dict(setting), "qps": qps, "queries": len(asked), "recall": reached})
        if reached >= _ENOUGH:
            break
    return {"settings": settings}


def _some(settings: Sequence[Setting], most: int | None) -> list[Setting]:
    """At most so many, evenly picked, the first and the last among them."""
    if most is None or len(settings) <= most:
        return list(settings)
    return [settings[i] for i in np.linspace(0, len(settings) - 1, most).round().astype(int)]


def _timed_batch(peer: Peer, queries: FloatArray, k: int) -> tuple[float, Sequence[Rows]]:
    start = time.perf_counter()
    answers = peer.batch(queries, k)
    return time.perf_counter() - start, answers


def _ask(peer: Peer, queries: FloatArray, job: Job) -> Passes:
    ask, k, clock = peer.query, job.k, time.perf_counter_ns
    deadline = time.perf_counter() + job.seconds
    for vector in queries[:_WARM_UP]:
        ask(vector, k)
        if time.perf_counter() > deadline:
            break
    passes = Passes(peer.setting, [], np.full((len(queries), k), -1, dtype=np.int32))
    for number in range(_PASSES):
        taken: list[int] = []
        for vector in queries:
            start = clock()
            answer = ask(vector, k)
            taken.append(clock() - start)
            if number == 0:
                passes.answers[len(taken) - 1, : len(answer)] = answer[:k]
            if len(taken) >= _LEAST_QUERIES and time.perf_counter() > deadline:
                break
        if number == 0:
            passes.answers = passes.answers[: len(taken)].copy()
        if number == 0 or len(taken) == len(queries):
            passes.nanoseconds.append(np.asarray(taken))
        if time.perf_counter() > deadline:
            break
    return passes


def _overlap(answers: npt.NDArray[np.int32], ids: npt.NDArray[np.int64]) -> float:
    """Recall by row numbers alone: never more than the real one, and known without reading vectors."""
    pairs = zip(answers, ids, strict=False)
    return float(np.mean([np.isin(true, answer).mean() for answer, true in pairs]))


def _recall(answers: Iterable[Rows], job: Job, data: Set) -> float:
    queries, vectors, scores = data.queries(), data.vectors(), data.truth()[1]
    rows = [[int(row) for row in answer] for answer in answers]
    return float(
        np.mean(
            [
                recall(answer, query, vectors, true, job.k)
                for answer, query, true in zip(rows, queries, scores, strict=False)
            ]
        )
    )


def write(path: Path, found: dict[str, Any]) -> None:
    """Write JSON so that a file under its name is always whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1))
    part.replace(path)


def as_json(job: Job) -> str:
    """The job as the process reads it."""
    return json.dumps(asdict(job))


if __name__ == "__main__":
    main()
