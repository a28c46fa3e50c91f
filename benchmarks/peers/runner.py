"""Runs every phase of every build of every peer in a process of its own, and keeps what it wrote.

What is there is not done again, so that a run can be interrupted and continued. A process that fails, or that is ended
by a signal, is noted in the place of its results.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import measuring
from benchmarks.peers.contract import Setting
from benchmarks.peers.libraries import PEERS, load, missing
from benchmarks.peers.measuring import THREADS, Job, as_json, write
from benchmarks.peers.sets import Set, cache

__all__ = ["Plan", "results_folder", "run", "slug"]

ROOT = Path(__file__).parents[2]
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "LANCE_CPU_THREADS",
)


@dataclass(frozen=True)
class Plan:
    """What a run is to do."""

    only: Sequence[str] = tuple(PEERS)
    phases: Sequence[str] = measuring.PHASES
    k: int = 10
    seconds: float = 10.0
    again: bool = False
    """Measure again what was measured; builds stay."""
    rebuild: bool = False
    discard: bool = False
    """Delete an index once it is measured."""
    builds: int | None = None
    """No more than the first so many of each peer."""
    settings: int | None = None
    """No more settings than that of each build, evenly picked."""
    one_process: bool = False
    """All phases of a build in one process: quick, but its memory means nothing."""
    patience: float = 6 * 3600.0
    """Seconds after which a process is ended."""


def results_folder(data: Set) -> Path:
    """Where the results on a set are."""
    return cache() / "peers" / data.title


def slug(setting: Setting) -> str:
    """A setting as the name of a folder: ``M=32,ef=200``."""
    return ",".join(f"{key}={value}" for key, value in setting.items()) or "default"


def run(data: Set, plan: Plan, say: Callable[[str], None] = print) -> None:
    """Do what the plan says on one set."""
    data.truth()
    for name in plan.only:
        peer, folder = load(name), results_folder(data) / name.replace(":", ".")
        absent = missing(peer)
        description = {
            "label": peer.label,
            "adds": peer.adds,
            "removes": peer.removes,
            "exact": peer.exact,
            "ours": peer.ours,
            "note": peer.note,
            "missing": absent,
        }
        write(folder / "peer.json", description)
        if absent:
            say(f"{data.title}  {name}: not installed ({', '.join(absent)})")
            continue
        for setting in peer.grid(data.shape)[: plan.builds]:
            _build_and_measure(data, name, setting, folder / slug(setting), plan, say)


def _build_and_measure(
    data: Set, name: str, setting: Setting, folder: Path, plan: Plan, say: Callable[[str], None]
) -> None:
    index = folder / "index"
    results = {phase: _result(folder, phase, plan.k) for phase in measuring.PHASES}
    if plan.rebuild or not results["build"].exists():
        shutil.rmtree(folder, ignore_errors=True)
    if plan.again:
        for phase in {"query", "batch"} & set(plan.phases):
            results[phase].unlink(missing_ok=True)
    wanted = [phase for phase in plan.phases if not results[phase].exists()]
    if wanted and results["build"].exists() and not index.exists() and "error" not in _read(results["build"]):
        shutil.rmtree(folder)  # measured and discarded, and to be measured again
        wanted = list(plan.phases)
    for phases in [wanted] if plan.one_process else [[phase] for phase in wanted]:
        if not phases or (results["build"].exists() and "error" in _read(results["build"])):
            continue
        paths = {phase: str(results[phase]) for phase in phases}
        job = Job(
            peer=name,
            build=dict(setting),
            set=data.name,
            rows=data.rows,
            data=str(data.folder),
            folder=str(index),
            phases=phases,
            k=plan.k,
            seconds=plan.seconds,
            most_settings=plan.settings,
            results=paths,
        )
        say(f"{data.title}  {name}  {folder.name}  {'+'.join(phases)}: {_in_process(job, plan.patience)}")
    if plan.discard and not any(not results[phase].exists() for phase in measuring.PHASES):
        shutil.rmtree(index, ignore_errors=True)


def _in_process(job: Job, patience: float) -> str:
    """Run one process; what came of it in a line."""
    folder = Path(job.folder).parent
    folder.mkdir(parents=True, exist_ok=True)
    phase = "+".join(job.phases)
    path, log = folder / f"{phase}.job.json", folder / f"{phase}.log"
    path.write_text(as_json(job))
    command = [sys.executable, "-m", "benchmarks.peers.measuring", str(path)]
    with log.open("wb") as output:
        try:
            code = subprocess.run(
                command, cwd=ROOT, env=environment(THREADS[job.phases[-1]]), stdout=output, stderr=output,
                timeout=patience, check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            return _failed(job, f"ended after {patience:.0f} s")
    if code < 0:
        return _failed(job, f"ended by signal {-code} ({signal.Signals(-code).name}) here")
    if code:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return _failed(job, f"ended with code {code}: {lines[-1][:300] if lines else 'it said nothing'}")
    return "done"


def _failed(job: Job, error: str) -> str:
    """Put the error where the results of the first unfinished phase would be; later phases cannot be done."""
    unfinished = [phase for phase in job.phases if not Path(job.results[phase]).exists()]
    for phase in unfinished[:1]:
        write(Path(job.results[phase]), {"phase": phase, "error": error})
        if phase == "build":
            shutil.rmtree(job.folder, ignore_errors=True)
    return error


def environment(threads: int) -> dict[str, str]:
    """Of a measuring process. Threads that spin while they wait would take the other core's time."""
    paths = [str(ROOT), str(ROOT / "adapters"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        "OMP_WAIT_POLICY": "passive",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


def _result(folder: Path, phase: str, k: int) -> Path:
    return folder / ("build.json" if phase == "build" else f"{phase}-k{k}.json")


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found
