"""More documents than fit in memory as full vectors: ``python -m benchmarks.large --rows 10000000 --dims 256``.

Vectors are made block by block and go through the public API, as a program that streams its corpus would do it: memory
stays bounded. Then processes of their own open the collection and ask single queries, one after the system was told to
drop the pages of the full vectors, one with these in memory as far as they fit. Each phase is kept, so that a run that
was broken off goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparison.processes import memory
from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.matryoshka import FloatArray, normalize

_BLOCK = 50_000
_QUERIES = 500
_K = 10
_CENTRES = 3000


def main() -> None:
    """Do the phases that were not done yet, each in a process of its own, and print what they measured."""
    arguments = _arguments()
    folder = Path(arguments.folder or f".cache/large-{arguments.rows}-{arguments.dims}")
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.phase:
        found = _PHASES[arguments.phase](folder, arguments)
        (folder / f"{arguments.phase}.json").write_text(json.dumps(found, indent=1))
        return
    for phase in _PHASES:
        if arguments.again and phase != "ingest":
            (folder / f"{phase}.json").unlink(missing_ok=True)
        if not (folder / f"{phase}.json").exists():
            command = [sys.executable, "-m", "benchmarks.large", *sys.argv[1:], "--phase", phase]
            subprocess.run(command, check=True)
    for phase in _PHASES:
        print(phase)
        for key, value in json.loads((folder / f"{phase}.json").read_text()).items():
            print(f"  {key}: {value}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dims", type=int, default=256)
    parser.add_argument("--coarse", type=int, default=128)
    parser.add_argument("--budget", type=int, default=3 * 2**30, help="bytes of the last phase (3 GB)")
    parser.add_argument("--folder", help="where the collection is kept; default: in .cache")
    parser.add_argument("--again", action="store_true", help="measure again what was measured; the collection stays")
    parser.add_argument("--phase", choices=list(_PHASES), help=argparse.SUPPRESS)
    return parser.parse_args()


def _blocks(rows: int, dims: int) -> Iterator[tuple[int, FloatArray]]:
    """Unit vectors: clusters whose spectrum decays, as those of Matryoshka models; from a fixed seed."""
    spread = np.sqrt((np.arange(dims) + 8.0) ** -1.5)
    own = np.sqrt((np.arange(dims) + 8.0) ** -0.5)
    spread, own = spread / np.linalg.norm(spread), own / np.linalg.norm(own)
    centres = (np.random.default_rng(1).standard_normal((_CENTRES, dims)) * spread).astype(np.float32)
    for start in range(0, rows, _BLOCK):
        rng = np.random.default_rng([2, start])
        n = min(_BLOCK, rows - start)
        noise = rng.standard_normal((n, dims), dtype=np.float32) * (0.75 * own).astype(np.float32)
        yield start, normalize(centres[rng.integers(0, _CENTRES, n)] + noise)


def _ingest(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    shutil.rmtree(folder / "kb", ignore_errors=True)  # begun, and broken off
    rng = np.random.default_rng(3)
    queries, best = np.empty((0, arguments.dims), np.float32), np.empty((0, _K), np.float32)
    seconds = 0.0
    truth = np.zeros((_QUERIES, _K), np.int64)
    with MatryoshkaRetriever(None, f"faiss:{folder}/kb", coarse_dims=arguments.coarse) as retriever:
        for start, block in _blocks(arguments.rows, arguments.dims):
            if not len(queries):
                noise = rng.standard_normal((_QUERIES, arguments.dims)).astype(np.float32)
                queries = normalize(block[:_QUERIES] + np.float32(0.5 / arguments.dims**0.5) * noise)
                best = np.full((_QUERIES, _K), -np.inf, np.float32)
            scores = np.hstack([best, queries @ block.T])
            held = np.hstack([truth, np.broadcast_to(np.arange(start, start + len(block)), (_QUERIES, len(block)))])
            top = np.argpartition(-scores, _K, axis=1)[:, :_K]
            best, truth = np.take_along_axis(scores, top, 1), np.take_along_axis(held, top, 1)
            numbers = range(start, start + len(block))
            begun = time.perf_counter()
            retriever.index([f"Document number {i}." for i in numbers], ids=numbers, vectors=block, batch_size=10_000)
            seconds += time.perf_counter() - begun
        np.save(folder / "queries.npy", queries)
        np.save(folder / "truth.npy", truth)
        begun = time.perf_counter()
        retriever.flush()
        flushing = time.perf_counter() - begun
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rows": arguments.rows,
        "index seconds": round(seconds, 1),
        "documents a second": round(arguments.rows / seconds),
        "seconds to make the coarse index": round(flushing, 1),
        "peak resident GB, mapped files included": round(used.ru_maxrss / 2**20, 2),
        "load average": os.getloadavg()[0],
    }


def _search(folder: Path, arguments: argparse.Namespace, *, cold: bool, budget: int | None = None) -> dict[str, Any]:
    queries, truth = np.load(folder / "queries.npy"), np.load(folder / "truth.npy")
    found: dict[str, Any] = {}
    if cold:
        _drop_pages(folder)
    begun = time.perf_counter()
    options = {} if budget is None else {"memory_budget": budget}
    with MatryoshkaRetriever.open(f"faiss:{folder}/kb", backend_options=options) as retriever:
        retriever.search_by_vector(-queries[0], _K)
        found["seconds to open and search once"] = round(time.perf_counter() - begun, 1)
        found["index"] = dict(retriever.info().stats.details)
        for candidates in (100,) if cold else (50, 100, 200):
            if not cold:
                for query in queries:
                    retriever.search_by_vector(query, _K, coarse_top_k=candidates)
            times, hits = [], 0
            for query, true in zip(queries, truth, strict=True):
                start = time.perf_counter()
                result = retriever.search_by_vector(query, _K, coarse_top_k=candidates)
                times.append(1e3 * (time.perf_counter() - start))
                hits += len({int(id) for id in result.ids} & set(true.tolist()))
            p50, p99 = np.percentile(times, [50, 99])
            recall = hits / truth.size
            found[f"{candidates} candidates"] = f"recall {recall:.3f}, p50 {p50:.2f} ms, p99 {p99:.2f} ms"
        held = memory([os.getpid()])
        found["resident GB"] = round(held.resident / 2**30, 2)
        found["of it mapped files"] = round(held.of_files / 2**30, 2)
        found["load average"] = os.getloadavg()[0]
    return found


def _cold(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    return _search(folder, arguments, cold=True)


def _warm(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    return _search(folder, arguments, cold=False)


def _within_budget(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """As warm, with no more of the files mapped than a budget allows."""
    return _search(folder, arguments, cold=False, budget=arguments.budget)


def _drop_pages(folder: Path) -> None:
    """Have the system forget the pages of full vectors and rows, which nobody has mapped now."""
    for path in sorted((folder / "kb").rglob("*")):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)


_PHASES = {"ingest": _ingest, "cold": _cold, "warm": _warm, "within the budget": _within_budget}

if __name__ == "__main__":
    main()
