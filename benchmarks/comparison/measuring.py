"""``python -m benchmarks.comparison.measuring JOB.json``: one phase of one measurement, in a process of its own.

``load`` writes everything; ``serve`` opens what was loaded, in a process that has seen none of it, and searches. Only
calls of the database are timed, one query at a time. Scores are computed here, from the vectors, not taken from the
database: a row counts as found if it passes the filter and scores no less than the last of the exact answer.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparison.corpus import FILTERS, Corpus
from benchmarks.comparison.processes import cpu_seconds, family, memory, pin
from benchmarks.comparison.side import Equal, Place, Setting, Side, open_side
from mrl_retrieval.matryoshka import FloatArray

RECALL = 0.95
_BATCH = 1000
_WARM_UP = 5
_LEAST_QUERIES = 30
_SLACK = 1e-5  # scores of equal vectors differ by rounding between a product of matrices and one of vectors


@dataclass(frozen=True)
class Job:
    """What one process is to do."""

    phase: str
    backend: str
    way: str
    corpus: str
    folder: str
    url: str
    servers: list[int]
    """Processes whose memory and time count, instead of this one's."""
    coarse_dims: int
    k: int
    queries: int
    seconds: float
    """After so long, no more queries at one setting, if there were enough for a median."""
    result: str


def main() -> None:
    """Do the job, and write what was measured whenever there is more of it."""
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    corpus = Corpus(Path(job.corpus))
    if job.phase == "serve":
        pin([os.getpid()])  # before libraries count the cores
    side_class = open_side(job.backend, job.way)
    side = side_class(job.backend, Place(Path(job.folder), job.url), corpus.shape[1], job.coarse_dims)
    if job.phase == "load":
        _write(job, load(side, corpus))
    else:
        serve(job, side, corpus)


def load(side: Side, corpus: Corpus) -> dict[str, Any]:
    """Write all rows; seconds until they can be searched at full speed."""
    seconds = _timed(side.create)
    for batch in corpus.batches(_BATCH):
        start = time.perf_counter()
        side.upsert(batch)
        seconds += time.perf_counter() - start
    finishing = _timed(side.finish) + _timed(side.close)
    return {
        "note": side.note,
        "load_seconds": seconds + finishing,
        "index_seconds": finishing,
        "peak_bytes_loading": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def serve(job: Job, side: Side, corpus: Corpus) -> None:
    """Open, then walk up the ladder of settings for each filter until the recall is reached."""
    queries = corpus.queries(job.queries)
    pin(_families(job.servers))
    found: dict[str, Any] = {"empty": asdict(memory(_serving(job))), "searches": {}}

    settings = side.settings(job.k)
    reopened = _timed(side.open) + _timed(lambda: side.search(queries[0], job.k, None, settings[0]))
    found["reopen_seconds"] = reopened
    for name, only in FILTERS.items():
        found["searches"][name] = _climb(job, side, corpus, queries, name, only, settings)
        if only is None:
            found["memory"] = asdict(memory(_serving(job)))
        _write(job, found)
    side.close()


def _climb(
    job: Job,
    side: Side,
    corpus: Corpus,
    queries: FloatArray,
    name: str,
    only: Equal | None,
    settings: Any,
) -> dict[str, Any]:
    best: dict[str, Any] | None = None
    worst = corpus.worst_scores(name, job.k)
    passing = corpus.matching(only)
    expected = min(job.k, int(passing.sum()))
    for setting in settings:
        measured = _measure(job, side, queries, only, setting)
        recalls = []
        for query, rows, least in zip(queries, measured.pop("rows"), worst, strict=False):
            unique = [row for row in dict.fromkeys(rows) if passing[row]]
            scores = corpus.read(unique) @ query
            recalls.append(min(1.0, np.count_nonzero(scores >= least - _SLACK) / expected) if expected else 1.0)
        measured |= {"setting": dict(setting), "recall": float(np.mean(recalls))}
        if best is None or measured["recall"] > best["recall"]:
            best = measured
        if measured["recall"] >= RECALL:
            break
    assert best is not None, "a ladder has rungs"
    return best


def _measure(job: Job, side: Side, queries: FloatArray, only: Equal | None, setting: Setting) -> dict[str, Any]:
    for query in queries[:_WARM_UP]:
        side.search(query, job.k, only, setting)
    others = _families([*job.servers, os.getpid()]) - {os.getpid()}
    seconds, rows = [], []
    cpu, began = time.process_time() + cpu_seconds(others), time.perf_counter()
    for query in queries:
        start = time.perf_counter()
        answer = side.search(query, job.k, only, setting)
        seconds.append(time.perf_counter() - start)
        rows.append(answer)
        if len(rows) >= _LEAST_QUERIES and time.perf_counter() - began > job.seconds:
            break
    cpu = time.process_time() + cpu_seconds(others) - cpu
    p50, p99 = np.percentile(seconds, [50, 99])
    return {"p50": float(p50), "p99": float(p99), "cpu": cpu / len(rows), "queries": len(rows), "rows": rows}


def _serving(job: Job) -> set[int]:
    """The processes that the data are served by."""
    return _families(job.servers or [os.getpid()])


def _families(roots: list[int]) -> set[int]:
    return {pid for root in roots for pid in family(root)}


def _timed(action: Any) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _write(job: Job, found: dict[str, Any]) -> None:
    path = Path(job.result)
    path.with_suffix(".part").write_text(json.dumps(found))
    path.with_suffix(".part").replace(path)


if __name__ == "__main__":
    main()
