"""Work that goes on in the background of one backend: at most one piece at a time, given up when the backend closes."""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Callable

from mrl_retrieval.errors import MRLError

__all__ = ["Background", "Stopped"]

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """The work was given up, because the backend is closed."""


class Background:
    """One thread, where there is work. Thread-safe.

    Args:
        name: of the thread.
        failed: told of what went wrong, after it was logged.
    """

    def __init__(self, name: str, failed: Callable[[], None]) -> None:
        self._name = name
        self._failed = failed
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        _all.add(self)

    def after_fork(self) -> None:
        """Forget a thread of the parent process, which is not here."""
        self._lock = threading.Lock()
        self._thread = None
        self._stopping = threading.Event()

    @property
    def is_busy(self) -> bool:
        """Whether there is work being done."""
        return self._thread is not None

    def stopping(self) -> bool:
        """Whether the work is to be given up; it raises :class:`Stopped` then."""
        return self._stopping.is_set()

    def start(self, what: str, work: Callable[[], None]) -> None:
        """Begin a piece of work, unless one is being done. ``what`` it is goes into the log."""

        def run() -> None:
            try:
                work()
            except Stopped:
                logger.info("%s was given up, and is done another time", what)
            except (MRLError, OSError, MemoryError) as error:
                logger.warning("%s failed, everything goes on as it was: %s", what, error)
                self._failed()
            finally:
                self._thread = None

        with self._lock:
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(target=run, name=self._name, daemon=True)
                self._thread.start()

    def wait(self) -> None:
        """Wait for the end of the work, if there is any."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def stop(self) -> None:
        """Have the work given up, and wait for its end."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._stopping.set()
            thread.join()
            self._stopping.clear()


_all: weakref.WeakSet[Background] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """No thread may be within compiled code when the interpreter goes."""
    for background in list(_all):
        background.stop()
