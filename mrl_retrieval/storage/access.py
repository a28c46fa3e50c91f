"""What this process may do with the files of a store, how a database can be opened with that, and what to say if it
cannot.

SQLite keeps the log of a database, and the memory that its readers share, in two files beside it, and makes them
where they are missing. Where that is not allowed there is still a way to read: whoever writes leaves both files there
for as long as anybody may, and the last one who closes puts the log into the database and takes both away. So either
they are there and can be read, or the database is whole and nobody writes.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from mrl_retrieval.errors import BackendError, BackendUnavailable

__all__ = ["Opening", "address", "is_refusal", "look", "not_allowed", "status"]

_REFUSALS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_HOW = {"rwc": "mode=rwc", "rw": "mode=rw", "ro": "mode=ro&readonly_shm=1", "immutable": "mode=ro&immutable=1"}
_LOOKS = 10
_LOOK_SECONDS = 0.02


class Opening(NamedTuple):
    """A database file, and how it is to be opened."""

    file: tuple[int, int]
    """Device and number: another file at the same place has others."""
    mode: str
    """``"rw"``; ``"ro"``: beside writers, by the files that they have made; ``"immutable"``: as a file that is whole
    and that nobody changes."""
    unchanged: tuple[int, int] | None = None
    """Size and time of the last change, of an immutable one."""

    def check_unchanged(self, path: Path, *, failed: bool = False) -> None:
        """Hold an immutable database to what it was: SQLite does not look, and would mix two states of it.

        With ``failed``, nobody may have begun to write to it either: what was read may have been out of date.

        Raises:
            BackendUnavailable: somebody wrote to it.
        """
        if self.unchanged is None:
            return
        found = look(path) if failed else _as_it_is(path)
        if found != self:
            now = "is gone" if found is None else f"is {found.unchanged or 'in use'}"
            raise BackendUnavailable(
                f"{path} was written to while it was read (its size and time of change were {self.unchanged}, it {now}"
                "), and without permission to write to its folder this process takes no part in SQLite's locks: repeat "
                "the call"
            )


def address(path: Path, mode: str) -> str:
    """What SQLite opens: the file at ``path`` in a mode of :class:`Opening`, or ``"rwc"``, which makes it."""
    return f"file:{quote(str(path.absolute()))}?{_HOW[mode]}"


def status(path: Path | str) -> os.stat_result | None:
    """What the operating system says of a file; None where there is none.

    Raises:
        BackendError: a folder above it may not be entered.
    """
    try:
        return os.stat(path)  # noqa: PTH116 - once a search, and Path.stat costs more than the call itself
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise not_allowed(f"reading {path}", Path(path)) from error


def look(path: Path) -> Opening | None:
    """How the database at ``path`` can be opened, for writing if that is allowed; None where there is none.

    Raises:
        BackendError: it cannot be read at all.
    """
    found = status(path)
    if found is None:
        return None
    if _may(path, os.W_OK) and _may(path.parent, os.W_OK | os.X_OK):
        return Opening((found.st_dev, found.st_ino), "rw")
    if not _may(path, os.R_OK):
        raise not_allowed(f"reading {path}", path)
    log, shared = (path.with_name(path.name + end) for end in ("-wal", "-shm"))
    for _ in range(_LOOKS):
        # The log after the file: a log that is gone by now is in the file, and if it was not yet, the file has changed.
        whole, size = _as_it_is(path), _size(log)
        if whole is None or size is None or (size == 0 and not shared.exists()):
            return whole
        if shared.exists():
            for each in (log, shared):
                if not _may(each, os.R_OK):
                    raise not_allowed(f"reading {each}", each)
            return Opening(whole.file, "ro")
        time.sleep(_LOOK_SECONDS)  # somebody may be closing it this moment
    raise BackendError(
        f"{log} has {_size(log)} bytes that are not in the database yet, {shared.name}, without which they cannot be "
        f"read, is missing, and this process may not make it: {_who(path.parent)}. Open the collection once where that "
        "is allowed, or read a copy of the folder"
    )


def is_refusal(error: OSError) -> bool:
    """Whether the operating system says that something is not allowed, rather than that it failed."""
    return error.errno in _REFUSALS


def not_allowed(doing: str, path: Path) -> BackendError:
    """The error for a file or folder that this process may not use so: which one, what is missing, what helps."""
    missing = _missing(path)
    if missing is None:
        return BackendError(
            f"{doing} was refused although the permissions of {_who(path)} and of the folders above it allow it: look "
            "at the disk, at the limit of open files, and at what else guards them (attributes, SELinux, AppArmor)"
        )
    return BackendError(
        f"{doing} is not allowed: {missing}. Give this user the permission, run as one who has it, or use another "
        "folder"
    )


def _missing(path: Path) -> str | None:
    """The first thing on the way to ``path`` that stands in the way; None: nothing does."""
    for folder in reversed(path.parents):
        if folder.exists() and not _may(folder, os.X_OK):
            return f"no permission to enter {_who(folder)}"
    try:
        there = path.exists()
    except OSError:
        there = False
    if not there:
        parent = next((folder for folder in path.parents if folder.exists()), path.parent)
        return None if _may(parent, os.W_OK) else f"no permission to make files in {_who(parent)}"
    if not _may(path, os.R_OK):
        return f"no permission to read {_who(path)}"
    if not _may(path, os.W_OK):
        return f"no permission to write to {_who(path)}"
    return None if _may(path.parent, os.W_OK | os.X_OK) else f"no permission to make files in {_who(path.parent)}"


def _who(path: Path) -> str:
    """A file with its owner and mode, beside whom this process runs as."""
    try:
        found = path.stat()
    except OSError:
        return str(path)
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"{path}, which is on a file system that is mounted read-only"
    mode = stat.filemode(found.st_mode)
    return f"{path} ({mode}, owner {found.st_uid}, group {found.st_gid}; this process is user {os.geteuid()})"


def _may(path: Path, how: int) -> bool:
    return os.access(path, how, effective_ids=os.access in os.supports_effective_ids)


def _as_it_is(path: Path) -> Opening | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return Opening((found.st_dev, found.st_ino), "immutable", (found.st_size, found.st_mtime_ns))


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
