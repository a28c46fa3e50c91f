"""``mrl why-not``: where a search loses a document, and what would have kept it."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from mrl_retrieval.retriever import MatryoshkaRetriever
from mrl_retrieval.settings import NOT_GIVEN

from .arguments import add_options, add_reranker, filter_json, given_reranker, positive
from .output import Output, on_one_line

__all__ = ["add_parsers"]


def add_parsers(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "why-not",
        help="say why a search does not find a document",
        description="Say at which stage of a search a document is lost, by how much, and the smallest number of "
        "candidates or hits that would have kept it.",
        allow_abbrev=False,
    )
    parser.add_argument("address", metavar="URI", help="address of the collection, such as faiss:./kb")
    parser.add_argument("query", help="the text that was searched for")
    parser.add_argument("id", metavar="ID", help="of the document, as mrl search shows it")
    parser.add_argument("--top-k", type=positive, metavar="K", help="hits wanted (10)")
    parser.add_argument("--coarse-top-k", type=positive, metavar="N", help="candidates of the coarse stage (200)")
    parser.add_argument("--filter", type=filter_json, metavar="JSON", help="only rows whose metadata match")
    parser.add_argument("--exact", action="store_true", help="of a search that scores every full vector")
    add_reranker(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--encoder", metavar="NAME", help="where the collection does not know its encoder's name: which it was"
    )
    add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Find out and print."""
    options = dict(arguments.option)
    with MatryoshkaRetriever.open(arguments.address, encoder=arguments.encoder, backend_options=options) as retriever:
        why = retriever.why_not(
            arguments.query,
            arguments.id,
            NOT_GIVEN if arguments.top_k is None else arguments.top_k,
            coarse_top_k=NOT_GIVEN if arguments.coarse_top_k is None else arguments.coarse_top_k,
            filter=arguments.filter,
            exact=arguments.exact,
            **given_reranker(arguments),
        )
    if arguments.json:
        output.json(asdict(why) | {"lost_by": why.lost_by, "why": str(why)})
    else:
        output.line(on_one_line(str(why)))
    return 0
