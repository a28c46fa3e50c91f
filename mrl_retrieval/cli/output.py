"""What the commands print: width, colour, numbers, tables, snippets."""

from __future__ import annotations

import json
import os
import re
import shutil
import unicodedata
from collections.abc import Sequence
from typing import Any, TextIO

__all__ = ["Output", "fitted", "on_one_line", "plural", "readable_bytes", "snippet", "text_width"]

_NARROWEST, _WIDEST = 40, 120


class Output:
    """Standard output: colour only on a terminal that wants it, ``?`` for what its encoding cannot say."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.colour = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        columns = shutil.get_terminal_size((100, 24)).columns
        self.width = min(max(columns, _NARROWEST), _WIDEST)
        self._encoding = stream.encoding or "utf-8"

    def line(self, text: str = "") -> None:
        """One line."""
        self._stream.write(text.encode(self._encoding, "replace").decode(self._encoding) + "\n")

    def json(self, value: Any) -> None:
        """One JSON document, indented."""
        unicode = self._encoding.lower().replace("-", "") == "utf8"
        self._stream.write(json.dumps(value, ensure_ascii=not unicode, indent=2, allow_nan=False) + "\n")

    def flush(self) -> None:
        """Hand everything to the reader, so that a closed pipe is noticed here and not at the end of Python."""
        self._stream.flush()

    def bold(self, text: str) -> str:
        """The text, bold where there is colour."""
        return f"\x1b[1m{text}\x1b[0m" if self.colour else text

    def dim(self, text: str) -> str:
        """The text, dim where there is colour."""
        return f"\x1b[2m{text}\x1b[0m" if self.colour else text

    def green(self, text: str) -> str:
        """The text, green where there is colour."""
        return f"\x1b[32m{text}\x1b[0m" if self.colour else text

    def table(self, rows: Sequence[Sequence[str]], *, left: int = 1, indent: str = "  ") -> None:
        """Rows of cells in columns; the first row is the header, the first ``left`` columns are left-aligned."""
        widths = [max(text_width(row[i]) for row in rows) for i in range(len(rows[0]))]
        for number, row in enumerate(rows):
            cells = [
                cell + " " * (width - text_width(cell)) if i < left else " " * (width - text_width(cell)) + cell
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            text = indent + "  ".join(cells).rstrip()
            self.line(self.dim(text) if number == 0 else text)


def on_one_line(text: str) -> str:
    """Without line breaks and control characters, which could move a terminal's cursor."""
    return " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text).split())


def text_width(text: str) -> int:
    """Columns on a terminal: wide characters take two, combining ones none."""
    return sum(_columns(c) for c in text)


def _columns(c: str) -> int:
    if unicodedata.combining(c) or unicodedata.category(c) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1


def fitted(text: str, width: int, *, keep_end: bool = False) -> str:
    """The text cut to ``width`` columns, with an ellipsis where it was cut: at its end, or at its beginning."""
    if text_width(text) <= width:
        return text
    used, kept = 0, []
    for c in reversed(text) if keep_end else text:
        used += _columns(c)
        if used > width - 1:
            break
        kept.append(c)
    return "…" + "".join(reversed(kept)) if keep_end else "".join(kept).rstrip() + "…"


def snippet(document: str, query: str, width: int, lines: int = 2) -> list[str]:
    """The part of a document with most of the query's words, in at most ``lines`` lines of ``width`` columns."""
    text = on_one_line(document)
    room = width * lines
    start = 0
    if text_width(text) > room:
        wanted = {word for word in re.findall(r"\w+", query.casefold()) if len(word) > 3}
        found = [m.start() for m in re.finditer(r"\w+", text) if m.group().casefold() in wanted]
        if found:
            best = max(found, key=lambda at: (sum(at <= other < at + room * 3 // 4 for other in found), -at))
            if best > room // 2:
                start = text.rfind(" ", 0, max(best - width // 4, 0)) + 1
    words = (("… " if start else "") + text[start : start + 2 * room]).split(" ")
    out: list[str] = []
    while words and len(out) < lines:
        line = words.pop(0)
        while words and text_width(line) + 1 + text_width(words[0]) <= width:
            line += " " + words.pop(0)
        if len(out) == lines - 1 and words:
            line += " …" if text_width(line) + 2 <= width else "…"
        out.append(fitted(line, width))
    return out


def readable_bytes(count: float | None) -> str:
    """``1536`` to ``"1.5 KB"``; None, where a database does not tell, to ``"unknown"``."""
    if count is None:
        return "unknown"
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def plural(count: int, noun: str) -> str:
    """``1, "document"`` to ``"1 document"``, ``1000`` to ``"1,000 documents"``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
