"""Recall against time, throughput and memory: one line a peer, along its best settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.results import Measured

__all__ = ["draw", "envelope"]

_FROM, _TO = 0.80, 0.9995
_TICKS = (0.80, 0.90, 0.95, 0.98, 0.99, 0.995, 0.999)
_MARKERS = "osD^v<>PXph*"
_AXES = {
    "p50": ("p50 of a single query, µs (one thread)", False),
    "qps": ("queries a second, all at once (two threads)", True),
    "bytes": ("resident bytes a document", False),
}
"""What is drawn: its axis, and whether more is better."""

Line = tuple[str, bool, list[tuple[float, float]]]
"""Label, whether ours, and pairs of recall and value."""


def draw(title: str, measured: Measured, rows: int) -> dict[str, Callable[[Path], None]]:
    """For each plot of a set, a function that writes it as PNG."""
    labels = {each.peer: (each.label, each.ours) for each in measured.points}
    values: dict[str, list[tuple[str, float, float]]] = {
        "p50": [(each.peer, each.recall, each.p50 * 1e6) for each in measured.points],
        "qps": [(each.peer, each.recall, each.qps) for each in measured.batches],
        "bytes": [(each.peer, each.recall, each.resident / rows) for each in measured.points],
    }
    plots: dict[str, Callable[[Path], None]] = {}
    for what, found in values.items():
        axis, more = _AXES[what]
        lines: list[Line] = [
            (*labels[peer], envelope([(recall, value) for name, recall, value in found if name == peer], more))
            for peer in labels
        ]
        plots[what] = partial(_save, f"{title}: recall against {axis}", axis, lines)
    return plots


def envelope(pairs: Sequence[tuple[float, float]], more: bool) -> list[tuple[float, float]]:
    """Of pairs of recall and value, those that no other beats in both; by rising recall."""
    found: list[tuple[float, float]] = []
    sign = -1 if more else 1
    for recall, value in sorted(pairs, key=lambda pair: (-pair[0], sign * pair[1])):
        if value > 0 and (not found or sign * value < sign * found[-1][1]):
            found.append((recall, value))
    return found[::-1]


def _save(title: str, axis: str, lines: Sequence[Line], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(12, 7), dpi=110)
    tab20: Any = plt.get_cmap("tab20")
    paired = tab20.colors
    colours = [*paired[0::2], *paired[1::2]]  # a dark one and its light one far apart
    order = sorted(range(len(lines)), key=lambda i: not lines[i][1])  # ours first in the legend
    others = 0
    for i in order:
        label, ours, pairs = lines[i]
        shown = [(recall, value) for recall, value in pairs if recall >= _FROM]
        if not shown:
            continue
        recalls = [min(recall, _TO) for recall, _ in shown]
        style: dict[str, Any] = {"linewidth": 1.4, "markersize": 5.5, "color": colours[others % 20], "zorder": 2}
        style["marker"] = _MARKERS[others % len(_MARKERS)]
        if ours:
            style |= {"linewidth": 3.2, "markersize": 8, "color": "black" if others == 0 else "crimson", "zorder": 3}
        others += 1
        axes.plot(recalls, [value for _, value in shown], label=label, **style)
    axes.set_xscale("function", functions=(_stretch, _shrink))
    axes.set_xlim(_FROM, _TO + 0.0001)
    axes.set_xticks([*_TICKS, _TO], [*(f"{tick:g}" for tick in _TICKS), "≥ .9995"])
    axes.set_yscale("log")
    axes.set_xlabel("recall")
    axes.set_ylabel(axis)
    axes.set_title(title)
    axes.grid(which="both", alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _stretch(recall: Any) -> Any:
    """Each halving of what is missed takes the same width."""
    return -np.log(np.maximum(1.0 - np.asarray(recall, dtype=np.float64), 1e-6))


def _shrink(place: Any) -> Any:
    return 1.0 - np.exp(-np.asarray(place, dtype=np.float64))
