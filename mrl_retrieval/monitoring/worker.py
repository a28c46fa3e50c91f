"""A background thread that does small jobs from a bounded queue, and never for more than a share of the time.

It begins with the first job and ends when there was none for a while, so that an object that is no longer used
is not kept alive by it; it is a daemon, and in a process that was forked there is none until a job comes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["PacedWorker"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_IDLE = 5.0
"""Seconds without a job after which the thread ends."""


class PacedWorker(Generic[T]):
    """Does ``work`` on jobs, one at a time, in the order they came. Thread-safe.

    Args:
        work: what is done. What it raises is counted, and logged once.
        most: jobs that wait at the most; further ones are dropped, and counted.
        share: share of the time that is spent on jobs, at most, above 0 and at most 1: after each job but the first,
            the thread rests accordingly. Time is taken by the clock: never less than the thread's own on the
            processor, and a database elsewhere is spared, too.
        name: of the thread.
        forked: called in a forked child, where the jobs of the parent are forgotten.
    """

    def __init__(
        self, work: Callable[[T], None], *, most: int, share: float, name: str, forked: Callable[[], None] | None = None
    ) -> None:
        self._work, self._most, self._share, self._name, self._forked = work, most, share, name, forked
        self.dropped = 0
        self.errors = 0
        self.seconds = 0.0
        """Spent on jobs, but for the first."""
        self._warm = False
        self._begin()
        _WORKERS.add(self)

    def _begin(self) -> None:
        self._jobs: deque[T] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._busy = self._closed = False

    def put(self, job: T) -> bool:
        """Leave a job for the thread; whether there was room. Never waits for a job."""
        with self._changed:
            if self._closed or len(self._jobs) >= self._most:
                self.dropped += 1
                return False
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # no more threads, or the interpreter is ending: a search is not to fail for that
                    self._thread = None
                    self._jobs.clear()
                    self.dropped += 1
                    return False
            self._changed.notify_all()
        return True

    def wait(self, timeout: float | None = None) -> bool:
        """Until every job is done, however slowly; whether it was so in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs and not self._busy, timeout)

    def close(self, timeout: float = 10.0) -> None:
        """Forget the jobs that wait, and let the current one end, for so many seconds at the most."""
        with self._changed:
            self._closed = True
            self.dropped += len(self._jobs)
            self._jobs.clear()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def failed(self) -> None:
        """Count the exception that is being handled; log it if it is the first."""
        self.errors += 1
        if self.errors == 1:
            logger.warning("%s failed; further failures are counted, not logged", self._name, exc_info=True)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._jobs or self._closed, _IDLE) or self._closed:
                    self._thread = None
                    return
                job, self._busy = self._jobs.popleft(), True
            started = time.perf_counter()
            try:
                self._work(job)
            except Exception:  # noqa: BLE001 - a watcher must not harm what it watches
                self.failed()
            del job
            spent = time.perf_counter() - started
            # The first job makes what is made once: it compiles, or reads an index. It says nothing of the next.
            spent, self._warm = (spent if self._warm else 0.0), True
            with self._changed:
                self.seconds += spent
                self._busy = False
                self._changed.notify_all()
                # A close ends the rest; a new job does not.
                self._changed.wait_for(lambda: self._closed, spent * (1 / self._share - 1))

    def _after_fork(self) -> None:
        closed = self._closed
        self._begin()
        self._closed = closed
        self.dropped = self.errors = 0
        self.seconds = 0.0
        if self._forked is not None:
            self._forked()


_WORKERS: weakref.WeakSet[PacedWorker[Any]] = weakref.WeakSet()


def _after_fork() -> None:
    for worker in list(_WORKERS):
        with contextlib.suppress(Exception):
            worker._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
