"""Make ``examples/medquad`` from a full copy of MedQuAD in BEIR form; the same input gives the same bytes.

    python examples/build_medquad.py FOLDER [OUT]

FOLDER holds ``corpus.jsonl.gz`` (``_id``, ``text``: an answer), ``queries.jsonl.gz`` (``_id``, ``text``: a question)
and ``qrels.tsv.gz`` (which answer belongs to which question). What is kept, and what is changed, is said in
``examples/medquad/NOTICE.md``.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

ANSWERS = 6000
QUESTIONS = 500
SHORTEST, LONGEST = 200, 2500  # characters of an answer
LINK_LIST = "These resources address the diagnosis or management"  # a thousand near-identical lists of links


def main() -> None:
    """Read the full set, write the selection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).parent / "medquad")
    arguments = parser.parse_args()

    answers = {row["_id"]: row["text"].strip() for row in read_jsonl(arguments.folder / "corpus.jsonl.gz")}
    usable = [id for id, text in answers.items() if SHORTEST <= len(text) <= LONGEST and not text.startswith(LINK_LIST)]
    kept = set(sorted(usable, key=shuffled)[:ANSWERS])

    judged: dict[str, list[str]] = {}
    with gzip.open(arguments.folder / "qrels.tsv.gz", "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            judged.setdefault(row["query-id"], []).append(row["corpus-id"])
    questions = {row["_id"]: tidy(row["text"]) for row in read_jsonl(arguments.folder / "queries.jsonl.gz")}
    # A question is fair only where every answer that was judged right is there to be found.
    fair = [id for id, right in judged.items() if id in questions and kept.issuperset(right)]
    asked = sorted(sorted(fair, key=shuffled)[:QUESTIONS])

    arguments.out.mkdir(parents=True, exist_ok=True)
    write_jsonl(arguments.out / "corpus.jsonl.gz", ({"_id": id, "text": answers[id]} for id in sorted(kept)))
    write_jsonl(arguments.out / "queries.jsonl.gz", ({"_id": id, "text": questions[id]} for id in asked))
    lines = ["query-id\tcorpus-id\tscore"] + [f"{q}\t{a}\t1" for q in asked for a in sorted(judged[q])]
    (arguments.out / "qrels.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(kept)} answers, {len(asked)} questions, {len(lines) - 1} judgements in {arguments.out}\n")


def shuffled(id: str) -> str:
    """A sort key that mixes the sources and never changes."""
    return hashlib.sha256(id.encode()).hexdigest()


def tidy(question: str) -> str:
    """The templated questions as somebody would type them."""
    question = question.replace("What is (are) ", "What is ")
    return re.sub(r"[\s?]+$", "?", " ".join(question.split()))


def read_jsonl(path: Path) -> Iterable[dict[str, str]]:
    """One dict per line of a gzip file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def write_jsonl(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Gzip without name and time in its header, so that equal content is equal bytes."""
    text = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=buffer, mode="wb", compresslevel=9, mtime=0) as file:
        file.write(text.encode("utf-8"))
    path.write_bytes(buffer.getvalue())


if __name__ == "__main__":
    main()
