"""What the table has no room for: who says so, other names, traps; and the short words in which sources are written."""

from __future__ import annotations

from typing import NamedTuple

from .row import Claim

__all__ = ["About", "copied", "said", "told"]


class About(NamedTuple):
    """What stands behind one row of the table."""

    claims: tuple[Claim, ...]
    aliases: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def said(fields: str, source: str) -> Claim:
    """The vendor's own text at the URL ``source`` says these fields (names with spaces between them)."""
    return Claim(tuple(fields.split()), source, "vendor")


def copied(fields: str, source: str) -> Claim:
    """The vendor's text says so, but it was read in a word-for-word copy; ``source`` is the original's address."""
    return Claim(tuple(fields.split()), source, "copy")


def told(fields: str, source: str) -> Claim:
    """Somebody else's text says so."""
    return Claim(tuple(fields.split()), source, "secondary")
