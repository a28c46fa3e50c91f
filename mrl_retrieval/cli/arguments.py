"""Argument types that several commands share."""

from __future__ import annotations

import argparse
import json
from typing import Any, TextIO

from mrl_retrieval.searching import RerankOptions
from mrl_retrieval.settings import check_recall

__all__ = [
    "add_batch_size",
    "add_command",
    "add_dims",
    "add_options",
    "add_progress",
    "add_reranker",
    "backend_option",
    "dims",
    "filter_json",
    "given_reranker",
    "positive",
    "share",
    "wants_progress",
]


_TEXTS = ("api_key", "password", "token", "user")
"""Options whose values are text even where they look like numbers."""


def positive(text: str) -> int:
    """A whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return value


def dims(text: str) -> tuple[int, ...]:
    """Whole numbers of at least 1, with commas between them."""
    return tuple(positive(part.strip()) for part in text.split(","))


def share(text: str) -> float:
    """A number between 0 and 1, both excluded."""
    try:
        return check_recall(float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, such as 0.99, got {text!r}") from error


def filter_json(text: str) -> dict[str, Any]:
    """A filter as a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(
            f'not JSON ({error}): {text!r}; write it as in \'{{"year": {{"$gte": 2020}}}}\''
        ) from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object such as '{{\"year\": 2020}}', got {text!r}")
    return value


def backend_option(text: str) -> tuple[str, Any]:
    """``NAME=VALUE``; a value that is JSON is taken as such, everything else, and every secret, as a string."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, such as fine_dtype=float32, got {text!r}")
    if name in _TEXTS and not value.startswith('"'):
        return name, value
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def add_command(commands: Any, name: str, help: str, description: str) -> argparse.ArgumentParser:
    """A command of ``mrl``; the description is printed line for line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return parser


def add_options(
    parser: argparse.ArgumentParser,
    name: str = "--option",
    help: str = "an option from the backend's page, such as lock_timeout=5",
) -> None:
    """``--option``, once for each option of the backend."""
    parser.add_argument(
        name, action="append", type=backend_option, default=[], metavar="NAME=VALUE", help=f"{help}; may be repeated"
    )


def add_batch_size(parser: argparse.ArgumentParser, default: int, what: str = "rows at a time") -> None:
    """``--batch-size``."""
    parser.add_argument("--batch-size", type=positive, default=default, metavar="N", help=f"{what} ({default})")


def add_dims(group: argparse._ActionsContainer, coarse: str = "64") -> None:
    """``--coarse-dims`` and ``--fine-dims``; ``coarse`` says what the first is if it is not given."""
    group.add_argument("--coarse-dims", type=positive, metavar="D", help=f"length of the coarse vectors ({coarse})")
    group.add_argument("--fine-dims", type=positive, metavar="D", help="length of the stored vectors (all)")


def add_progress(parser: argparse.ArgumentParser) -> None:
    """``--progress`` and ``--no-progress``."""
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--progress", action="store_true", help="show a progress line even where stderr is no terminal")
    shown.add_argument("--no-progress", action="store_true", help="show none")


def wants_progress(arguments: argparse.Namespace, stream: TextIO) -> bool:
    """Whether to show progress: as asked, else on a terminal."""
    return bool(arguments.progress or (stream.isatty() and not arguments.no_progress))


def add_reranker(parser: argparse.ArgumentParser) -> None:
    """Add the options of a reranker."""
    parser.add_argument(
        "--reranker", metavar="NAME", help="a third stage: cross-encoder:FOLDER_OR_NAME reads the first hits"
    )
    parser.add_argument("--rerank-top-k", type=positive, metavar="N", help="hits that it reads at most (50)")


def given_reranker(arguments: argparse.Namespace) -> RerankOptions:
    """What was given of them, as a search takes it."""
    given: RerankOptions = {}
    if arguments.reranker is not None:
        given["reranker"] = arguments.reranker
    if arguments.rerank_top_k is not None:
        given["rerank_top_k"] = arguments.rerank_top_k
    return given
