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
from mrl_retrieval.settings import NOT_GIVEN

from .arguments import add_batch_size, add_command, add_dims, add_options, add_progress, wants_progress
from .output import Output, plural
from .progress import ProgressLine
from .reading import FILES, add_reading, print_counts, sync_options
from .vectors import run_vectors
from .writing import finish, print_rotation, writing

__all__ = ["add_parsers"]

DEFAULT_ENCODER = "wordllama"

_DESCRIPTION = f"""Index files, and folders of text files, into a collection.

{FILES}

Run it again, and only what is new or changed is encoded, and what is no longer in the files is dropped. Rows of
files outside the given paths are not touched. An interrupted run is finished by running it again.

With --vectors, what 'mrl embed' wrote is taken in: rows, texts and vectors. Nothing is encoded."""


def add_parsers(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "index", "index files into a collection", _DESCRIPTION)
    # A group, so that neither of them, and both, are wrong usage.
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("paths", nargs="*", default=[], metavar="PATH", help="a file or a folder")
    source.add_argument("--vectors", type=Path, metavar="DIR", help="a folder that 'mrl embed' wrote")
    parser.add_argument("--to", required=True, metavar="URI", help="address of the collection, such as faiss:./kb")

    made = parser.add_argument_group("the collection (a new one; an existing one keeps what it was made with)")
    made.add_argument("--encoder", metavar="NAME", help=f"the collection's own, for a new one {DEFAULT_ENCODER}")
    add_dims(made)
    made.add_argument(
        "--rotation", metavar="auto|FILE",
        help="auto: rotate it, also an existing one, once there are ten vectors for each dim, if short ones then find "
        "more; or a file that mrl rotate --save wrote",
    )  # fmt: skip

    add_reading(parser)
    add_batch_size(parser, 256, "rows encoded and written at a time")
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
    with open_current(arguments.to, **dict(arguments.option)) as backend:
        manifest = backend.read_manifest()
        if not sources and manifest is None:
            raise InvalidInput(f"no files to index in {', '.join(arguments.paths)}; --glob says which names to take")
        encoder = arguments.encoder or (NOT_GIVEN if manifest else DEFAULT_ENCODER)
        with writing(arguments, backend, encoder=encoder, on_long=arguments.on_long) as retriever:
            try:
                counts = sync(retriever, sources, scope, options, line)
            finally:
                line.clear()
            finish(arguments, retriever)
            rows, now = retriever.count(), retriever.manifest
            address, kept = retriever.backend.address, retriever.backend.capabilities.persistent
    last = f"{address} holds {plural(rows, 'row')}{'' if kept else ', until this process ends'}."
    print_counts(output, counts, last, time.perf_counter() - began)
    print_rotation(output, manifest, now)
    return 0
