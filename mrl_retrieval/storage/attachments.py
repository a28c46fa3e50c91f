"""Attachments in the database: rows of ``meta`` whose key begins with ``attachment:``, each sealed, in base64.

A blob among the settings needs no other format: whoever reads those leaves it out (:data:`SETTINGS`), and the second
copy of the settings does not hold it either.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

from mrl_retrieval.attachments import checked_name, unseal_text
from mrl_retrieval.errors import MRLError

from .database import unmapped

__all__ = ["SETTINGS", "copy_sound", "is_attachment", "read", "unsound", "write"]

_KEY = "attachment:"
_KEYS = "SELECT key FROM meta WHERE key GLOB 'attachment:*'"
SETTINGS = "SELECT key, value FROM meta WHERE key NOT GLOB 'attachment:*'"
"""Selects what ``meta`` holds besides attachments."""


def is_attachment(key: str) -> bool:
    """Whether this key of ``meta`` is an attachment's."""
    return key.startswith(_KEY)


def write(connection: sqlite3.Connection, name: str, sealed: str) -> None:
    """Put what :func:`~mrl_retrieval.attachments.seal_text` gave in the place of what has this name."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_KEY + name, sealed))


def read(connection: sqlite3.Connection, name: str) -> str | None:
    """The same as it is stored, unchecked; None where there is none."""
    with unmapped(connection):
        found = connection.execute("SELECT value FROM meta WHERE key = ?", (_KEY + name,)).fetchone()
    return None if found is None else found[0]


def unsound(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """Name of each attachment that is not as it was written, and what is the matter with it."""
    for (key,) in connection.execute(_KEYS).fetchall():
        name = key.removeprefix(_KEY)
        try:
            unseal_text(checked_name(name), read(connection, name) or "", "the database")
        except (sqlite3.Error, MRLError) as error:
            yield name, str(error)


def copy_sound(old: sqlite3.Connection, new: sqlite3.Connection) -> tuple[str, ...]:
    """Copy those that can be read and fit their checksums; the names of the others, as far as they are known."""
    keys: list[str] = []
    with contextlib.suppress(sqlite3.Error):
        for (key,) in old.execute(_KEYS):
            keys.append(str(key))
    lost = []
    for name in (key.removeprefix(_KEY) for key in keys):
        try:
            found = read(old, name) or ""
            unseal_text(checked_name(name), found, "the database")
        except (sqlite3.Error, MRLError):
            lost.append(name)
        else:
            write(new, name, found)
    return tuple(lost)
