"""``mrl copy``: a collection from one database to another."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from mrl_retrieval.generations import open_current
from mrl_retrieval.moving.copying import copy_collection
from mrl_retrieval.registry import open_backend

from .arguments import add_batch_size, add_command, add_options, add_progress, wants_progress
from .output import Output, plural

__all__ = ["add_parsers"]

_DESCRIPTION = """Copy a collection from one address to another, on any backend, vectors and all. No encoder is called.

The target must not exist yet, or be an earlier copy of the same source: an interrupted copy is taken up by running
it again, and rows written to the source since then are brought over. At the end every row has been read back and
compared."""


def add_parsers(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "copy", "copy a collection to another database", _DESCRIPTION)
    parser.add_argument("source", metavar="SOURCE", help="address of the collection")
    parser.add_argument("target", metavar="TARGET", help="address of the copy")
    parser.add_argument(
        "--allow-lossy", action="store_true", help="copy even where one side stores vectors less precisely"
    )
    for side in ("source", "target"):
        add_options(parser, f"--{side}-option", f"an option of the {side}'s backend, such as fine_dtype=float32")
    add_batch_size(parser, 1000)
    add_progress(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Copy, and say what was done."""
    began = time.perf_counter()
    with (
        open_current(arguments.source, **dict(arguments.source_option)) as source,
        open_backend(arguments.target, **dict(arguments.target_option)) as target,
    ):
        report = copy_collection(
            source,
            target,
            allow_lossy=arguments.allow_lossy,
            batch_size=arguments.batch_size,
            progress=wants_progress(arguments, sys.stderr),
        )
    seconds = time.perf_counter() - began
    if report.loss:
        output.line(f"note: {report.loss}")
    output.line(
        f"{report.target} holds {plural(report.rows, 'row')}, {report.vectors:,} with a vector, each compared with "
        f"{report.source}; {report.written:,} written, {report.removed:,} removed in {seconds:.1f} s."
    )
    return 0
