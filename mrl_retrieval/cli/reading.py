"""What ``mrl index`` and ``mrl embed`` share: the options that say how files become rows, and what a run did."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from mrl_retrieval.errors import InvalidInput
from mrl_retrieval.ingest import Counts, RecordOptions, SyncOptions
from mrl_retrieval.ingest.reading import check_encoding
from mrl_retrieval.ingest.records import parse_fields
from mrl_retrieval.long_texts import OnLong

from .arguments import positive
from .output import Output, plural

__all__ = ["FILES", "add_reading", "given_reading", "print_counts", "sync_options"]

FILES = """  .jsonl .ndjson   one JSON object a line; by default "_id" or "id", "title" and "text" (the form of BEIR)
  .csv .tsv        with a header; the same names by default
  anything else    a text file: one document

Each may be gzipped (.gz). In folders, text files are taken (.txt .text .md .markdown .rst, or what --glob says),
recursively; hidden files are skipped. Texts are split at headings and paragraphs; each piece becomes a row with
its file (source) and its span in characters (start, end) in its metadata."""

_DEFAULTS = {
    "id": None, "no_id": False, "text": None, "metadata_fields": None, "encoding": "utf-8", "glob": None,
    "relative_to": None, "chunk_tokens": None, "no_chunk": False, "on_long": "truncate",
}  # fmt: skip


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
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


def given_reading(arguments: argparse.Namespace) -> list[str]:
    """Those of these options that differ from their defaults, as they are written."""
    return [f"--{name.replace('_', '-')}" for name, value in _DEFAULTS.items() if getattr(arguments, name) != value]


def sync_options(arguments: argparse.Namespace) -> SyncOptions:
    """What these options add up to.

    Raises:
        InvalidInput: one of them cannot be used.
    """
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


def print_counts(output: Output, counts: Counts, last: str, seconds: float) -> None:
    """Two lines: what a run did, and ``last``."""
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
