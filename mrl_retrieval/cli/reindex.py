"""``mrl reindex``: a collection with another encoder, from the documents it stores."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, get_args

from mrl_retrieval.errors import InvalidInput
from mrl_retrieval.long_texts import OnLong
from mrl_retrieval.moving.reindexing import reindex
from mrl_retrieval.moving.switching import rollback
from mrl_retrieval.settings import NOT_GIVEN

from .arguments import add_options, add_progress, positive, wants_progress
from .output import Output, plural

__all__ = ["add_parsers"]

_DESCRIPTION = """Embed the documents that a collection stores with another encoder, and switch to the result at once.

Searches go on meanwhile. An interrupted run is taken up by running it again. The old generation stays beside the new
one until the next reindexing; --rollback goes back to it."""


def add_parsers(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "reindex",
        help="embed a collection anew with another encoder",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("address", metavar="URI", help="address of the collection")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--encoder", metavar="NAME", help="the new encoder, such as wordllama")
    what.add_argument("--rollback", action="store_true", help="go back to the generation before, or forth again")
    parser.add_argument("--coarse-dims", type=positive, metavar="D", help="length of the coarse vectors (as before)")
    parser.add_argument("--fine-dims", type=positive, metavar="D", help="length of the stored vectors (all)")
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
    parser.add_argument("--batch-size", type=positive, default=256, metavar="N", help="rows at a time (256)")
    add_progress(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Embed and switch, or go back."""
    options = dict(arguments.option)
    if arguments.rollback:
        if arguments.coarse_dims or arguments.fine_dims:
            raise InvalidInput("--rollback goes back to what is there: --coarse-dims and --fine-dims cannot be changed")
        name = rollback(arguments.address, backend_options=options)
        output.line(f"{arguments.address} uses the generation {name!r} now.")
        return 0
    began = time.perf_counter()
    report = reindex(
        arguments.address,
        arguments.encoder,
        coarse_dims=NOT_GIVEN if arguments.coarse_dims is None else arguments.coarse_dims,
        fine_dims=arguments.fine_dims,
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
    if report.without_text:
        output.line(f"note: {plural(report.without_text, 'row')} without a document will not be found by any search")
    if report.long_texts:
        output.line(f"note: {plural(report.long_texts, 'text')} beyond the encoder's context (--on-long)")
    return 0
