"""``mrl learn``: how deep to search for which recall, so that ``mrl search --recall`` can promise one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mrl_retrieval.errors import InvalidInput
from mrl_retrieval.retriever import MatryoshkaRetriever

from .arguments import add_options, positive
from .output import Output

__all__ = ["add_parsers", "read_questions"]

_ASKED = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)


def add_parsers(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "learn",
        help="learn how deep to search for which recall",
        description="Learn how deep to search for which recall, by query, and keep it: 'mrl search --recall 0.99' "
        "needs it. The recall printed is what a depth holds with 95 %% confidence, as measured on the questions.",
        allow_abbrev=False,
    )
    parser.add_argument("address", metavar="URI", help="address of the collection, such as faiss:./kb")
    parser.add_argument(
        "--queries", type=Path, metavar="FILE",
        help="a few hundred questions like those that will be asked, one a line; without it, "
        "documents stand for questions, and somewhat less recall than promised is found",
    )  # fmt: skip
    parser.add_argument("--top-k", type=positive, metavar="K", default=10, help="hits asked for, at most (10)")
    parser.add_argument(
        "--encoder", metavar="NAME", help="where the collection does not know its encoder's name: which it was"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Learn, and print what each depth holds."""
    queries = None if arguments.queries is None else read_questions(arguments.queries)
    options = dict(arguments.option)
    with MatryoshkaRetriever.open(arguments.address, encoder=arguments.encoder, backend_options=options) as retriever:
        learned = retriever.learn_depth(queries, top_k=arguments.top_k)
        address = str(retriever.backend.address)
    if arguments.json:
        output.json({"address": address, **learned.to_json()})
        return 0
    rows = [["asked", "held", "documents scanned", "candidates"]]
    for asked in _ASKED:
        step = next((step for step in learned.steps if step.recall >= asked), None)
        if step is not None:
            rows.append([f"{asked:g}", f"{step.recall:.4f}", f"{step.scanned:,.0f}", f"{step.candidates:,.0f}"])
    output.table(rows)
    output.line(f"the deepest holds {learned.steps[-1].recall:.4f}; more can be learned from more questions")
    source = "documents" if queries is None else "questions"
    output.line(output.dim(f"learned from {learned.queries:,} {source}, for {learned.k} hits at most, at {address}"))
    return 0


def read_questions(path: Path) -> list[str]:
    """The lines of a file that are not empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not text in UTF-8 ({error}): pass a file with one question a line") from error
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    questions = [line.strip() for line in lines if line.strip()]
    if not questions:
        raise InvalidInput(f"{path} has no line that is not empty, expected one question a line")
    return questions
