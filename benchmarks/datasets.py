"""Real corpora for the benchmarks, in BEIR form, from a folder beside the repository (``MRL_DATA`` names another).

What each set is, where it comes from and on which terms stands in the README of that folder.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrl_retrieval.ingest.qrels import read_qrels

DATA = Path(os.environ.get("MRL_DATA") or Path(__file__).parents[2] / "shared" / "data")


@dataclass(frozen=True)
class Dataset:
    """Documents, queries, and which answer which."""

    name: str
    ids: list[str]
    documents: list[str]
    queries: list[str]
    gains: list[dict[str, float]]
    """Per query: judged document id to gain."""


def require_data() -> None:
    """End with a clear line where the data is absent."""
    if not DATA.is_dir():
        sys.exit(f"the benchmark data is not at {DATA}; name its folder in MRL_DATA")


def load(name: str, max_queries: int | None = None) -> Dataset:
    """One retrieval set; queries are taken from the front of the file."""
    ids, documents = [], []
    for line in _lines(DATA / name / "corpus.jsonl.gz"):
        ids.append(line["_id"])
        documents.append(f"{line['title']}\n{line['text']}" if line.get("title") else line["text"])
    wanted = {line["_id"]: line["text"] for line in _lines(DATA / name / "queries.jsonl.gz")}
    judged = read_qrels(DATA / name / "qrels.tsv.gz")
    chosen = list(wanted)[:max_queries]
    return Dataset(name, ids, documents, [wanted[id] for id in chosen], [judged.get(id, {}) for id in chosen])


def passages(n: int) -> list[str]:
    """``n`` passages of the mixed corpus, every fourth of its 452,681, so that several sources are in."""
    found: list[str] = []
    for i, line in enumerate(_lines(DATA / "passages-mixed" / "corpus.jsonl.gz")):
        if i % 4 == 0:
            found.append(f"{line['title']}: {line['text']}" if line.get("title") else line["text"])
        if len(found) == n:
            break
    return found


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
