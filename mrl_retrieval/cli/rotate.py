"""``mrl rotate``: a collection stored anew with a rotation, where its prefixes then find more."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from mrl_retrieval.moving.rotating import rotate

from .arguments import add_options, add_progress, positive, wants_progress
from .output import Output, plural

__all__ = ["add_parsers"]

_DESCRIPTION = """Fit a rotation on the vectors of a collection, measure on a part of it whether its prefixes find more
with it, and if so store it anew and switch to the result at once. No encoder is called.

Searches go on meanwhile. An interrupted run is taken up by running it again. The old generation stays beside the new
one; mrl reindex --rollback goes back to it."""


def add_parsers(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "rotate",
        help="make the short vectors of a collection find more",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("address", metavar="URI", help="address of the collection")
    parser.add_argument("--force", action="store_true", help="rotate even where it was not measured to help")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    add_options(parser)
    parser.add_argument("--batch-size", type=positive, default=1000, metavar="N", help="rows at a time (1000)")
    add_progress(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Measure, rotate and switch."""
    began = time.perf_counter()
    report = rotate(
        arguments.address,
        force=arguments.force,
        batch_size=arguments.batch_size,
        progress=wants_progress(arguments, sys.stderr),
        backend_options=dict(arguments.option),
    )
    if arguments.json:
        output.json({name: getattr(report, name) for name in report.__slots__})
        return 0
    if report.coverage is not None and report.rotated_coverage is not None:
        output.line(
            f"true top 10 in 100 candidates: {report.coverage:.1%} as it is, {report.rotated_coverage:.1%} rotated"
        )
    if report.untouched:
        output.line(
            f"{report.address} is left as it is: rotated, it would not find more (--force rotates all the same)."
        )
        return 0
    seconds = time.perf_counter() - began
    output.line(
        f"{report.address}: {plural(report.rows, 'row')} rotated in {seconds:.1f} s. It uses the generation "
        f"{report.generation!r} now; {report.previous!r} is kept for mrl reindex --rollback."
    )
    return 0
