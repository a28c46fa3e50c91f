"""Folders in the system's temporary one that do not stay behind, however the process ends.

Each holds a file that its process keeps locked for as long as it lives. The lock goes with a process that is killed, so
that the next one to make such a folder can tell what nobody has any more, and removes it. Process ids would not do:
they are used again, and mean something else in another container.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import tempfile
from pathlib import Path

__all__ = ["Temporary"]

log = logging.getLogger(__name__)

_PREFIX = "mrl-milvus-"
_OWNER = "owner"
_PROBE = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class Temporary:
    """A new folder that only this user can enter: :meth:`remove` removes it, else the next process that makes one."""

    def __init__(self) -> None:
        remove_stale(Path(tempfile.gettempdir()))
        self._process = os.getpid()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # Locked before it has its name: a file of this name without a lock has lost its owner.
        unnamed = self.path / f"{_OWNER}.new"
        self._lock = os.open(unnamed, _PROBE | os.O_CREAT | os.O_EXCL, 0o600)
        with contextlib.suppress(OSError):  # a file system without locks: nobody will take the folder for stale
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            unnamed.rename(self.path / _OWNER)

    def remove(self) -> None:
        """Remove it with all it holds; nothing to do in a process forked since, whose parent has it."""
        if self._process == os.getpid():
            shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def remove_stale(parent: Path) -> None:
    """Remove the folders there whose process is no more. Whatever is in doubt stays."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            owner = os.open(folder / _OWNER, _PROBE)
        except OSError:
            continue  # not one of these, of another user, or removed just now
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            log.info("removing %s, left behind by a process that was killed", folder)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # its owner lives
        finally:
            os.close(owner)
