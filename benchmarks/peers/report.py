"""The page of what was measured: tables at equal recall, ratios, the Pareto front, plots."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from benchmarks.peers.results import Batch, Measured, Point, cheapest, front, read_results
from benchmarks.peers.sets import SETS, Set
from benchmarks.report import machine, table

__all__ = ["LEVELS", "write_report"]

LEVELS = (0.95, 0.98, 0.99)
SMALL = 250
"""Resident bytes a document of what is called small memory."""
_INTRODUCTION = Path(__file__).parent / "introduction.md"
_RIVALS = {
    "FAISS HNSW,SQ8 + refine": ("faiss-hnsw",),
    "FAISS two-stage": ("faiss-two-stage-ivf", "faiss-two-stage-hnsw"),
    "any FAISS index": (
        "faiss-hnsw", "faiss-ivf", "faiss-rabitq", "faiss-two-stage-ivf", "faiss-two-stage-hnsw", "faiss-flat",
        "faiss-panorama",
    ),
    "SymphonyQG": ("symphonyqg",),
    "IndexFlatIP": ("faiss-flat",),
    "NumPy, as in tutorials": ("numpy",),
}  # fmt: skip
"""Whom the ratios are to: the fastest of some peers."""
_FRONT_FROM = 0.9


def write_report(sets: Sequence[Set], k: int, page: Path, plots: Path) -> Path:
    """Write the page and its plots; a set of which nothing was measured is left out."""
    parts = [_INTRODUCTION.read_text().strip()]
    for data in sets:
        measured = read_results(data, k)
        if measured.points or measured.failures:
            parts.append(_section(data, measured, k, page, plots))
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n\n".join(parts) + "\n")
    return page


def _section(data: Set, measured: Measured, k: int, page: Path, plots: Path) -> str:
    rows, points = data.rows, measured.points
    loads = measured.loads or [float("nan")]
    versions = ", ".join(f"{name} {number}" for name, number in sorted(measured.versions.items()))
    parts = [
        f"## {data.title}",
        f"{SETS[data.name].what}. Here {rows:,} rows × {data.shape.dims} dims, top {k}.",
        f"{machine()}; load average {min(loads):.1f} to {max(loads):.1f} while measuring (median "
        f"{float(np.median(loads)):.1f}). {versions}.",
    ]
    for level in LEVELS:
        parts += [f"### Recall at least {level}", _fastest(measured, level, rows)]
    if any(point.ours for point in points):
        parts += ["### Ratios", _ratios(measured)]
    parts += [
        f"### Small memory: at most {SMALL} resident bytes a document",
        _small(points, rows),
        "### The front",
        "No other setting of any peer has at least this recall in less time.",
        _front(points, rows),
        *_plots(data, measured, page, plots),
        _remarks(measured),
    ]
    return "\n\n".join(part for part in parts if part)


def _by_peer(points: Sequence[Point]) -> list[list[Point]]:
    return [list(group) for _, group in groupby(points, key=lambda each: each.peer)]


def _fastest(measured: Measured, level: float, rows: int) -> str:
    """Each peer at its fastest setting, the fastest first; those that do not get there say how far they get."""
    lines: list[tuple[float, list[object]]] = []
    for points in _by_peer(measured.points):
        best = cheapest(points, level)
        if best is None:
            most = max(points, key=lambda each: each.recall)
            lines.append((np.inf, [_name(most), f"at most {most.recall:.3f}", *["–"] * 9, _changes(most), most.how]))
            continue
        batch = _batch([each for each in measured.batches if each.peer == best.peer], level)
        cells = [
            _name(best), f"{best.recall:.3f}", _micro(best.p50), _micro(best.p99), f"{best.qps:,.0f}",
            f"{batch:,.0f}" if batch else "–", *_bytes(best, rows), _number(best.build_seconds),
            _number(best.build_cpu_seconds), _changes(best),
            best.how,
        ]  # fmt: skip
        lines.append((best.p50, cells))
    head = [
        "peer", "recall", "p50 µs", "p99 µs", "QPS, 1 thread", "QPS, batch", "anonymous", "mapped", "disk", "build s",
        "CPU s", "changes", "how",
    ]  # fmt: skip
    return _table(head, [cells for _, cells in sorted(lines, key=lambda line: line[0])])


def _ratios(measured: Measured) -> str:
    """Ours over each rival, both at their fastest setting that reaches the recall."""
    lines: list[list[object]] = []
    for points in _by_peer([point for point in measured.points if point.ours]):
        for level in LEVELS:
            mine = cheapest(points, level)
            if mine is None:
                continue
            for rival, names in _RIVALS.items():
                theirs = cheapest([each for each in measured.points if each.peer in names], level)
                if theirs is None:
                    continue
                batches = [
                    _batch([each for each in measured.batches if each.peer in those], level)
                    for those in ((mine.peer,), names)
                ]
                lines.append(
                    [
                        mine.label, f"{level}", f"{rival} ({theirs.recall:.3f})", f"{mine.p50 / theirs.p50:.2f}",
                        f"{batches[0] / batches[1]:.2f}" if all(batches) else "–",
                        f"{mine.resident / max(theirs.resident, 1):.2f}", f"{mine.disk / max(theirs.disk, 1):.2f}",
                    ]
                )  # fmt: skip
    text = _table(["ours", "recall", "over", "p50", "QPS, batch", "resident", "disk"], lines)
    return f"{text}\n\nBelow 1 ours is faster or smaller; in the batch, above 1 ours is faster."


def _small(points: Sequence[Point], rows: int) -> str:
    lines: list[list[object]] = []
    for group in _by_peer(points):
        best = [cheapest(group, level, SMALL * rows) for level in LEVELS]
        if any(best):
            cells = ["–" if each is None else f"{_micro(each.p50)} ({each.recall:.3f})" for each in best]
            lines.append([_name(group[0]), *cells, max(_number(each.resident / rows) for each in best if each)])
    if not lines:
        return "No peer is within it."
    return _table(["peer", *(f"p50 µs at {level}" for level in LEVELS), "resident bytes"], lines)


def _front(points: Sequence[Point], rows: int) -> str:
    lines: list[list[object]] = [
        [_name(each), f"{each.recall:.4f}", _micro(each.p50), _number(each.resident / rows), each.how]
        for each in reversed(front(points))
        if each.recall >= _FRONT_FROM
    ]
    return _table(["peer", "recall", "p50 µs", "resident bytes", "how"], lines)


def _plots(data: Set, measured: Measured, page: Path, folder: Path) -> list[str]:
    if not measured.points:
        return []
    if importlib.util.find_spec("matplotlib") is None:
        return ["No plots: matplotlib is not installed."]
    from benchmarks.peers.plots import draw

    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, Callable[[Path], None]] = draw(data.title, measured, data.rows)
    lines = []
    for what, make in drawn.items():
        path = folder / f"peers-{data.title}-{what}.png"
        part = path.with_suffix(".part.png")
        make(part)
        shutil.move(part, path)
        lines.append(f"![{data.title}: recall against {what}]({Path(os.path.relpath(path, page.parent)).as_posix()})")
    return lines


def _remarks(measured: Measured) -> str:
    lines = [f"- **{label}**: {note}." for label, note in measured.notes.items()]
    for each in measured.failures:
        build = f" ({each.build.replace('=', ' ').replace(',', ', ')})" if each.build else ""
        lines.append(f"- **{each.label}**{build}: {each.error.rstrip('.')}.")
    return "\n".join(["### Remarks", "", *lines]) if lines else ""


def _batch(batches: Sequence[Batch], level: float) -> float:
    """The highest rate of any setting that reaches the recall; 0 where none does."""
    return max((each.qps for each in batches if each.recall >= level), default=0.0)


def _bytes(point: Point, rows: int) -> list[object]:
    mapped = _number(point.mapped / rows) + (f" + {_number(point.fine / rows)}" if point.fine else "")
    return [_number(point.anonymous / rows), mapped, _number(point.disk / rows)]


def _changes(point: Point) -> str:
    return " ".join(word for word, can in (("add", point.adds), ("remove", point.removes)) if can) or "none"


def _name(point: Point) -> str:
    return f"**{point.label}**" if point.ours else point.label


def _micro(seconds: float) -> str:
    return _number(seconds * 1e6)


def _number(value: float) -> str:
    return f"{value:,.1f}" if 0 < abs(value) < 10 else f"{value:,.0f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return table(head, rows) if rows else "Nothing was measured."
