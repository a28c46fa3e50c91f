"""``mrl reindex``: a collection with another encoder, from the documents it stores."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, Literal, get_args

from mrl_retrieval.errors import InvalidInput
from mrl_retrieval.long_texts import OnLong
from mrl_retrieval.moving.reindexing import reindex
from mrl_retrieval.moving.switching import rollback
from mrl_retrieval.rotation import Rotation
from mrl_retrieval.settings import NOT_GIVEN, NotGiven

from .arguments import add_batch_size, add_command, add_dims, add_options, add_progress, wants_progress
from .output import Output, plural
from .rotation import rotation_of

__all__ = ["add_parsers"]

_DESCRIPTION = """Embed the documents that a collection stores with another encoder, and switch to the result at once.

Searches go on meanwhile. An interrupted run is taken up by running it again. The old generation stays beside the new
one until the next reindexing; --rollback goes back to it."""


def add_parsers(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "reindex", "embed a collection anew with another encoder", _DESCRIPTION)
    parser.add_argument("address", metavar="URI", help="address of the collection")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--encoder", metavar="NAME", help="the new encoder, such as wordllama")
    what.add_argument("--rollback", action="store_true", help="go back to the generation before, or forth again")
    add_dims(parser, coarse="as before")
    parser.add_argument(
        "--rotation", metavar="auto|none|FILE",
        help="of the new vectors: auto fits one and keeps it if it helps; none; or one from a file (auto where the "
        "collection has a rotation, else none)",
    )  # fmt: skip
    parser.add_argument(
        "--on-long", choices=get_args(OnLong), default="truncate", help="a text beyond the encoder's context"
    )
    parser.add_argument(
        "--allow-without-text",
        action="store_true",
        help="keep rows that have no document, although no search will find them",
    )
    parser.add_argument(
        "--force", action="store_true", help="embed anew even where the encoder and the dims are the same"
    )
    add_options(parser)
    add_batch_size(parser, 256)
    add_progress(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Embed and switch, or go back."""
    options = dict(arguments.option)
    if arguments.rollback:
        if arguments.coarse_dims or arguments.fine_dims or arguments.rotation:
            raise InvalidInput(
                "--rollback goes back to what is there: --coarse-dims, --fine-dims and --rotation cannot be changed"
            )
        name = rollback(arguments.address, backend_options=options)
        output.line(f"{arguments.address} uses the generation {name!r} now.")
        return 0
    began = time.perf_counter()
    report = reindex(
        arguments.address,
        arguments.encoder,
        coarse_dims=NOT_GIVEN if arguments.coarse_dims is None else arguments.coarse_dims,
        fine_dims=arguments.fine_dims,
        rotation=_rotation(arguments.rotation),
        on_long=arguments.on_long,
        allow_without_text=arguments.allow_without_text,
        force=arguments.force,
        batch_size=arguments.batch_size,
        progress=wants_progress(arguments, sys.stderr),
        backend_options=options,
    )
    if report.untouched:
        output.line(f"{report.address} has this encoder and these dims already (--force embeds it anew all the same).")
        return 0
    seconds = time.perf_counter() - began
    output.line(
        f"{report.address}: {plural(report.rows, 'row')}, {report.encoded:,} encoded in {seconds:.1f} s. It uses the "
        f"generation {report.generation!r} now; {report.previous!r} is kept for --rollback."
    )
    if report.coverage is not None and report.rotated_coverage is not None:
        done = "rotated" if report.fingerprint else "not rotated"
        found = f"top 10 in 100 candidates {report.coverage:.1%}, rotated {report.rotated_coverage:.1%}"
        output.line(f"The new vectors are {done}: {found} (measured on a sample).")
    if report.without_text:
        output.line(f"note: {plural(report.without_text, 'row')} without a document will not be found by any search")
    if report.long_texts:
        output.line(f"note: {plural(report.long_texts, 'text')} beyond the encoder's context (--on-long)")
    return 0


def _rotation(text: str | None) -> Rotation | Literal["auto"] | NotGiven | None:
    if text is None:
        return NOT_GIVEN
    return None if text == "none" else rotation_of(text)
