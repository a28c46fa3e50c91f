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
import weakref
from pathlib import Path

from mrl_retrieval.storage.files import os_errors

__all__ = ["Temporary"]

log = logging.getLogger(__name__)

_OWNER = "owner"
_PROBE = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class Temporary:
    """A new folder that only this user can enter.

    It goes at :meth:`remove`, with the object, or at the end of the process; where that was killed, the next one that
    makes a folder of the same prefix removes it.

    Args:
        prefix: of its name.
        at_exit: False: somebody else sees to it that it goes at the end of the process.

    Raises:
        BackendError: none can be made.
    """

    def __init__(self, prefix: str, *, at_exit: bool = True) -> None:
        remove_stale(Path(tempfile.gettempdir()), prefix)
        with os_errors("making a temporary folder"):
            self.path = Path(tempfile.mkdtemp(prefix=prefix)).resolve()
            # Locked before it has its name: a file of this name without a lock has lost its owner.
            unnamed = self.path / f"{_OWNER}.new"
            lock = os.open(unnamed, _PROBE | os.O_CREAT | os.O_EXCL, 0o600)
        with contextlib.suppress(OSError):  # a file system without locks: nobody will take the folder for stale
            fcntl.flock(lock, fcntl.LOCK_EX)
            unnamed.rename(self.path / _OWNER)
        self._held = (self.path, lock, os.getpid())
        self._finalizer = weakref.finalize(self, _remove, *self._held)
        self._finalizer.atexit = at_exit

    def remove(self) -> None:
        """Remove it with all it holds. Nothing to do a second time, or in a forked child, whose parent has it."""
        if self._finalizer.detach():  # calling it does nothing any more at the very end of the process
            _remove(*self._held)


def _remove(path: Path, lock: int, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(path, ignore_errors=True)
    os.close(lock)


def remove_stale(parent: Path, prefix: str) -> None:
    """Remove the folders there whose process is no more. Whatever is in doubt stays."""
    for folder in parent.glob(f"{prefix}*"):
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
