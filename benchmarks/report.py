"""Tables on the terminal, in Markdown, so that they can be pasted; and the machine they were made on."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, padded to be read as it is. Columns of numbers are right-aligned."""
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [max(len(head[i]), *(len(row[i]) for row in texts), 3) for i in range(len(head))]
    right = [all(isinstance(row[i], (int, float)) or row[i] in ("", "–") for row in rows) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)) + "|"
    return "\n".join([line(head), rule, *(line(row) for row in texts)])


def machine() -> str:
    """One line: processor, cores, Python."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _text(cell: object) -> str:
    if isinstance(cell, float) and 0 < abs(cell) < 1e-3:
        return f"{cell:.1e}"
    if isinstance(cell, float):
        return f"{cell:.4f}" if abs(cell) < 10 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
