"""Judgements in the form of BEIR: which document answers which question, and how well."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from mrl_retrieval.errors import InvalidInput

from .reading import read_lines

__all__ = ["read_qrels"]

_COLUMNS = ("query-id", "corpus-id", "score")


def read_qrels(path: Path) -> dict[str, dict[str, float]]:
    """Gains by question and document: tab-separated, with the columns ``query-id``, ``corpus-id`` and ``score``.

    Raises:
        InvalidInput: it cannot be read, lacks a column, or has a score that is no finite number.
    """
    try:
        reader = csv.DictReader(read_lines(path), delimiter="\t")
        names = reader.fieldnames or ()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    missing = [name for name in _COLUMNS if name not in names]
    if missing:
        raise InvalidInput(f"{path} has no column {missing[0]!r}; expected tab-separated {', '.join(_COLUMNS)}")
    gains: dict[str, dict[str, float]] = {}
    for number, row in enumerate(reader, start=2):
        try:
            score = float(row["score"])
        except (TypeError, ValueError):
            score = math.nan
        if not math.isfinite(score):
            raise InvalidInput(f"{path}:{number}: the score is {row['score']!r}, expected a number")
        gains.setdefault(row["query-id"], {})[row["corpus-id"]] = score
    return gains
