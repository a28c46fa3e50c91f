"""``mrl evaluate``: what each prefix length of an encoder is worth, on tasks of one's own."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mrl_retrieval.errors import InvalidInput

from .arguments import add_batch_size, add_command, add_progress, dims, positive, wants_progress
from .output import Output, plural

__all__ = ["add_parsers"]

_DESCRIPTION = """Measure what each prefix length of an encoder is worth. Every text is encoded once. A task is one of

  search:FOLDER          in BEIR's form: corpus.jsonl, queries.jsonl and qrels/test.tsv or qrels.tsv
  classification:FILE    columns text, label and, if there, split (train, test)
  clustering:FILE        columns text, label
  sts:FILE               columns sentence1, sentence2, score
  pairs:FILE             columns sentence1, sentence2 and, if there, label (1: they belong together, 0: not)

Files are jsonl, csv or tsv, also .gz. Columns of other names are options: clustering:FILE?label=intent&text=question.
Needs the extra evaluate."""


def add_parsers(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "evaluate", "what is each prefix length of an encoder worth?", _DESCRIPTION)
    add = parser.add_argument
    add("--encoder", required=True, metavar="NAME", help="such as wordllama, or sentence-transformers:all-MiniLM-L6-v2")
    add("--task", required=True, action="append", nargs="+", metavar="TASK", help="what to measure on; may be repeated")
    add("--dims", type=dims, metavar="D,…", help="prefix lengths; default: the powers of two from 32 up")
    add("--top-k", type=positive, default=10, metavar="K", help="hits of a search that count (10)")
    add("--candidates", type=positive, default=100, metavar="N", help="candidates of the coarse stage (100)")
    add("--rotate", action="store_true", help="measure rotated prefixes too; fitting takes a while for each task")
    add("--cache", type=Path, metavar="FILE", help="keep embeddings in this file, and take them from there")
    add("--json", type=Path, metavar="FILE", help="write the report, as docs/evaluation.md describes it")
    add_batch_size(parser, 256, "texts encoded at a time")
    add_progress(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Measure, print a table for each task, and write the report."""
    from mrl_retrieval.evaluation import evaluate  # here, because it needs the extra

    if arguments.json is not None:
        _check_writable(arguments.json)  # before the work, which would be lost
    report = evaluate(
        arguments.encoder,
        [task for tasks in arguments.task for task in tasks],
        dims=arguments.dims,
        k=arguments.top_k,
        candidates=arguments.candidates,
        rotate=arguments.rotate,
        cache=arguments.cache or False,
        batch_size=arguments.batch_size,
        progress=wants_progress(arguments, sys.stderr),
    )
    for task in report.tasks:
        counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in task.counts.items() if count)
        output.line(output.bold(f"{task.name}  ") + output.dim(counts))
        output.table(task.table(), left=2)
        rate = f", {task.encoded / task.encode_seconds:,.0f}/s" if task.encode_seconds > 0 else ""
        output.line(output.dim(f"  {plural(task.encoded, 'text')} encoded in {task.encode_seconds:.2f} s{rate}"))
        output.line()
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.to_json(), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        output.line(output.dim(f"report: {arguments.json}"))
    return 0


def _check_writable(path: Path) -> None:
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder; name a file for --json")
    if not path.parent.is_dir():
        raise InvalidInput(f"{path}: no such folder {path.parent}; make it first")
