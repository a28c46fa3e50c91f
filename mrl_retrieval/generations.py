"""Generations of a collection: where its rows are after it was embedded anew.

A collection that was reindexed keeps its name, and its manifest says in which collection beside it the rows are now
(``moved_to``). Whoever opens it by its address gets that one.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from .address import Address
from .backend import Backend
from .errors import CollectionNotFound, ConflictError
from .manifest import Manifest
from .registry import open_backend

__all__ = [
    "base_of",
    "check_stays",
    "check_there",
    "generation_name",
    "generation_names",
    "next_generation_name",
    "open_current",
]

_GENERATION = re.compile(r"\.g([1-9][0-9]*)")
_LONGEST = 57
"""Letters of a name that leave room for ``.g`` and a number among the 63 that every database takes."""


def open_current(address: str | Address, **options: Any) -> Backend:
    """:func:`~mrl_retrieval.registry.open_backend`, at the generation that holds the rows now."""
    backend = open_backend(address, **options)
    try:
        manifest = backend.read_manifest()
        if manifest is None or manifest.moved_to is None:
            return backend
        current = open_backend(backend.address.with_collection(manifest.moved_to), **options)
        try:
            check_there(current, backend)
        except BaseException:
            current.close()
            raise
    except BaseException:
        backend.close()
        raise
    backend.close()
    return current


def check_there(current: Backend, base: Backend) -> None:
    """Hold the pointer to what it points to.

    Raises:
        CollectionNotFound: the generation was dropped by its own name.
    """
    if current.read_manifest() is None:
        raise CollectionNotFound(
            f"the rows of {base.address} were in its generation {current.address.collection!r}, which was dropped: go "
            "back to the one before with rollback() (mrl reindex --rollback), or remove what is left with mrl drop"
        )


def check_stays(manifest: Manifest, where: str) -> None:
    """Refuse to write to rows that have moved, or are about to.

    Raises:
        ConflictError: they have; the message says where to.
    """
    if manifest.moved_to is not None:
        raise ConflictError(f"{where} was reindexed, and its rows are in {manifest.moved_to!r} now: open it again")
    if manifest.frozen is not None:
        raise ConflictError(
            f"{where} is being reindexed into {manifest.frozen!r} and takes no writes until that is done: write again "
            "afterwards, or run the reindexing again if it was interrupted"
        )


def base_of(manifest: Manifest, name: str) -> str:
    """The name by which users know a collection: its own, or that of which it is a generation."""
    return str((manifest.origin or {}).get("base") or name)


def generation_name(base: str, number: int) -> str:
    """The name of a generation; that of a long name begins with a part of it only, so that every database takes it.

    >>> generation_name("kb", 2)
    'kb.g2'
    """
    return f"{_stem(base)}.g{number}"


def generation_names(base: str, names: list[str]) -> list[str]:
    """Those of ``names`` that are generations of ``base``, oldest first.

    >>> generation_names("kb", ["kb", "kb.g10", "kb.g2", "kb.gold", "other.g1"])
    ['kb.g2', 'kb.g10']
    """
    stem = _stem(base)
    matches = ((name, _GENERATION.fullmatch(name, len(stem))) for name in names if name.startswith(stem))
    return [name for _, name in sorted((int(match[1]), name) for name, match in matches if match)]


def next_generation_name(base: str, names: list[str]) -> str:
    """The name of a generation after all those of ``base`` among ``names``.

    >>> next_generation_name("kb", ["kb", "kb.g10", "kb.g2"])
    'kb.g11'
    """
    known = generation_names(base, names)
    return generation_name(base, 1 + max((int(name.rpartition(".g")[2]) for name in known), default=0))


def _stem(base: str) -> str:
    if len(base) <= _LONGEST:
        return base
    return f"{base[: _LONGEST - 9]}-{hashlib.sha256(base.encode()).hexdigest()[:8]}"
