"""``mrl embed``: files into vectors on disk, at several lengths; and again only what changed."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from mrl_retrieval.encoder import Encoder, as_encoder
from mrl_retrieval.errors import EncoderRequired, InvalidInput
from mrl_retrieval.identity import make_canaries
from mrl_retrieval.ingest import find_files, sync
from mrl_retrieval.ingest.files import TEXT_GLOBS
from mrl_retrieval.resolutions import ResolutionWriter, resolution_summary
from mrl_retrieval.resolutions.contents import Contents, existing
from mrl_retrieval.resolutions.saving import all_dims
from mrl_retrieval.resolutions.target import EncodingTarget

from .arguments import add_batch_size, add_command, add_progress, dims, wants_progress
from .output import Output, plural, readable_bytes
from .progress import ProgressLine
from .reading import FILES, add_reading, print_counts, sync_options

__all__ = ["add_parsers"]

DEFAULT_ENCODER = "wordllama"
DEFAULT_DIMS = (64,)

_DESCRIPTION = f"""Embed files, and folders of text files, into a folder of vectors: float16, one file for each length,
with the texts beside them. 'mrl index --vectors' takes it into a collection.

{FILES}

Run it again, and only what is new or changed is encoded, and what is no longer in the files is dropped. A run that
was interrupted, or killed, goes on where it was when it is run again; until it is done the folder holds what it held
before."""


def add_parsers(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "embed", "embed files into vectors on disk, at several lengths", _DESCRIPTION)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a file or a folder")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder to write")

    made = parser.add_argument_group("the vectors (of a new folder; an existing one keeps what it was made with)")
    made.add_argument("--model", metavar="NAME", help=f"the encoder; the folder's own, for a new one {DEFAULT_ENCODER}")
    made.add_argument("--dims", type=dims, metavar="D,…", help="lengths to store, besides the full one (64)")
    add_reading(parser)
    add_batch_size(parser, 256, "rows encoded and written at a time")
    add_progress(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Find the files, open the folder, sync, publish, say what was done."""
    options = sync_options(arguments)
    sources, scope = find_files(arguments.paths, globs=arguments.glob or TEXT_GLOBS, relative_to=arguments.relative_to)
    there = existing(arguments.out)
    if not sources and there is None:
        raise InvalidInput(f"no files to embed in {', '.join(arguments.paths)}; --glob says which names to take")
    began = time.perf_counter()
    line = ProgressLine(sys.stderr, shown=wants_progress(arguments, sys.stderr))
    encoder = _encoder(arguments.model, there, arguments.out)
    with ResolutionWriter(
        arguments.out,
        _dims(arguments.dims, there, encoder),
        identity=encoder.identity,
        canaries=make_canaries(encoder) if there is None else there.canaries,
    ) as writer:
        target = EncodingTarget(arguments.out, writer, encoder, arguments.on_long)
        try:
            counts = sync(target, sources, scope, options, line)
        finally:
            line.clear()
        writer.finish()
    summary = resolution_summary(arguments.out)
    stored = ", ".join(f"{dim}: {readable_bytes(count)}" for dim, count in summary.bytes.items())
    of_full = f"{summary.share():.0%} of the full vectors in float32" if summary.rows else "no vectors"
    last = f"{arguments.out} holds {plural(summary.rows, 'row')} ({stored}; {of_full})."
    print_counts(output, counts, last, time.perf_counter() - began)
    return 0


def _encoder(name: str | None, there: Contents | None, folder: Path) -> Encoder:
    known = None if there is None or there.encoder is None else there.encoder.name
    if name is None and there is not None and known is None:
        raise EncoderRequired(f"{folder} does not know its encoder by name; name it with --model")
    return as_encoder(name or known or DEFAULT_ENCODER)


def _dims(wanted: tuple[int, ...] | None, there: Contents | None, encoder: Encoder) -> tuple[int, ...]:
    if wanted is not None:
        return all_dims(wanted, encoder.dim)
    if there is not None:
        return there.dims
    return all_dims([dim for dim in DEFAULT_DIMS if dim < encoder.dim], encoder.dim)
