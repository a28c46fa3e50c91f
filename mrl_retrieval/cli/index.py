"""``mrl index``: files into a collection, and again only what changed."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from mrl_retrieval.errors import InvalidInput
from mrl_retrieval.generations import open_current
from mrl_retrieval.ingest import find_files, sync
from mrl_retrieval.ingest.files import TEXT_GLOBS
from mrl_retrieval.retriever import MatryoshkaRetriever
from mrl_retrieval.settings import NOT_GIVEN

from .arguments import add_options, add_progress, positive, wants_progress
from .output import Output, plural
from .progress import ProgressLine
from .reading import FILES, add_reading, print_counts, sync_options
from .vectors import run_vectors

__all__ = ["add_parsers"]

DEFAULT_ENCODER = "wordllama"

_DESCRIPTION = f"""Index files, and folders of text files, into a collection.

{FILES}

Run it again, and only what is new or changed is encoded, and what is no longer in the files is dropped. Rows of
files outside the given paths are not touched. An interrupted run is finished by running it again.

With --vectors, what 'mrl embed' wrote is taken in: rows, texts and vectors. Nothing is encoded."""


def add_parsers(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "index",
        help="index files into a collection",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # A group, so that neither of them, and both, are wrong usage.
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("paths", nargs="*", default=[], metavar="PATH", help="a file or a folder")
    source.add_argument("--vectors", type=Path, metavar="DIR", help="a folder that 'mrl embed' wrote")
    parser.add_argument("--to", required=True, metavar="URI", help="address of the collection, such as faiss:./kb")

    made = parser.add_argument_group("the collection (a new one; an existing one keeps what it was made with)")
    made.add_argument("--encoder", metavar="NAME", help=f"the collection's own, for a new one {DEFAULT_ENCODER}")
    made.add_argument("--coarse-dims", type=positive, metavar="D", help="length of the coarse vectors (64)")
    made.add_argument("--fine-dims", type=positive, metavar="D", help="length of the stored vectors (all)")

    add_reading(parser)
    parser.add_argument(
        "--batch-size", type=positive, default=256, metavar="N", help="rows encoded and written at a time (256)"
    )
    add_options(parser)
    add_progress(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Find the files, open the collection, sync, say what was done."""
    if arguments.vectors is not None:
        return run_vectors(arguments, output)
    options = sync_options(arguments)
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
    print_counts(output, counts, f"{backend.address} holds {plural(rows, 'row')}{kept}.", time.perf_counter() - began)
    return 0
