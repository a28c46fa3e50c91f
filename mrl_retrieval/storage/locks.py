"""Two locks: one writer among all processes, and readers against one writer within a process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from mrl_retrieval.errors import LockTimeout

from .files import os_errors

__all__ = ["ReadWriteLock", "WriterLock"]

_POLL_SECONDS = 0.01


class WriterLock:
    """An exclusive lock among processes and threads: ``flock`` on a file that stays there.

    It belongs to the open file, so two holders in one process exclude each other too, and it goes with a process
    that is killed. The file holds the process id of whoever has it, for messages alone.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._threads = threading.Lock()

    def after_fork(self) -> None:
        """Forget a lock that a thread of the parent process held."""
        self._threads = threading.Lock()

    @contextlib.contextmanager
    def held(self, timeout: float | None = None) -> Iterator[None]:
        """Hold the lock. The folder must exist.

        Args:
            timeout: seconds to wait instead of the lock's own.

        Raises:
            LockTimeout: somebody else held it for longer.
            FileNotFoundError: the folder is gone.
        """
        patience = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + patience
        threads = self._threads
        if not threads.acquire(timeout=max(patience, 0)):
            raise self._timed_out(patience, f"another thread of this process ({os.getpid()})")
        try:
            fd = self._lock_file(deadline, patience)
            try:
                yield
            finally:
                # Said aloud, because closing alone would leave the lock with a child forked meanwhile.
                fcntl.flock(fd, fcntl.LOCK_UN)
                os.close(fd)
        finally:
            threads.release()

    def _lock_file(self, deadline: float, patience: float) -> int:
        while True:
            with contextlib.ExitStack() as undo:
                fd = self._open()
                undo.callback(os.close, fd)
                while not _try_lock(fd):
                    if time.monotonic() >= deadline:
                        raise self._timed_out(patience, self._holder())
                    time.sleep(_POLL_SECONDS)
                if self._is_current(fd):
                    with os_errors(f"writing {self._path}"):
                        os.ftruncate(fd, 0)
                        os.pwrite(fd, str(os.getpid()).encode(), 0)
                    undo.pop_all()
                    return fd
                # The collection was dropped, and perhaps made again, while we waited: lock the file that is there now.

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            raise
        except OSError as error:
            with os_errors(f"opening {self._path} for the writer lock"):
                raise error

    def _is_current(self, fd: int) -> bool:
        mine = os.fstat(fd)
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)

    def _holder(self) -> str:
        try:
            pid = self._path.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            pid = ""
        return f"process {pid}" if pid.isdigit() else "another process"

    def _timed_out(self, patience: float, holder: str) -> LockTimeout:
        return LockTimeout(
            f"{holder} has held the writer lock {self._path} for longer than lock_timeout={patience:g} s: wait for it, "
            "give a longer lock_timeout, or end that process if it hangs"
        )


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        with os_errors("taking the writer lock"):
            raise
    return True


class ReadWriteLock:
    """Many readers or one writer, within a process. A waiting writer goes before new readers. Not reentrant."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._changed = threading.Condition(self._mutex)
        self._readers = 0
        self._writing = False
        self._waiting = 0

    def read(self) -> SharedHold:
        """Share the lock with other readers, for the length of a ``with`` or until what it gives is released."""
        return SharedHold(self)

    def begin_reading(self) -> None:
        """Wait until nobody writes, or waits to; then keep writers out."""
        with self._mutex:
            while self._writing or self._waiting:
                self._changed.wait()
            self._readers += 1

    def end_reading(self) -> None:
        """Let writers in, if nobody else is reading."""
        with self._mutex:
            self._readers -= 1
            if not self._readers and self._waiting:
                self._changed.notify_all()

    @contextlib.contextmanager
    def write(self) -> Iterator[None]:
        """Hold the lock alone."""
        with self._changed:
            self._waiting += 1
            try:
                while self._writing or self._readers:
                    self._changed.wait()
                self._writing = True
            finally:
                self._waiting -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._changed.notify_all()


class SharedHold:
    """A reader's part of a :class:`ReadWriteLock`. A class, since a generator would cost every search two
    microseconds."""

    __slots__ = ("_held", "_lock")

    def __init__(self, lock: ReadWriteLock) -> None:
        self._lock = lock
        self._held = False

    def release(self) -> None:
        """Let go before the ``with`` ends; a second call is no error."""
        if self._held:
            self._held = False
            self._lock.end_reading()

    def __enter__(self) -> SharedHold:
        self._lock.begin_reading()
        self._held = True
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()
