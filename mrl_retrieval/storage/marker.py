"""Two small files beside the database, so that what it lost is noticed: the last commit, and what the collection is.

SQLite takes a damaged or missing log for the end of the history and goes back to an older state without a word. The
number of the last commit, kept outside the log, tells. It is written after the commit: a writer killed between the
two leaves a number that is too small, which proves less but nothing wrong.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

from mrl_retrieval.errors import CorruptionError

from .files import os_errors, write_atomically

__all__ = ["check_commit", "last_commit", "load_copy", "note", "note_commit", "save_copy"]


def note_commit(path: Path, collection_id: str, generation: int) -> None:
    """Remember that this commit is durable. Only the holder of the writer lock may call it."""
    line = note(collection_id, generation)
    with os_errors(f"writing {path}"):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.pwrite(fd, line, 0)  # never shorter than the one before
        finally:
            os.close(fd)


def note(collection_id: str, generation: int) -> bytes:
    """What is written of a commit."""
    text = f"{collection_id} {generation}"
    return f"{text} {zlib.crc32(text.encode()):010d}\n".encode()


def last_commit(path: Path) -> tuple[str, int] | None:
    """Collection and generation of the last commit that was noted; None where there is no sound note."""
    try:
        text, _, crc = path.read_text(encoding="utf-8").partition("\n")[0].rpartition(" ")
        if not crc.isdecimal() or zlib.crc32(text.encode()) != int(crc):
            return None
        collection, _, generation = text.rpartition(" ")
        return collection, int(generation)
    except (OSError, ValueError):
        return None


def check_commit(noted: tuple[str, int] | None, collection_id: str, generation: int, database: Path) -> None:
    """Hold a database to a note that was read before its transaction began.

    Raises:
        CorruptionError: the database is older, or another collection's.
    """
    if noted is None:
        return
    if noted[0] != collection_id:
        raise CorruptionError(
            f"{database} is of the collection {collection_id}, expected {noted[0]}, whose folder this is: put its own "
            "database back, or restore it from a backup; to keep this one, repair it"
        )
    if generation < noted[1]:
        raise CorruptionError(
            f"{database} is at commit {generation}, expected {noted[1]} or later: its log was lost or damaged, or an "
            "older file was put in its place. Restore the collection from a backup; to go on with what is left, "
            "repair it"
        )


def save_copy(path: Path, meta: Mapping[str, str]) -> None:
    """Write what a collection is (the ``meta`` table) a second time."""
    text = json.dumps(dict(meta), ensure_ascii=False, sort_keys=True)
    with os_errors(f"writing {path}"):
        write_atomically(path, json.dumps({"meta": text, "crc32": zlib.crc32(text.encode())}).encode())


def load_copy(path: Path) -> dict[str, str] | None:
    """The second copy; None where there is no sound one."""
    try:
        found = json.loads(path.read_bytes())
        if zlib.crc32(found["meta"].encode()) != found["crc32"]:
            return None
        meta = json.loads(found["meta"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return {str(key): str(value) for key, value in meta.items()}
