"""``mrl index``: files into a collection, and again only what changed."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, get_args

from mrl_retrieval.errors import InvalidInput
from mrl_retrieval.generations import open_current
from mrl_retrieval.ingest import Counts, RecordOptions, SyncOptions, find_files, sync
from mrl_retrieval.ingest.files import TEXT_GLOBS
from mrl_retrieval.ingest.reading import check_encoding
from mrl_retrieval.ingest.records import parse_fields
from mrl_retrieval.long_texts import OnLong
from mrl_retrieval.retriever import MatryoshkaRetriever
from mrl_retrieval.settings import NOT_GIVEN

from .arguments import add_options, add_progress, positive, wants_progress
from .output import Output, plural
from .progress import ProgressLine

__all__ = ["add_parsers"]

DEFAULT_ENCODER = "wordllama"

_DESCRIPTION = """Index files, and folders of text files, into a collection.

  .jsonl .ndjson   one JSON object a line; by default "_id" or "id", "title" and "text" (the form of BEIR)
  .csv .tsv        with a header; the same names by default
  anything else    a text file: one document

Each may be gzipped (.gz). In folders, text files are taken (.txt .text .md .markdown .rst, or what --glob says),
recursively; hidden files are skipped. Texts are split at headings and paragraphs; each piece becomes a row with
its file (source) and its span in characters (start, end) in its metadata.

Run it again, and only what is new or changed is encoded, and what is no longer in the files is dropped. Rows of
files outside the given paths are not touched. An interrupted run is finished by running it again."""


def add_parsers(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "index",
        help="index files into a collection",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a file or a folder")
    parser.add_argument("--to", required=True, metavar="URI", help="address of the collection, such as faiss:./kb")

    made = parser.add_argument_group("the collection (a new one; an existing one keeps what it was made with)")
    made.add_argument("--encoder", metavar="NAME", help=f"the collection's own, for a new one {DEFAULT_ENCODER}")
    made.add_argument("--coarse-dims", type=positive, metavar="D", help="length of the coarse vectors (64)")
    made.add_argument("--fine-dims", type=positive, metavar="D", help="length of the stored vectors (all)")

    fields = parser.add_argument_group("fields of jsonl and csv")
    ids = fields.add_mutually_exclusive_group()
    ids.add_argument(
        "--id", metavar="F", help="the field with the id (_id or id; where there is none, made from the content)"
    )
    ids.add_argument("--no-id", action="store_true", help="make every id from the content")
    fields.add_argument("--text", metavar="F,…", help="the fields with the text, joined by blank lines (title, text)")
    fields.add_argument(
        "--metadata-fields",
        metavar="F,…",
        help="fields to keep as metadata; new=old renames (title, unless --text is given)",
    )

    reading = parser.add_argument_group("reading")
    reading.add_argument(
        "--encoding", default="utf-8", metavar="NAME", help="of the files (utf-8, with or without BOM)"
    )
    reading.add_argument(
        "--glob", action="append", metavar="PATTERN", help="file names to take from folders; may be repeated"
    )
    reading.add_argument(
        "--relative-to", type=Path, metavar="DIR",
        help="name files by their path below DIR, so that another copy of the folder, elsewhere, is the same source "
        "(by default the absolute path)",
    )  # fmt: skip

    split = parser.add_argument_group("splitting")
    chunk = split.add_mutually_exclusive_group()
    chunk.add_argument(
        "--chunk-tokens",
        type=positive,
        metavar="N",
        help="tokens of a piece at most (the encoder's context, at most 256)",
    )
    chunk.add_argument("--no-chunk", action="store_true", help="one row a document")
    split.add_argument(
        "--on-long", choices=get_args(OnLong), default="truncate",
        help="with --no-chunk, a text beyond the encoder's context: cut it (truncate), refuse it (error), or take the "
        "mean of the vectors of its pieces (chunk)",
    )  # fmt: skip

    parser.add_argument(
        "--batch-size", type=positive, default=256, metavar="N", help="rows encoded and written at a time (256)"
    )
    add_options(parser)
    add_progress(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Find the files, open the collection, sync, say what was done."""
    options = _options(arguments)
    sources, scope = find_files(arguments.paths, globs=arguments.glob or TEXT_GLOBS, relative_to=arguments.relative_to)
    began = time.perf_counter()
    line = ProgressLine(sys.stderr, shown=wants_progress(arguments, sys.stderr))
    backend = open_current(arguments.to, **dict(arguments.option))
    try:
        exists = backend.read_manifest() is not None
        if not sources and not exists:
            raise InvalidInput(f"no files to index in {', '.join(arguments.paths)}; --glob says which names to take")
        retriever = MatryoshkaRetriever(
            encoder=arguments.encoder or (NOT_GIVEN if exists else DEFAULT_ENCODER),
            backend=backend,
            coarse_dims=NOT_GIVEN if arguments.coarse_dims is None else arguments.coarse_dims,
            fine_dims=arguments.fine_dims,
            on_long=arguments.on_long,
        )
        try:
            counts = sync(retriever, sources, scope, options, line)
        finally:
            line.clear()
        rows = retriever.count()
    finally:
        backend.close()
    kept = "" if backend.capabilities.persistent else ", until this process ends"
    _summary(output, counts, f"{backend.address} holds {plural(rows, 'row')}{kept}.", time.perf_counter() - began)
    return 0


def _options(arguments: argparse.Namespace) -> SyncOptions:
    text = tuple(name.strip() for name in arguments.text.split(",")) if arguments.text is not None else ()
    if not all(text):
        raise InvalidInput(f"--text {arguments.text!r} has an empty field name")
    records = RecordOptions(
        id=arguments.id,
        no_id=arguments.no_id,
        text=text,
        metadata=parse_fields(arguments.metadata_fields) if arguments.metadata_fields is not None else {},
        encoding=check_encoding(arguments.encoding),
    )
    return SyncOptions(
        records=records,
        chunk=not arguments.no_chunk,
        chunk_tokens=arguments.chunk_tokens,
        batch_size=arguments.batch_size,
        on_long=arguments.on_long,
    )


def _summary(output: Output, counts: Counts, last: str, seconds: float) -> None:
    parts = [
        f"{counts.new:,} new, {counts.changed:,} changed, {counts.unchanged:,} unchanged, {counts.dropped:,} dropped"
    ]
    if counts.empty:
        parts.append(f"{counts.empty:,} without text")
    if counts.duplicates:
        parts.append(f"{counts.duplicates:,} repeated")
    written = counts.new + counts.changed
    rate = f", {written / seconds:,.0f} documents/s" if written else ""
    output.line(
        f"{plural(counts.documents, 'document')} in {plural(counts.files, 'file')}: {'; '.join(parts)}. "
        f"{plural(counts.chunks, 'row')} written, {counts.chunks_dropped:,} dropped in {seconds:.1f} s{rate}."
    )
    output.line(last)
