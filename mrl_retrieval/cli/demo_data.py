"""The corpus of ``mrl demo``: from the installed package, or from a checkout."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from mrl_retrieval.errors import MRLError

__all__ = ["DemoData", "load_demo_data"]

_NAME = "medquad"


@dataclass(frozen=True, slots=True)
class DemoData:
    """Answers, questions, and which answers belong to which question."""

    ids: list[str]
    texts: list[str]
    questions: dict[str, str]
    judged: dict[str, dict[str, float]]

    def sample(self, count: int) -> list[str]:
        """Ids of ``count`` questions, or of all if there are not as many: evenly from the whole list."""
        ids = list(self.questions)
        count = min(count, len(ids))
        return [ids[i * len(ids) // count] for i in range(count)]


def load_demo_data() -> DemoData:
    """Read the corpus.

    Raises:
        MRLError: it is in neither place.
    """
    folder = _folder()
    corpus = list(_rows(folder / "corpus.jsonl.gz"))
    judged: dict[str, dict[str, float]] = {}
    with (folder / "qrels.tsv").open("r", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            judged.setdefault(row["query-id"], {})[row["corpus-id"]] = float(row["score"])
    return DemoData(
        ids=[row["_id"] for row in corpus],
        texts=[row["text"] for row in corpus],
        questions={row["_id"]: row["text"] for row in _rows(folder / "queries.jsonl.gz")},
        judged=judged,
    )


def _folder() -> Traversable:
    package = __name__.partition(".")[0]
    places: list[Traversable] = [
        files(package) / "examples_data" / _NAME,
        Path(__file__).resolve().parents[2] / "examples" / _NAME,
    ]
    for place in places:
        if (place / "corpus.jsonl.gz").is_file():
            return place
    raise MRLError(
        f"the demo's corpus is not there; looked in {' and '.join(map(str, places))}: reinstall mrl-retrieval"
    )


def _rows(file: Traversable) -> Iterator[dict[str, str]]:
    with file.open("rb") as raw, gzip.open(raw, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
