"""``mrl diagnose``: whether an encoder's embeddings can be cut, and where, measured on a corpus of one's own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrl_retrieval.diagnosis import diagnose
from mrl_retrieval.errors import InvalidInput
from mrl_retrieval.ingest import RecordOptions, find_files
from mrl_retrieval.ingest.qrels import read_qrels
from mrl_retrieval.ingest.records import Record, read_records

from .arguments import add_batch_size, add_progress, positive, wants_progress
from .output import Output, plural, readable_bytes

__all__ = ["add_parsers"]


def add_parsers(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "diagnose",
        help="can this encoder's embeddings be cut, and where?",
        description="Encode a corpus once, and measure for every prefix length, raw and rotated, how many of the true "
        "neighbours its candidates hold and, with judgements, what a search is worth.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("encoder", help="such as wordllama, or sentence-transformers:all-MiniLM-L6-v2")
    add("--corpus", type=Path, required=True, metavar="FILE", help="documents: jsonl, csv, tsv or text, also .gz")
    add("--queries", type=Path, metavar="FILE", help="questions in the same forms; without it documents stand for them")
    add("--qrels", type=Path, metavar="FILE", help="judgements: tsv with the columns query-id, corpus-id, score")
    add("--limit", type=positive, metavar="N", help="take N documents evenly from the corpus (and all that are judged)")
    add("--dims", type=_lengths, metavar="D,D,…", help="prefix lengths; default: the powers of two from 32 up")
    add("--top-k", type=positive, default=10, metavar="K", help="true neighbours that count (10)")
    add("--candidates", type=positive, default=100, metavar="N", help="candidates of the coarse stage (100)")
    add_batch_size(parser, 256, "texts encoded at a time")
    add("--plot", type=Path, metavar="FILE", help="write a plot, as PNG (needs the extra plot)")
    add("--json", action="store_true", help="print one JSON document")
    add_progress(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Measure, and print what each length keeps."""
    if arguments.qrels is not None and arguments.queries is None:
        raise InvalidInput("--qrels judge questions: give these with --queries")
    save_plot: Any = None
    if arguments.plot is not None:
        from mrl_retrieval.diagnosis.plot import check_path, save_plot  # before the work, since it may be missing

        check_path(arguments.plot)
    corpus = _records(arguments.corpus)
    asked = None if arguments.queries is None else _records(arguments.queries)
    judged = None if arguments.qrels is None else read_qrels(arguments.qrels)
    if asked is not None and judged is not None:
        asked = [question for question in asked if judged.get(question.key)]
        if not asked:
            raise InvalidInput(f"{arguments.qrels} judges no question of {arguments.queries}: their ids differ")
    if arguments.limit is not None:
        corpus = _sample(corpus, arguments.limit, {id for gains in (judged or {}).values() for id in gains})
    report = diagnose(
        arguments.encoder,
        [record.text for record in corpus],
        queries=None if asked is None else [question.text for question in asked],
        ids=None if judged is None else [record.key for record in corpus],
        judgements=None if judged is None or asked is None else [judged[question.key] for question in asked],
        dims=arguments.dims,
        k=arguments.top_k,
        candidates=arguments.candidates,
        batch_size=arguments.batch_size,
        progress=wants_progress(arguments, sys.stderr),
    )
    if save_plot is not None:
        save_plot(report, arguments.plot)
    if arguments.json:
        output.json(report.to_json())
        return 0
    output.table(report.table(), left=2)
    output.line()
    output.line(output.bold(report.advice))
    who = (
        "documents stood for questions, which is easier"
        if report.pseudo_queries
        else plural(report.queries, "question")
    )
    size = readable_bytes(report.documents * 2 * report.dim)
    output.line(output.dim(f"{plural(report.documents, 'document')}, {size} at full length in float16; {who}"))
    if arguments.plot is not None:
        output.line(output.dim(f"plot: {arguments.plot}"))
    return 0


def _lengths(text: str) -> list[int]:
    return [positive(part.strip()) for part in text.split(",")]


def _records(path: Path) -> list[Record]:
    sources, _ = find_files([path])
    records = (record for source in sources for record in read_records(source, RecordOptions()))
    found = [record for record in records if record.text.strip()]
    if not found:
        raise InvalidInput(f"{path} holds no text")
    return found


def _sample(corpus: Sequence[Record], count: int, judged: set[str]) -> list[Record]:
    """So many records, evenly from all, and those that are judged, in their order."""
    others = [i for i, record in enumerate(corpus) if record.key not in judged]
    kept = {others[i * len(others) // count] for i in range(count)} if count < len(others) else set(others)
    return [record for i, record in enumerate(corpus) if record.key in judged or i in kept]
