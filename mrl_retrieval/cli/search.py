"""``mrl search``: one query, and what each stage did."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from typing import Any

from mrl_retrieval.documents import Hit, SearchResult
from mrl_retrieval.errors import InvalidInput
from mrl_retrieval.ingest import BOOKKEEPING
from mrl_retrieval.retriever import MatryoshkaRetriever
from mrl_retrieval.settings import NOT_GIVEN

from .arguments import add_options, add_reranker, filter_json, given_reranker, positive, share
from .output import Output, fitted, on_one_line, plural, readable_bytes, snippet, text_width

__all__ = ["add_parsers"]

_NARROWEST_SOURCE = 12  # columns; a name cut to less says nothing


def add_parsers(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "search",
        help="search a collection",
        description="Search a collection, best hits first: score (cosine over the full vectors), coarse score (over "
        "the prefixes), id, source, and the part of the text with most of the query's words.",
        epilog="With --json the output is one JSON document: query, address, seconds, certificate, hits (rank, id, "
        "score, coarse_score, document, metadata, ranks, rerank_score) and stages (name, dims, candidates_in, "
        "candidates_out, seconds, bytes_read, last_score, margin).",
        allow_abbrev=False,
    )
    parser.add_argument("address", metavar="URI", help="address of the collection, such as faiss:./kb")
    parser.add_argument("query", help="the text to search for")
    parser.add_argument("--top-k", type=positive, metavar="K", help="hits wanted (10)")
    parser.add_argument("--coarse-top-k", type=positive, metavar="N", help="candidates of the coarse stage (200)")
    parser.add_argument(
        "--recall",
        type=share,
        metavar="SHARE",
        help="as deep as this share of the best needs by what 'mrl learn' learned",
    )
    parser.add_argument("--filter", type=filter_json, metavar="JSON", help="only rows whose metadata match")
    parser.add_argument("--exact", action="store_true", help="score every full vector: what the stages approximate")
    parser.add_argument("--explain", action="store_true", help="show what each stage did, and the hits' ranks in each")
    add_reranker(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--encoder", metavar="NAME", help="where the collection does not know its encoder's name: which it was"
    )
    add_options(parser)
    parser.set_defaults(run=run)


def _opened(arguments: argparse.Namespace) -> MatryoshkaRetriever:
    return MatryoshkaRetriever.open(
        arguments.address, encoder=arguments.encoder, backend_options=dict(arguments.option)
    )


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Search and print."""
    if arguments.recall is not None and (arguments.exact or arguments.coarse_top_k is not None):
        raise InvalidInput("--recall chooses the depth by itself: leave out --exact and --coarse-top-k")
    with _opened(arguments) as retriever:
        _ = retriever.encoder  # loaded before the clock starts
        began = time.perf_counter()
        result = retriever.search(
            arguments.query,
            NOT_GIVEN if arguments.top_k is None else arguments.top_k,
            coarse_top_k=NOT_GIVEN if arguments.coarse_top_k is None else arguments.coarse_top_k,
            filter=arguments.filter,
            exact=arguments.exact,
            recall=arguments.recall,
            explain=True,
            **given_reranker(arguments),
        )
        seconds = time.perf_counter() - began
        address = str(retriever.backend.address)
    if arguments.json:
        output.json(
            {
                "query": arguments.query,
                "address": address,
                "seconds": seconds,
                "certificate": result.certificate,
                "hits": [_hit_json(rank, hit) for rank, hit in enumerate(result, start=1)],
                "stages": _stages_json(result),
            }
        )
        return 0
    for rank, hit in enumerate(result, start=1):
        _print_hit(output, rank, hit, arguments.query)
    output.line(output.dim(f"{plural(len(result), 'hit')} in {seconds * 1000:.1f} ms from {address}"))
    if arguments.explain:
        _print_stages(output, result)
    return 0


def _print_stages(output: Output, result: SearchResult) -> None:
    """A table of what each stage did, and one of the hits' ranks."""
    stages = result.trace.stages if result.trace else ()
    rows = [["stage", "dims", "in", "out", "ms", "read", "last score", "margin"]]
    for stage in stages:
        read = "" if stage.bytes_read is None else readable_bytes(stage.bytes_read)
        counts = [_count(stage.dims), _count(stage.candidates_in), _count(stage.candidates_out)]
        scores = [_score(stage.last_score), _score(stage.margin)]
        rows.append([stage.name, *counts, f"{stage.seconds * 1000:.2f}", read, *scores])
    output.table(rows)
    if len(result):
        output.line()
        names = [stage.name if stage.dims is None else f"{stage.name} {stage.dims}" for stage in stages]
        room = output.width - sum(len(name) + 2 for name in names) - 2
        ranks = [[fitted(on_one_line(hit.id), room, keep_end=True), *map(str, hit.ranks or ())] for hit in result]
        output.table([["rank in", *names], *ranks])


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _stages_json(result: SearchResult) -> list[dict[str, Any]]:
    """What each stage did, as JSON."""
    return [asdict(stage) for stage in (result.trace.stages if result.trace else ())]


def _hit_json(rank: int, hit: Hit) -> dict[str, Any]:
    return {
        "rank": rank,
        "id": hit.id,
        "score": hit.score,
        "coarse_score": hit.coarse_score,
        "document": hit.document,
        "metadata": {key: value for key, value in hit.metadata.items() if key != BOOKKEEPING},
        "ranks": hit.ranks,
        "rerank_score": hit.rerank_score,
    }


def _print_hit(output: Output, rank: int, hit: Hit, query: str) -> None:
    coarse = "" if hit.coarse_score is None else f"coarse {hit.coarse_score:.3f}  "
    if hit.rerank_score is not None:
        coarse += f"reranked {hit.rerank_score:.3f}  "
    room = output.width - len(f"{rank:>3}  {hit.score:.3f}  {coarse}")
    name, source, span = on_one_line(hit.id), *_origin(hit)
    name = fitted(name, room - len(span), keep_end=True)
    room -= text_width(name) + len(span) + 2
    source = f"  {fitted(source, room, keep_end=True)}" if source and room >= _NARROWEST_SOURCE else ""
    output.line(f"{rank:>3}  {output.bold(f'{hit.score:.3f}')}  {output.dim(coarse)}{name}{output.dim(source + span)}")
    for line in snippet(hit.document or "", query, output.width - 5):
        output.line("     " + line)
    output.line()


def _origin(hit: Hit) -> tuple[str, str]:
    """File, and span in characters; nothing for rows that were not made from files.

    The pieces of a text file are named after it, so its name is not printed twice.
    """
    source, start, end = (hit.metadata.get(key) for key in ("source", "start", "end"))
    if not isinstance(source, str):
        return "", ""
    span = f" [{start}-{end}]" if isinstance(start, int) and isinstance(end, int) else ""
    return "" if hit.id.startswith(source) else on_one_line(source), span
