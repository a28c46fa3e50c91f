"""``mrl plan``: the cheapest search that provably finds a share of the true nearest documents, kept as the default."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mrl_retrieval.planning import SearchPlan
from mrl_retrieval.retriever import MatryoshkaRetriever

from .arguments import add_command, add_options, positive, share
from .output import Output
from .questions import questions

__all__ = ["add_parsers"]

_DESCRIPTION = """Find the cheapest search of a collection that provably finds a share of the true nearest documents,
and search so from now on. What is printed below the plan is the frontier: the share that other
prefixes and numbers of candidates cover.

  mrl plan faiss:./kb --queries questions.txt
  mrl plan faiss:./kb --target-recall 0.95 --dry-run

The status is 3 where nothing could be planned: more queries are needed, or no setting reaches the target."""

_NOTHING = 3


def add_parsers(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "plan", "find the cheapest search that reaches a recall", _DESCRIPTION)
    add = parser.add_argument
    add("address", metavar="URI", help="address of the collection, such as faiss:./kb")
    add("--target-recall", type=share, default=0.99, metavar="R", help="share of the true best k to be found (0.99)")
    add("--k", type=positive, default=10, metavar="K", help="hits of a search (10)")
    add(
        "--queries", type=Path, metavar="FILE",
        help="questions like those that will be asked, one a line; without it documents stand for questions, and "
        "somewhat less recall than promised is found",
    )  # fmt: skip
    add("--confidence", type=share, default=0.95, metavar="C", help="of the promise (0.95)")
    add("--budget", choices=("latency", "memory"), default="latency", help="what is to be cheap (latency)")
    add("--dry-run", action="store_true", help="keep nothing")
    add("--encoder", metavar="NAME", help="where the collection does not know its encoder's name: which it was")
    add("--json", action="store_true", help="print one JSON document")
    add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Plan, and print what was found."""
    asked = None if arguments.queries is None else questions(arguments.queries)
    options = dict(arguments.option)
    with MatryoshkaRetriever.open(arguments.address, encoder=arguments.encoder, backend_options=options) as retriever:
        plan = retriever.plan(
            arguments.target_recall,
            arguments.k,
            asked,
            arguments.confidence,
            arguments.budget,
            store=not arguments.dry_run,
        )
    if arguments.json:
        output.json(plan.to_json())
    else:
        _print(output, plan)
    return 0 if plan.verdict in ("planned", "flat") else _NOTHING


def _print(output: Output, plan: SearchPlan) -> None:
    output.line(output.bold(plan.reason))
    if plan.verdict == "planned" and plan.seconds is not None:
        output.line(
            f"found {plan.recall:.4f}, at least {plan.bound:.4f} of all such queries; {1000 * plan.seconds:.2f} ms a "
            f"search, {1000 * plan.flat_seconds:.2f} ms an exact one"
        )
    output.line()
    output.table(plan.table())
    output.line(output.dim(f"  true top {plan.k} among so many candidates; a funnel keeps a quarter of them"))
    output.line()
    for sentence in plan.advice:
        output.line(f"instead: {sentence}")
    output.line(output.dim(plan.told + (", which are easier than questions" if plan.source == "documents" else "")))
    kept = "kept: searches of this collection use it from now on" if plan.stored else "nothing was kept"
    output.line(output.dim(kept))
