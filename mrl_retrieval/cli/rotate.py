"""``mrl rotate``: a collection stored anew with a rotation, where its prefixes then find more."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from mrl_retrieval import rotations
from mrl_retrieval.errors import InvalidInput
from mrl_retrieval.generations import open_current
from mrl_retrieval.moving.rotating import rotate
from mrl_retrieval.rotation import Rotation

from .arguments import add_batch_size, add_command, add_options, add_progress, wants_progress
from .output import Output, plural

__all__ = ["add_parsers"]

_DESCRIPTION = """Fit a rotation on the vectors of a collection, measure on a part of it whether its prefixes find more
with it, and if so store it anew and switch to the result at once. No encoder is called.

Searches go on meanwhile. An interrupted run is taken up by running it again. The old generation stays beside the new
one; mrl reindex --rollback goes back to it.

With --save, the rotation that the collection has is written to a file, and nothing else is done: for the same texts
elsewhere, with --rotation here or with mrl index."""


def add_parsers(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "rotate", "make the short vectors of a collection find more", _DESCRIPTION)
    parser.add_argument("address", metavar="URI", help="address of the collection")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--rotation", metavar="FILE", help="use this rotation, and measure nothing")
    what.add_argument("--save", metavar="FILE", help="write the rotation that the collection has to a file")
    what.add_argument("--force", action="store_true", help="rotate even where it was not measured to help")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    add_options(parser)
    add_batch_size(parser, 1000)
    add_progress(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Measure, rotate and switch; or save."""
    if arguments.save is not None:
        return _save(arguments, output)
    began = time.perf_counter()
    report = rotate(
        arguments.address,
        None if arguments.rotation is None else Rotation.load(arguments.rotation),
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


def _save(arguments: argparse.Namespace, output: Output) -> int:
    with open_current(arguments.address, **dict(arguments.option)) as backend:
        manifest = backend.manifest
        if manifest.rotation is None:
            raise InvalidInput(f"{backend.address} has no rotation to save: mrl rotate fits one")
        rotation = rotations.load(backend, manifest)
    rotation.save(arguments.save)
    told = {"file": arguments.save, **rotations.told(rotation), "dim": rotation.dim}
    if arguments.json:
        output.json(told)
    else:
        output.line(f"{arguments.save}: rotation {rotation.fingerprint} of {rotation.dim} dims")
    return 0
