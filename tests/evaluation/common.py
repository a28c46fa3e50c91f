"""Small tasks on disk, and runs for trec_eval to judge."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FRUIT = ("apple", "plum", "cherry", "pear", "quince", "melon")
DISH = ("cake", "pie", "jam", "soup", "juice")


def documents() -> list[tuple[str, str, str]]:
    """Id, title and text; some are there twice, so that their scores tie."""
    found = [
        (f"d{n}", "" if n % 3 else f"Title {n % 7}", f"{FRUIT[n % 6]} {DISH[n // 6 % 5]} of kitchen {n % 11}")
        for n in range(120)
    ]
    return found + [(f"e{n}", "", found[n + 1][2]) for n in range(0, 30, 3)]


def queries() -> list[tuple[str, str]]:
    return [(f"q{n}", f"{FRUIT[n % 6]} {DISH[n % 5]} kitchen {n}") for n in range(24)]


def judgements() -> dict[str, dict[str, float]]:
    """Gains from -1 to 3; q20 has none above 0, q21 and what follows none at all."""
    draw = random.Random(5)
    names = [id for id, _, _ in documents()]
    gains = {f"q{n}": {id: float(draw.choice((-1, 0, 1, 2, 3))) for id in draw.sample(names, 8)} for n in range(21)}
    gains["q20"] = {id: min(gain, 0.0) for id, gain in gains["q20"].items()}
    return gains


def write_beir(folder: Path, gains: Mapping[str, Mapping[str, float]] | None = None, **more: Any) -> Path:
    (folder / "qrels").mkdir(parents=True)
    write_jsonl(
        folder / "corpus.jsonl", [{"_id": i, "title": t, "text": x} for i, t, x in more.get("corpus", documents())]
    )
    write_jsonl(folder / "queries.jsonl", [{"_id": i, "text": x} for i, x in queries()])
    lines = [
        f"{q}\t{d}\t{g:g}\n" for q, of in (judgements() if gains is None else gains).items() for d, g in of.items()
    ]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines), encoding="utf-8")
    return folder


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
