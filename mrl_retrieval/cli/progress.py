"""A progress line on stderr, drawn over itself."""

from __future__ import annotations

import shutil
import time
from typing import TextIO

from mrl_retrieval.ingest.sync import Progress

from .output import fitted

__all__ = ["ProgressLine"]

_EVERY = 0.1  # seconds between two drawings: more often flickers, and costs time
_BAR = 24


class ProgressLine:
    """``indexing [#####-----] 45 %  1,234 documents  812/s  handbook.md``; nothing at all unless shown."""

    def __init__(self, stream: TextIO, *, shown: bool) -> None:
        self._stream, self._shown = stream, shown
        self._began = time.perf_counter()
        self._drawn: float | None = None

    def __call__(self, progress: Progress) -> None:
        """Draw, if it is time."""
        now = time.perf_counter()
        if not self._shown or (self._drawn is not None and now - self._drawn < _EVERY):
            return
        self._drawn = now
        share = progress.done / progress.total if progress.total else 1.0
        bar = "#" * round(_BAR * share)
        documents = progress.counts.documents
        rate = documents / (now - self._began) if now > self._began else 0.0
        done = f"{documents:,} documents  {rate:,.0f}/s  " if progress.phase == "indexing" else ""
        text = f"{progress.phase} [{bar:-<{_BAR}}] {share:4.0%}  {done}{progress.file.rpartition('/')[2]}"
        width = shutil.get_terminal_size((80, 24)).columns - 1
        self._stream.write("\r\x1b[K" + fitted(text, width))
        self._stream.flush()

    def clear(self) -> None:
        """Remove the line."""
        if self._drawn is not None:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = None
