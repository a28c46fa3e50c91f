"""``mrl recall``: what searches of a collection find of the true best, as exact search gives it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mrl_retrieval.monitoring import RecallReport
from mrl_retrieval.retriever import MatryoshkaRetriever
from mrl_retrieval.settings import NOT_GIVEN

from .arguments import add_options, add_progress, filter_json, positive, share, wants_progress
from .output import Output, fitted, on_one_line, plural
from .questions import questions

__all__ = ["add_parsers"]

_SHOWN = 3
"""Queries that lost most, and hits that each lost, that are printed."""


def add_parsers(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "recall",
        help="measure what searches find of the true best",
        description="Hold searches to the collection's own exact search: the share of the true best that they find, "
        "with bounds that hold with 95 %% confidence, and the questions that lost most.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("address", metavar="URI", help="address of the collection, such as faiss:./kb")
    add(
        "--queries", type=Path, metavar="FILE",
        help="ten questions at least, better 200, one a line; without it documents stand for them, which is easier",
    )  # fmt: skip
    add("--n", type=positive, metavar="N", default=200, help="documents that stand for questions (200)")
    add("--filter", type=filter_json, metavar="JSON", help="only rows whose metadata match")
    add("--top-k", type=positive, metavar="K", help="hits of a search (10)")
    add("--coarse-top-k", type=positive, metavar="N", help="candidates of the coarse stage (200)")
    add("--recall", type=share, metavar="SHARE", help="instead of --coarse-top-k: what 'mrl learn' learned for it")
    add("--encoder", metavar="NAME", help="where the collection does not know its encoder's name: which it was")
    add("--json", action="store_true", help="print one JSON document")
    add_progress(parser)
    add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Measure, and print what was found and what was lost."""
    queries = None if arguments.queries is None else questions(arguments.queries)
    options = dict(arguments.option)
    with MatryoshkaRetriever.open(arguments.address, encoder=arguments.encoder, backend_options=options) as retriever:
        report = retriever.measure_recall(
            queries,
            arguments.n,
            arguments.filter,
            top_k=NOT_GIVEN if arguments.top_k is None else arguments.top_k,
            coarse_top_k=NOT_GIVEN if arguments.coarse_top_k is None else arguments.coarse_top_k,
            recall=arguments.recall,
            progress=wants_progress(arguments, sys.stderr),
        )
        address = str(retriever.backend.address)
    if arguments.json:
        output.json({"address": address, **report.to_json()})
        return 0
    _print(report, address, output)
    return 0


def _print(report: RecallReport, address: str, output: Output) -> None:
    share = f"{100 * report.confidence:g} %"
    output.line(
        output.bold(f"recall@{report.k} {report.mean:.4f}")
        + f", with {share} confidence from {report.lower:.4f} to {report.upper:.4f}"
    )
    stages = " → ".join(f"{stage.limit:,} by {stage.dims} dims" for stage in report.stages)
    output.line(stages if report.asked is None else f"as deep as was learned for {report.asked:g}")
    for worst in report.worst[:_SHOWN]:
        start = f"  {worst.recall:.2f}  "
        output.line(start + fitted(on_one_line(str(worst.query)), output.width - len(start)))
        for hit in worst.lost[:_SHOWN]:
            start = f"        lost {hit.score:.3f}  "
            text = on_one_line(f"{hit.id}  {hit.document or ''}")
            output.line(output.dim(start + fitted(text, output.width - len(start))))
    who = "documents stood for questions, which is easier" if report.pseudo_queries else "as asked"
    each = [f"{1000 * seconds / (report.n or 1):.2f} ms" for seconds in (report.seconds, report.exact_seconds)]
    output.line(
        output.dim(f"{plural(report.n, 'question')} at {address}, {who}; {each[0]} each, {each[1]} by exact search")
    )
    if report.changed or report.empty:
        left = f"{report.changed:,} since the collection changed, {report.empty:,} since nothing was there to find"
        output.line(output.dim(f"left out: {left}"))
