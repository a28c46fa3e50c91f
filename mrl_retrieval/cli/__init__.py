"""The command line, ``mrl``: one file a family of commands; here they come together, and their errors end.

A command gets the parsed arguments and an :class:`~mrl_retrieval.cli.output.Output`, and returns its status. Whatever
it raises becomes one line on stderr; ``MRL_DEBUG=1`` shows where it came from.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from mrl_retrieval import __version__
from mrl_retrieval.errors import MRLError

from . import (
    demo,
    diagnose,
    embed,
    evaluate,
    index,
    info,
    learn,
    manage,
    models,
    move,
    plan,
    recall,
    reindex,
    rotate,
    search,
    take,
    upkeep,
    why_not,
)
from .output import Output, on_one_line

__all__ = ["build_parser", "main"]

FAILED, USAGE, INTERRUPTED = 1, 2, 130

_EPILOG = """an address is scheme:path or scheme+http://host:port, with ?collection=NAME if wanted:
  faiss:./kb    chroma:./kb?collection=notes    qdrant+http://localhost:6333

examples:
  mrl index docs/ --to faiss:./kb
  mrl search faiss:./kb "How do I undo a commit?"
  mrl demo
"""


class _Parser(argparse.ArgumentParser):
    """Usage errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"mrl: {on_one_line(message)} (see '{self.prog} --help')\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command; each sets ``run``."""
    parser = _Parser(
        prog="mrl",
        description="Index texts, and search them in two stages: short prefixes first, then full vectors.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mrl {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for module in (
        index, search, why_not, embed, learn, plan, recall, info, manage, upkeep, take, move, reindex, rotate, models,
        diagnose, evaluate, demo,
    ):  # fmt: skip
        module.add_parsers(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        arguments = build_parser().parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else FAILED
    try:
        with _warnings_on_stderr():
            output = Output(sys.stdout or io.StringIO())  # None where stdout was closed from the start
            status: int = arguments.run(arguments, output)
            output.flush()
            return status
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        _discard_stdout()
        return FAILED
    except MRLError as error:
        return _fail(str(error))
    except OSError as error:
        _discard_stdout_if_broken()
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}")
    except Exception as error:  # noqa: BLE001 - the last resort: a traceback helps no one who did not ask for it
        return _fail(f"unexpected {type(error).__name__}: {error} (MRL_DEBUG=1 shows where)")


def _fail(message: str, status: int = FAILED) -> int:
    if os.environ.get("MRL_DEBUG", "") not in ("", "0"):
        traceback.print_exc()
    if sys.stderr is not None:
        sys.stderr.write(f"mrl: {on_one_line(message)}\n")
    return status


def _discard_stdout_if_broken() -> None:
    """Where writing failed (a full disk), it would fail once more at the end of Python, and loudly."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _discard_stdout()


def _discard_stdout() -> None:
    """The reader has gone; without this Python complains once more when it flushes stdout at its end."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


@contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    """The library's warnings, in the form of this command line's messages."""
    logger = logging.getLogger("mrl_retrieval")
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("mrl: warning: %(message)s"))
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
