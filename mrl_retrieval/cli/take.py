"""``mrl import``: a two-stage collection of one that another program made."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from mrl_retrieval.moving.importing import Fields, import_collection
from mrl_retrieval.settings import NOT_GIVEN

from .arguments import add_batch_size, add_command, add_dims, add_options, add_progress, wants_progress
from .output import Output, plural

__all__ = ["add_parsers"]

_DESCRIPTION = """Make a two-stage collection of one that another program made: its vectors, documents and metadata.
Nothing is encoded. The original is only read, and stays as it is.

  mrl import chroma:./theirs?collection=docs
  mrl import qdrant+http://localhost:6333?collection=docs --text-field page_content --encoder wordllama
  mrl import pgvector+postgresql://localhost/shop?collection=items --vector-field embedding --text-field body"""


def add_parsers(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "import", "make a two-stage collection of an existing one", _DESCRIPTION)
    parser.add_argument("source", metavar="URI", help="address of the collection or table to read")
    parser.add_argument(
        "--to", metavar="URI", help="address of the new collection (beside the other, its name with -mrl appended)"
    )
    parser.add_argument(
        "--collection", metavar="NAME", help="its name, where an address cannot hold it, such as one with spaces"
    )
    parser.add_argument("--vector-field", metavar="F", help="the field, column or vector name with the embeddings")
    parser.add_argument("--text-field", metavar="F", help="the field with the text")
    parser.add_argument("--id-field", metavar="F", help="the field with the id (the database's own)")
    parser.add_argument("--metadata-fields", metavar="F,…", help="fields to keep as metadata (all others)")
    parser.add_argument(
        "--encoder", metavar="NAME", help="what made the vectors, for searches by text; it is checked on some documents"
    )
    add_dims(parser)
    for side in ("source", "target"):
        add_options(parser, f"--{side}-option", f"an option of the {side}'s database")
    add_batch_size(parser, 1000)
    add_progress(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Read, write, and say what was done."""
    names = arguments.metadata_fields
    began = time.perf_counter()
    report = import_collection(
        arguments.source,
        arguments.to,
        collection=arguments.collection,
        fields=Fields(
            vector=arguments.vector_field,
            text=arguments.text_field,
            id=arguments.id_field,
            metadata=None if names is None else tuple(name.strip() for name in names.split(",") if name.strip()),
        ),
        encoder=arguments.encoder,
        coarse_dims=NOT_GIVEN if arguments.coarse_dims is None else arguments.coarse_dims,
        fine_dims=arguments.fine_dims,
        batch_size=arguments.batch_size,
        progress=wants_progress(arguments, sys.stderr),
        source_options=dict(arguments.source_option),
        backend_options=dict(arguments.target_option),
    )
    seconds = time.perf_counter() - began
    output.line(
        f"{report.target} holds {plural(report.rows, 'row')} of {report.source}, {report.vectors:,} with a vector, in "
        f"{seconds:.1f} s."
    )
    if abs(report.shortest - 1) > 0.01 or abs(report.longest - 1) > 0.01:
        output.line(
            f"note: the vectors' lengths go from {report.shortest:.3g} to {report.longest:.3g}; they were made unit "
            "vectors, and hits are ranked by cosine, which may differ from the order in the source"
        )
    return 0
