"""What was measured, read from the files of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.libraries import PEERS
from benchmarks.peers.runner import results_folder
from benchmarks.peers.sets import Set

__all__ = ["Batch", "Failure", "Measured", "Point", "cheapest", "front", "read_results"]


@dataclass(frozen=True)
class Point:
    """One setting of one build, asked single queries. Seconds and bytes."""

    peer: str
    label: str
    ours: bool
    adds: bool
    removes: bool
    build: str
    setting: dict[str, Any]
    recall: float
    p50: float
    p99: float
    qps: float
    anonymous: int
    mapped: int
    fine: int
    disk: int
    build_seconds: float
    build_cpu_seconds: float

    @property
    def resident(self) -> int:
        """Anonymous memory and mapped pages, but for those of full vectors that are read for candidates only."""
        return self.anonymous + self.mapped

    @property
    def how(self) -> str:
        """Build and setting, to be read."""
        query = ", ".join(f"{key} {value}" for key, value in self.setting.items())
        build = "" if self.build == "default" else self.build.replace("=", " ").replace(",", ", ")
        return "; ".join(part for part in (build, query) if part)


@dataclass(frozen=True)
class Batch:
    """One setting of one build, asked all queries at once."""

    peer: str
    recall: float
    qps: float


@dataclass(frozen=True)
class Failure:
    """A peer that is not here, or a build that came to nothing."""

    label: str
    build: str
    error: str


@dataclass(frozen=True)
class Measured:
    """Everything of one set."""

    points: list[Point]
    batches: list[Batch]
    failures: list[Failure]
    notes: dict[str, str]
    """Label to remark."""
    versions: dict[str, str]
    loads: list[float]
    """Load averages before and after each process that asked queries."""


def read_results(data: Set, k: int) -> Measured:
    """All files of one set."""
    found = Measured([], [], [], {}, {}, [])
    root = results_folder(data)
    known = [name for name in PEERS if (root / name).is_dir()]
    others = [path.name for path in sorted(root.glob("*")) if path.is_dir() and path.name not in PEERS]
    for name in [*known, *others]:
        if (root / name / "peer.json").exists():
            _read_peer(root / name, k, found)
    return found


def _read_peer(folder: Path, k: int, found: Measured) -> None:
    about = _read(folder / "peer.json")
    if about["missing"]:
        found.failures.append(Failure(about["label"], "", f"not installed here: {', '.join(about['missing'])}"))
        return
    if about["note"]:
        found.notes[about["label"]] = about["note"]
    for build in sorted(path for path in folder.iterdir() if path.is_dir()):
        parts = {
            phase: _read(path)
            for phase, path in (
                ("build", build / "build.json"),
                ("query", build / f"query-k{k}.json"),
                ("batch", build / f"batch-k{k}.json"),
            )
            if path.exists()
        }
        for phase, part in parts.items():
            if "error" in part:
                found.failures.append(Failure(about["label"], build.name, f"{phase} {part['error']}"))
        found.versions.update(parts.get("build", {}).get("versions", {}))
        for phase in ("query", "batch"):
            found.loads.extend(parts.get(phase, {}).get("load_average", []))
        same = {key: about[key] for key in ("label", "ours", "adds", "removes")}
        for each in parts.get("query", {}).get("settings", []):
            keys = ("setting", "recall", "p50", "p99", "qps")
            found.points.append(
                Point(
                    **same, peer=folder.name, build=build.name, **{key: each[key] for key in keys}, **each["memory"],
                    disk=parts["build"]["disk_bytes"], build_seconds=parts["build"]["seconds"],
                    build_cpu_seconds=parts["build"]["cpu_seconds"],
                )
            )  # fmt: skip
        for each in parts.get("batch", {}).get("settings", []):
            found.batches.append(Batch(folder.name, each["recall"], each["qps"]))


def cheapest(points: Iterable[Point], least: float, resident: float | None = None) -> Point | None:
    """The setting of the lowest p50 that reaches a recall, in no more resident bytes."""
    enough = [each for each in points if each.recall >= least and (resident is None or each.resident <= resident)]
    return min(enough, key=lambda each: each.p50, default=None)


def front(points: Sequence[Point]) -> list[Point]:
    """The Pareto front: no other point has at least the recall in less time. By falling recall."""
    found: list[Point] = []
    for point in sorted(points, key=lambda each: (-each.recall, each.p50)):
        if not found or point.p50 < found[-1].p50:
            found.append(point)
    return found


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found
