"""The report of ``benchmarks.backends``: tables, the ratios of two-stage to plain, and where it does not win."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.comparison.corpus import FILTERS
from benchmarks.comparison.measuring import RECALL
from benchmarks.comparison.reasons import reason
from benchmarks.comparison.side import TWO_STAGE
from benchmarks.report import machine, table

__all__ = ["report"]

_SIMD = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "sve")
_MB = 1e6
Result = dict[str, Any]


def report(results: Sequence[Result]) -> str:
    """Everything that was measured, as Markdown."""
    if not results:
        return "Nothing was measured yet."
    first = results[0]
    versions = sorted({f"{name} {number}" for each in results for name, number in each.get("versions", {}).items()})
    loads = [each["load_average"] for each in results if "load_average" in each]
    parts = [
        f"{first['rows']:,} rows × {first['dims']} dims, up to {first['queries']} single queries, 10 hits.",
        f"{machine()}; SIMD: {' '.join(_simd()) or 'unknown'}; {first.get('system', '')}; load average of the machine "
        f"{min(loads, default=math.nan):.1f} to {max(loads, default=math.nan):.1f} while measuring. "
        f"{', '.join(versions)}.",
        "### Loading and footprint",
        _footprint(results),
    ]
    for name in FILTERS:
        title = "Search without a filter" if FILTERS[name] is None else f"Search with a filter matching {name}"
        parts += [f"### {title}", _searches(results, name)]
    parts += ["### Two-stage over plain", _ratios(results)]
    parts += ["### Where two-stage does not win, or is not to be compared", _remarks(results)]
    return "\n\n".join(part for part in parts if part)


def _simd() -> list[str]:
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    return [flag for flag in _SIMD if flag in flags]


def _footprint(results: Sequence[Result]) -> str:
    rows = []
    for each in results:
        memory = each.get("memory", {})
        rows.append(
            [
                each["backend"],
                each["way"],
                _cell(each["rows"] / each["load_seconds"] if "load_seconds" in each else None, 0),
                _megabytes(each.get("disk_bytes")),
                _megabytes(memory.get("resident")),
                _megabytes(memory.get("of_files")),
                _megabytes(each.get("empty", {}).get("resident")),
                _cell(each.get("reopen_seconds"), 2),
                each.get("note", ""),
            ]
        )
    head = ["backend", "way", "documents/s", "disk MB", "resident MB", "of files", "before opening", "reopen s", "what"]
    return table(head, rows)


def _searches(results: Sequence[Result], filter: str) -> str:
    rows = []
    for each in results:
        found = each.get("searches", {}).get(filter)
        if found is None:
            rows.append([each["backend"], each["way"], *["–"] * 6])
            continue
        setting = ", ".join(f"{key} {value}" for key, value in found["setting"].items()) or "no knob"
        times = [_cell(found[key] * 1000, 2) for key in ("p50", "p99", "cpu")]
        recall = f"{found['recall']:.3f}" + ("" if found["recall"] >= RECALL else " (best)")
        rows.append([each["backend"], each["way"], recall, *times, str(found["queries"]), setting])
    return table(["backend", "way", "recall@10", "p50 ms", "p99 ms", "CPU ms", "queries", "setting"], rows)


def _pairs(results: Sequence[Result]) -> Iterator[tuple[Result, Result]]:
    """Two-stage on a backend, with each plain way of it."""
    ours = {each["backend"]: each for each in results if each["way"] == TWO_STAGE}
    for each in results:
        if each["way"] != TWO_STAGE and each["backend"] in ours:
            yield ours[each["backend"]], each


def _ratio(ours: Result, plain: Result, *path: str) -> float | None:
    """None where one of the two was not measured, or did not reach the recall that the other has."""
    values: list[float] = []
    for side in (ours, plain):
        node: Any = side
        for key in path:
            node = node.get(key, {})
            if isinstance(node, dict) and node.get("recall", 1) < RECALL:
                return None
        if not isinstance(node, (int, float)):
            return None
        values.append(node)
    return values[0] / values[1] if values[1] else None


def _ratios(results: Sequence[Result]) -> str:
    criteria = [*_criteria(), ("CPU", ("searches", "none", "cpu")), ("disk", ("disk_bytes",))]
    rows: list[list[object]] = []
    for ours, plain in _pairs(results):
        ratios = {what: _ratio(ours, plain, *path) for what, path in criteria}
        better = ", ".join(what for what, ratio in ratios.items() if ratio is not None and ratio < 1)
        rows.append([ours["backend"], plain["way"], *(_cell(each, 2) for each in ratios.values()), better or "nothing"])
    below = "Below 1 two-stage is faster or smaller; – where one of the two was not measured, or did not reach recall"
    head = ["backend", "over", *(what for what, _ in criteria), "better on"]
    return f"{table(head, rows)}\n\n{below} {RECALL}."


def _criteria() -> list[tuple[str, tuple[str, ...]]]:
    """What two-stage is to win on, and where it stands in a result."""
    searches = [
        ("p50" if only is None else f"p50 ({name})", ("searches", name, "p50")) for name, only in FILTERS.items()
    ]
    return [*searches, ("resident", ("memory", "resident"))]


def _remarks(results: Sequence[Result]) -> str:
    lines = [f"- **{each['backend']}, {each['way']}**: {each['error']}." for each in results if "error" in each]
    for each in results:
        short = {name: found["recall"] for name, found in each.get("searches", {}).items() if found["recall"] < RECALL}
        if short:
            best = ", ".join(f"{recall:.3f} (filter: {name})" for name, recall in short.items())
            lines.append(f"- **{each['backend']}, {each['way']}**: no setting reached recall {RECALL}; at best {best}.")
    for ours, plain in _pairs(results):
        for what, path in _criteria():
            ratio = _ratio(ours, plain, *path)
            if ratio is not None and ratio >= 1:
                why = reason(ours["backend"], plain["way"], what)
                lines.append(f"- **{ours['backend']} over {plain['way']}**, {what} {ratio:.2f}: {why}.")
    return "\n".join(lines) or "Nowhere."


def _cell(value: float | None, digits: int) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def _megabytes(size: int | None) -> str:
    return _cell(None if size is None else size / _MB, 0)
