"""Attachments in databases that take no large values: pieces of text under their own keys, and a head that names them.

A write puts the pieces of a new version, then replaces the head, in one write of one record: that is the commit. Then
it removes the pieces that the old head named. Killed on the way, it leaves pieces that no head names, which nobody
reads; :func:`clear` removes them. A reader who misses a piece that the head names came between the two, and begins
again.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from mrl_retrieval.attachments import checked_name, unseal_text
from mrl_retrieval.errors import CorruptionError

__all__ = ["Records", "clear", "read", "write"]

_AT_ONCE = 4 * 2**20
"""Characters that are written or read in one call."""
_READ_AGAIN = 20


class Records(Protocol):
    """Texts by key, in a database. Keys are ASCII letters, digits, hyphens and dots, 80 characters at most."""

    longest: int
    """Characters of a text, at most; all are ASCII."""

    def put(self, texts: Mapping[str, str]) -> None:
        """Write these, in place of what had their keys: durable, and visible to all, on return. One is written whole
        or not at all."""

    def get(self, keys: Sequence[str]) -> Mapping[str, str]:
        """Those of these that exist."""

    def keys(self) -> Iterable[str]:
        """All keys."""

    def remove(self, keys: Sequence[str]) -> None:
        """Remove these; unknown ones are no error."""


def write(records: Records, name: str, sealed: str) -> None:
    """Put what :func:`~mrl_retrieval.attachments.seal_text` gave in the place of what has this name.

    Writers of one name at the same time leave one of them, whole, and perhaps pieces for :func:`clear`.
    """
    old: list[str] = []
    with contextlib.suppress(CorruptionError):  # what is damaged is to be replaced
        old = _named(records, name)
    version = uuid.uuid4().hex[:12]
    new = _keys(name, version, -(-len(sealed) // records.longest))
    pieces = {key: sealed[i * records.longest : (i + 1) * records.longest] for i, key in enumerate(new)}
    for part in _parts(records, new):
        records.put({key: pieces[key] for key in part})
    records.put({name: json.dumps({"version": version, "pieces": len(new)})})
    for part in _parts(records, old):
        records.remove(part)


def read(records: Records, name: str, place: object) -> bytes | None:
    """The attachment of this name; None where there is none. ``place`` is named in errors.

    Raises:
        CorruptionError: it is not as it was written.
        InvalidInput: no attachment can have this name.
    """
    checked_name(name)
    missing = 0
    before: list[str] | None = None
    for _ in range(_READ_AGAIN):
        keys = _named(records, name)
        if not keys:
            return None
        pieces: dict[str, str] = {}
        for part in _parts(records, keys):
            pieces.update(records.get(part))
        missing = sum(key not in pieces for key in keys)
        if not missing:
            return unseal_text(name, "".join(pieces[key] for key in keys), place)
        if keys == before:
            break  # no other was written meanwhile: they are lost
        before = keys
    raise CorruptionError(
        f"attachment {name!r} of {place} has lost {missing} of its pieces, expected all: write it again"
    )


def clear(records: Records) -> int:
    """Remove the pieces that no head names, and say how many; call it while nobody writes."""
    keys = list(records.keys())
    used: set[str] = set()
    for name in keys:
        if "." not in name:
            used.add(name)
            with contextlib.suppress(CorruptionError):
                used.update(_named(records, name))
    left = [key for key in keys if key not in used]
    for part in _parts(records, left):
        records.remove(part)
    return len(left)


def _named(records: Records, name: str) -> list[str]:
    """The keys of the pieces that the head of this name has now; none where there is no head."""
    head = records.get([name]).get(name)
    if head is None:
        return []
    try:
        found = json.loads(head)
        if (pieces := int(found["pieces"])) < 1:
            raise ValueError(pieces)
        return _keys(name, str(found["version"]), pieces)
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptionError(
            f"the head of attachment {name!r} cannot be read ({error!r}), expected version and pieces: write it again"
        ) from error


def _keys(name: str, version: str, pieces: int) -> list[str]:
    return [f"{name}.{version}.{i:06d}" for i in range(pieces)]


def _parts(records: Records, keys: Sequence[str]) -> Iterable[list[str]]:
    size = max(1, _AT_ONCE // records.longest)
    for i in range(0, len(keys), size):
        yield list(keys[i : i + size])
