"""The plot of a diagnosis. Needs matplotlib (the extra ``plot``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InvalidInput, MissingExtra
from .report import DimsReport, TruncationReport

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtra("plots", "plot") from error

__all__ = ["check_path", "save_plot"]

_RAW, _ROTATED, _FULL = "#b5542b", "#1f6f8b", "#555555"
_DPI = 150


def check_path(path: Path) -> None:
    """Whether a plot can be written there, as far as that is known before there is one.

    Raises:
        InvalidInput: no plot has that ending, or there is no such folder.
    """
    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix and path.suffix[1:].lower() not in known:
        raise InvalidInput(f"{path}: no plot has this ending ({', '.join(sorted(known))} can be written); name it .png")
    if not path.parent.is_dir():
        raise InvalidInput(f"{path}: no such folder {path.parent}; make it first")


def save_plot(report: TruncationReport, path: Path) -> None:
    """Coverage, and nDCG where there are judgements, by dims; PNG, or what the file's ending says.

    Raises:
        InvalidInput: no plot has that ending.
    """
    judged = report.ndcg is not None
    figure = Figure(figsize=(9.6 if judged else 5.6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 if judged else 1, squeeze=False)[0]
    figure.suptitle(f"{report.encoder}: {report.documents:,} documents, {report.queries:,} queries", fontsize=11)
    _panel(panels[0], report, "coverage", f"true top {report.k} in {report.candidates} candidates")
    if judged:
        _panel(panels[1], report, "two_stages", f"nDCG@{report.k} of two stages (dotted: prefix alone)")
        _lines(panels[1], report, "ndcg", style=":", labelled=False)
        panels[1].axhline(report.ndcg, color=_FULL, linewidth=0.8, label=f"all {report.dim} dims")
    for panel in panels:
        panel.legend(loc="lower right", frameon=False, fontsize=9)
    try:
        figure.savefig(path, dpi=_DPI)
    except ValueError as error:
        raise InvalidInput(f"{path}: {error}; name it .png") from error


def _panel(panel: Any, report: TruncationReport, value: str, title: str) -> None:
    _lines(panel, report, value)
    lengths = sorted({row.dims for row in report.rows})
    panel.set_xscale("log", base=2)
    panel.set_xticks(lengths, [str(length) for length in lengths])
    panel.set_xticks([], minor=True)
    panel.set_xlabel("dims")
    panel.set_title(title, fontsize=10)
    panel.grid(alpha=0.25)


def _lines(panel: Any, report: TruncationReport, value: str, *, style: str = "-", labelled: bool = True) -> None:
    full = [row for row in report.rows if row.dims == report.dim]
    for rotated, colour in ((False, _RAW), (True, _ROTATED)):
        rows: list[DimsReport] = [row for row in report.rows if row.rotated is rotated and row.dims < report.dim] + full
        label = ("rotated" if rotated else "raw") if labelled else None
        panel.plot(
            [row.dims for row in rows],
            [getattr(row, value) for row in rows],
            color=colour,
            linestyle=style,
            marker="o",
            markersize=3.5,
            linewidth=1.4,
            label=label,
        )
