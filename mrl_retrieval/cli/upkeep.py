"""``mrl verify``, ``mrl repair``, ``mrl compact``, ``mrl backup``, ``mrl restore``: looking after a store.

The embedded store can do all of these; ``repair`` also means something to databases without transactions. What a
backend cannot do is said, and nothing is done.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from mrl_retrieval.address import Address
from mrl_retrieval.backend import Backend
from mrl_retrieval.errors import InvalidInput
from mrl_retrieval.generations import open_current
from mrl_retrieval.registry import backend_class

from .arguments import add_options
from .output import Output, on_one_line, plural, readable_bytes

__all__ = ["add_parsers"]

_SHOWN = 20


def add_parsers(commands: Any) -> None:
    """Add the commands."""
    for name, run, text in (
        ("verify", run_verify, "compare everything that is stored with its checksums; changes nothing"),
        ("repair", run_repair, "bring a damaged collection back in order, without the encoder"),
        ("compact", run_compact, "take back the room of deleted and overwritten rows, beside readers and writers"),
    ):
        parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
        parser.add_argument("address", metavar="URI", help="address of the collection")
        add_options(parser)
        parser.set_defaults(run=run)

    backup = commands.add_parser(
        "backup", help="write a collection to one file", allow_abbrev=False,
        description="Write a collection to one file, as its last commit left it; others may read and write meanwhile.",
    )  # fmt: skip
    backup.add_argument("address", metavar="URI", help="address of the collection")
    backup.add_argument("file", metavar="FILE", help="the file to write")
    backup.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    add_options(backup)
    backup.set_defaults(run=run_backup)

    restore = commands.add_parser(
        "restore", help="make a collection of a backup", allow_abbrev=False,
        description="Make a collection of a backup, at an address where there is none.",
    )  # fmt: skip
    restore.add_argument("file", metavar="FILE", help="the backup")
    restore.add_argument("address", metavar="URI", help="address of the new collection")
    restore.set_defaults(run=run_restore)


def run_verify(arguments: argparse.Namespace, output: Output) -> int:
    """Status 1 if anything is not as it was written."""
    with open_current(arguments.address, **dict(arguments.option)) as backend:
        report = _able(backend, "verify")()
        where = backend.address
    checked = f"{plural(report.rows, 'row')} and {plural(report.vectors, 'vector')} ({readable_bytes(report.bytes)})"
    if report.ok:
        output.line(f"{where}: {checked} checked, everything is as it was written.")
        return 0
    output.line(f"{where}: {checked} checked, {plural(len(report.problems), 'problem')}:")
    _list(output, [f"{problem.part}: {problem.message}" for problem in report.problems])
    output.line("'mrl repair' saves what can be saved.")
    return 1


def run_repair(arguments: argparse.Namespace, output: Output) -> int:
    """Status 1 if something was lost."""
    with open_current(arguments.address, **dict(arguments.option)) as backend:
        report = backend.repair()
        where = backend.address
    if report is None:
        output.line(f"{where}: left-overs of interrupted writes are cleared.")
        return 0
    if not report.problems:
        output.line(f"{where}: nothing was the matter, and nothing was changed.")
        return 0
    output.line(f"{where}: {plural(len(report.problems), 'problem')} found; it holds {plural(report.rows, 'row')} now.")
    _list(output, [f"{problem.part}: {problem.message}" for problem in report.problems])
    if report.index_rebuilt:
        output.line("The coarse index was made again from the stored vectors.")
    for ids, words in (
        (report.without_vector, "lost their vector and are found by no search: index them again"),
        (report.quarantined, "had a damaged document or metadata and were taken out"),
        (report.lost, "are lost"),
    ):
        if ids:
            output.line(f"{plural(len(ids), 'row')} {words}:")
            _list(output, ids)
    if report.unaccounted:
        output.line(f"{plural(report.unaccounted, 'row')} more were there, of which not even the id is known.")
    if report.lost_commits:
        output.line(f"The last {plural(report.lost_commits, 'commit')} are lost.")
    if report.lost_attachments:
        output.line(f"{plural(len(report.lost_attachments), 'attachment')} lost: write these again:")
        _list(output, report.lost_attachments)
    if report.quarantine is not None:
        output.line(f"The old files, and damaged rows as rows.jsonl, are in {report.quarantine}.")
    lost = report.without_vector or report.quarantined or report.lost or report.unaccounted or report.lost_commits
    return 1 if lost or report.lost_attachments else 0


def run_compact(arguments: argparse.Namespace, output: Output) -> int:
    """Say what was taken back."""
    with open_current(arguments.address, **dict(arguments.option)) as backend:
        report = _able(backend, "compact")()
        where = backend.address
    output.line(
        f"{where}: {readable_bytes(report.bytes_before)} before, {readable_bytes(report.bytes_after)} now; "
        f"{plural(report.moved, 'vector')} moved."
    )
    return 0


def run_backup(arguments: argparse.Namespace, output: Output) -> int:
    """Write the file."""
    with open_current(arguments.address, **dict(arguments.option)) as backend:
        report = _able(backend, "backup")(arguments.file, overwrite=arguments.overwrite)
        where = backend.address
    output.line(f"{report.path}: {plural(report.rows, 'row')} of {where}, {readable_bytes(report.bytes)}.")
    return 0


def run_restore(arguments: argparse.Namespace, output: Output) -> int:
    """Make the collection."""
    address = Address.parse(arguments.address)
    report = _able(backend_class(address.scheme), "restore", address.scheme)(arguments.file, address)
    output.line(f"{address}: {plural(report.rows, 'row')}, {report.vectors:,} with a vector, from {arguments.file}.")
    return 0


def _able(backend: Backend | type[Backend], verb: str, scheme: str = "") -> Callable[..., Any]:
    """The method, which not every backend has."""
    method = getattr(backend, verb, None)
    if method is None:
        name = scheme or (backend.address.scheme if isinstance(backend, Backend) else "")
        raise InvalidInput(
            f"the {name} backend cannot {verb}: use what the database offers for that, or 'mrl copy' to a faiss: folder"
        )
    found: Callable[..., Any] = method
    return found


def _list(output: Output, lines: Sequence[str]) -> None:
    for line in lines[:_SHOWN]:
        output.line(f"  {on_one_line(line)}")
    if len(lines) > _SHOWN:
        output.line(f"  and {len(lines) - _SHOWN:,} more")
