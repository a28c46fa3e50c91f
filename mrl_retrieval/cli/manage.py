"""``mrl list`` and ``mrl drop``: the collections at an address."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from mrl_retrieval.address import Address
from mrl_retrieval.backend import Backend
from mrl_retrieval.errors import CollectionNotFound, InvalidInput, MRLError
from mrl_retrieval.generations import base_of, generation_names, open_current
from mrl_retrieval.registry import open_backend

from .arguments import add_options
from .output import Output, fitted, on_one_line, plural

__all__ = ["add_parsers"]


def add_parsers(commands: Any) -> None:
    """Add both commands."""
    listing = commands.add_parser(
        "list", help="list the collections at an address", description="List the collections at an address.",
        allow_abbrev=False,
    )  # fmt: skip
    listing.add_argument("address", metavar="ADDRESS", help="a folder or server, such as faiss:./kb")
    listing.add_argument("--json", action="store_true", help="print one JSON document")
    add_options(listing)
    listing.set_defaults(run=run_list)

    dropping = commands.add_parser(
        "drop", help="remove a collection", allow_abbrev=False,
        description="Remove a collection with everything in it. Asks first; without a terminal it needs --yes.",
    )  # fmt: skip
    dropping.add_argument("address", metavar="URI", help="address of the collection")
    dropping.add_argument("--yes", action="store_true", help="do not ask")
    add_options(dropping)
    dropping.set_defaults(run=run_drop)


def run_list(arguments: argparse.Namespace, output: Output) -> int:
    """One line a collection. One that cannot be read is listed with the reason, and the status is 1."""
    address, options = Address.parse(arguments.address), dict(arguments.option)
    with open_backend(address, **options) as backend:
        names = backend.collections()
    found = [one for name in names if (one := _describe(address.with_collection(name), options)) is not None]
    if arguments.json:
        output.json(found)
    elif not found:
        output.line(f"no collections at {arguments.address}")
    else:
        rows = [["collection", "rows", "dims", "encoder"]]
        for one in found:
            if one["error"] is None:
                dims = f"{one['dims']['coarse']} → {one['dims']['fine']}"
                rows.append([one["collection"], f"{one['rows']:,}", dims, one["encoder"] or "none"])
            else:
                rows.append([one["collection"], "?", "?", fitted(on_one_line(one["error"]), output.width // 2)])
        output.table(rows, indent="")
    return 1 if any(one["error"] for one in found) else 0


def _describe(address: Address, options: dict[str, Any]) -> dict[str, Any] | None:
    """What a collection holds; None for a generation, which is shown by the name of the collection it belongs to."""
    value: dict[str, Any] = {"collection": address.collection, "address": str(address), "rows": None, "dims": None}
    try:
        with open_current(address, **options) as backend:
            manifest = backend.manifest
            if base_of(manifest, backend.address.collection) != address.collection:
                return None
            value["rows"] = backend.count()
    except MRLError as error:
        return value | {"encoder": None, "error": str(error)}
    card = manifest.encoder
    value["dims"] = {"full": manifest.dim, "coarse": manifest.coarse_dims, "fine": manifest.fine_dims}
    return value | {"encoder": None if card is None else card.name or card.model or "unnamed", "error": None}


def run_drop(arguments: argparse.Namespace, output: Output) -> int:
    """Ask, then remove."""
    address, options = Address.parse(arguments.address), dict(arguments.option)
    with open_backend(address, **options) as backend:
        known = backend.collections()
        generations = generation_names(address.collection, known)
        if address.collection not in known:
            raise CollectionNotFound(
                f"there is no collection at {address} (collections there: {', '.join(known) or 'none'})"
            )
        _check_unused(backend, options)
        try:
            backend.read_manifest()
            with open_current(address, **options) as current:
                current.read_manifest()
                holds = plural(current.count(), "row")
        except MRLError as error:  # a damaged collection is one of those that want dropping
            holds = f"what cannot be read: {on_one_line(str(error))}"
        if not arguments.yes and not _confirmed(f"drop the collection {address.collection!r} at {address} ({holds})?"):
            output.line("kept.")
            return 1
        for name in generations:
            with open_backend(address.with_collection(name), **options) as one:
                if _belongs(one, address.collection):
                    one.drop()
        backend.drop()
    output.line(f"dropped {address} ({holds}).")
    return 0


def _check_unused(backend: Backend, options: dict[str, Any]) -> None:
    """Keep a generation that holds the rows of a collection from being dropped by its own name."""
    address = backend.address
    try:
        manifest = backend.read_manifest()
        base = address.collection if manifest is None else base_of(manifest, address.collection)
        if base == address.collection:
            return
        with open_backend(address.with_collection(base), **options) as owner:
            pointer = owner.read_manifest()
    except MRLError:
        return  # what cannot be read may be dropped
    if pointer is not None and pointer.moved_to == address.collection:
        raise InvalidInput(
            f"{address.collection!r} holds the rows of {base!r}: drop {owner.address}, or go back to the generation "
            "before (mrl reindex --rollback) and drop this one then"
        )


def _belongs(backend: Backend, base: str) -> bool:
    """Whether a collection with the name of a generation is one."""
    try:
        manifest = backend.read_manifest()
    except MRLError:
        return False
    return manifest is not None and base_of(manifest, "") == base


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise InvalidInput(f"{question} there is no terminal to ask on; say --yes")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
