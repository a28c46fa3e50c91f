"""``mrl models``: which embedding models may be cut to a prefix, and what is known about one of them."""

from __future__ import annotations

import argparse
import difflib
import textwrap
from typing import Any

from mrl_retrieval.encoders.models import MODELS, ModelRow, detect
from mrl_retrieval.errors import InvalidInput

from .output import Output, fitted, on_one_line, text_width

__all__ = ["add_parsers"]

_STATUS = {
    "native": "trained for it",
    "api": "its interface offers it",
    "none": "not trained for it",
    "unknown": "not known",
}
_NEAR = 5
_SAID_BY = {
    "vendor": "its vendor",
    "copy": "its vendor, read in a copy",
    "secondary": "others",
    "file": "a file here",
}


def add_parsers(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "models",
        help="show which models may be cut to a prefix",
        description="List the known embedding models, or say what is known about one of them, and who says so.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="a model by any of its names, or the folder of one; all, if not given"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> int:
    """List, or explain."""
    if arguments.name is None:
        if arguments.json:
            output.json([row.to_json() for row in MODELS])
        else:
            _list(output)
        return 0
    row = _known(arguments.name)
    if arguments.json:
        output.json(row.to_json())
    else:
        _explain(output, row)
    return 0


def _known(name: str) -> ModelRow:
    row = detect(name)
    if row.claims:
        return row
    names = {other.lower(): row for row in MODELS for other in (row.short_name, row.name, *row.aliases)}
    wanted = name.lower()
    near = difflib.get_close_matches(wanted, names, n=_NEAR, cutoff=0.5) + [other for other in names if wanted in other]
    rows = list(dict.fromkeys(names[other].short_name for other in near))[:_NEAR]
    meant = f"did you mean {' or '.join(rows)}? " if rows else ""
    raise InvalidInput(
        f"no model {name!r} is known, and none of this name is in the local hub cache; {meant}'mrl models' lists the "
        "known ones, and the folder of another is written ./folder"
    )


def _list(output: Output) -> None:
    rows = [["model", "dims", "status", "may be cut to", "context"]]
    rows += [
        [row.short_name, _marked(row, "dim"), _marked(row, "status"), _ladder(row), _context(row)] for row in MODELS
    ]
    widths = [max(text_width(row[i]) for row in rows) for i in range(5)]
    # What is left by the others is for the ladders, which are cut short on a narrow terminal.
    room = max(output.width - (sum(widths) - widths[3]) - 2 * 5, len(rows[0][3]))
    for row_cells in rows:
        row_cells[1] = row_cells[1].rjust(widths[1])
        row_cells[3] = fitted(row_cells[3], room)
    output.table(rows, left=4)
    output.line(output.dim("  ? not verified; 'mrl models NAME' gives the sources and the rest"))


def _explain(output: Output, row: ModelRow) -> None:
    def field(name: str, text: str) -> None:
        lines = textwrap.wrap(on_one_line(text), output.width - 19, break_on_hyphens=False, break_long_words=False)
        for number, line in enumerate(lines):
            output.line(f"  {'' if number else name:<17}{line}")

    output.line(output.bold(on_one_line(row.name)))
    if row.aliases:
        field("also", ", ".join(row.aliases))
    field("dims", _marked(row, "dim"))
    field("shorter", f"{_marked(row, 'status')}: {_STATUS[row.status]}")
    if row.status in ("native", "api"):
        field("may be cut to", _ladder(row))
    if row.layer_norm_first:
        field("before a cut", "layer norm over the full embedding (no learned parameters), then the cut, then length 1")
    field("context", _context(row) + (" tokens" if row.context else ""))
    field("pooling", _marked(row, "pooling"))
    field("length 1", _flag(row, "unit_length"))
    if row.status == "api":
        field("  if shortened", _flag(row, "shortened_unit_length"))
    doubt = "?" if "prompts" in row.unverified else ""
    for title, prompt, task in (
        ("query prompt", row.query_prompt, row.query_task),
        ("document prompt", row.document_prompt, row.document_task),
    ):
        field(title, (" and ".join(filter(None, (repr(prompt) if prompt else "", task))) or "none") + doubt)
    for number, note in enumerate(row.notes):
        field("" if number else "note", note)
    output.line("  sources")
    for claim in row.claims:
        names = ", ".join(claim.fields).replace("_", " ")
        said = f"not verified: {names}" if claim.kind == "unverified" else f"{names} ({_SAID_BY[claim.kind]})"
        for line in textwrap.wrap(said, output.width - 4):
            output.line(f"    {line}")
        if claim.source:
            output.line(f"      {on_one_line(claim.source)}")


def _marked(row: ModelRow, field: str) -> str:
    """A value, with a ``?`` where no source was seen; ``-`` where there is none."""
    value, doubt = getattr(row, field), field in row.unverified
    return ("" if doubt else "-") + "?" * doubt if value is None else f"{value}{'?' * doubt}"


def _flag(row: ModelRow, field: str) -> str:
    value = getattr(row, field)
    doubt = "?" if field in row.unverified else ""
    return doubt or "-" if value is None else ("yes" if value else "no") + doubt


def _ladder(row: ModelRow) -> str:
    doubt = "?" if "ladder" in row.unverified else ""
    if row.any_dim:
        return f"any of {row.any_dim[0]} to {row.any_dim[1]} {doubt}".rstrip()
    return " ".join([*map(str, row.ladder), *[doubt] * bool(doubt)]) or "-"


def _context(row: ModelRow) -> str:
    doubt = "?" if "context" in row.unverified else ""
    if row.context is None:
        return doubt or "no limit"
    return f"{row.context:,}{doubt}"
