"""Exact searches of one ``faiss`` backend: by a copy of the vectors in codes where there is one, else by reading all.

The copy is a cache: it is made in the background, after the first exact search of a collection that is large enough for
it to pay, kept in a file, and follows the store.
"""

from __future__ import annotations

import threading

import numpy as np

from mrl_retrieval.errors import LockTimeout
from mrl_retrieval.exact import Answer, ExactCopy
from mrl_retrieval.exact.layout import CHUNK
from mrl_retrieval.kernels import available
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.parallel import THREADS
from mrl_retrieval.storage import Snapshot, Store, exact_scan

from .background import Background, Stopped
from .structure import Mask

__all__ = ["ExactSearcher"]

_WORTH_ROWS = 2 * CHUNK
"""Below, all vectors are read in the time of a few hundred rows of a copy."""
_STEP_BYTES = 256 * 2**20
"""Codes that are in memory before they are written."""


class ExactSearcher:
    """Answers exact searches, and sees to the copy. Thread-safe.

    Args:
        store: the collection.
        wanted: whether to keep a copy; None: once an exact search has asked for it, or where there is one.
    """

    def __init__(self, store: Store, wanted: bool | None) -> None:
        self._store = store
        self._wanted = wanted
        self._lock = threading.Lock()
        self._copy: ExactCopy | None = None
        self._epoch = 0
        self._gave_up = False
        self._background = Background("mrl-exact-copy", self._give_up)

    def after_fork(self) -> None:
        """Start afresh in a child process."""
        self._lock = threading.Lock()
        self._copy = None
        self._background.after_fork()

    def forget(self) -> None:
        """Let go of the copy; the next search looks for its file."""
        self.stop()
        self._copy = None
        self._gave_up = False

    def stop(self) -> None:
        """Give up what is being made."""
        self._background.stop()

    def _give_up(self) -> None:
        self._gave_up = True

    def search(self, snapshot: Snapshot, queries: FloatArray, k: int, allowed: Mask) -> Answer:
        """The exact best ``k`` for each of ``queries`` (Q, D), with all ties, in no order.

        Args:
            snapshot: of the collection.
            queries: unit rows, or zero rows.
            k: at least 1.
            allowed: which vectors from ``snapshot.state.first`` on take part.
        """
        copy = self._following(snapshot)
        if copy is not None:
            return copy.search(snapshot, queries, k, allowed, threads=THREADS)
        positions = np.flatnonzero(allowed) + snapshot.state.first
        found = exact_scan(snapshot.fine, positions, queries, k)
        rescored = len(positions) * len(queries)
        bytes_read = len(positions) * snapshot.fine.layout.row_bytes
        return Answer(found, bytes_read, 0, rescored, list(range(len(queries))))

    def make_if_wanted(self) -> None:
        """Make the copy and its file now, where one is wanted or there; else do nothing.

        Raises:
            LockTimeout: somebody else is writing.
            BackendError: the disk is full, or fails.
        """
        self._background.wait()
        with self._store.snapshot() as snapshot:
            if not self._is_worth_it(snapshot) or not (self._wanted or self._store.files.exact_sidecar.exists()):
                return
        self._make_and_write()

    def _is_worth_it(self, snapshot: Snapshot) -> bool:
        rows = snapshot.state.vectors - snapshot.state.first
        return self._wanted is not False and available() and rows >= _WORTH_ROWS

    def _following(self, snapshot: Snapshot) -> ExactCopy | None:
        """The copy for a snapshot; None where there is none, or one that is far behind, which is seen to meanwhile."""
        if self._epoch != snapshot.epoch:  # another database is there
            self._copy, self._epoch = None, snapshot.epoch
        copy = self._copy
        if copy is not None and copy.fits(snapshot):
            return copy
        if not self._is_worth_it(snapshot) or (copy is not None and copy.generation > snapshot.state.generation):
            return None
        with self._lock:
            copy = self._copy
            if copy is None and self._store.files.exact_sidecar.exists():
                copy = ExactCopy.follow(snapshot, None, self._store.files, most=0)
            if copy is not None and not copy.is_outgrown(snapshot) and snapshot.state.vectors - copy.end <= CHUNK:
                self._copy = copy = ExactCopy.follow(snapshot, copy, self._store.files)
                return copy
        if not self._gave_up:
            self._background.start(f"{self._store.files.folder}: making a copy for exact searches", self._make)
        return None

    def _make(self) -> None:
        try:
            self._make_and_write()
        except LockTimeout as error:  # somebody writes for long: another time
            raise Stopped from error

    def _make_and_write(self) -> None:
        """Make the copy whole, and write it, some of it at a time."""
        copy: ExactCopy | None = None
        while True:
            if self._background.stopping():
                raise Stopped
            with self._store.snapshot() as snapshot:
                most = max(CHUNK, _STEP_BYTES // snapshot.fine.layout.dims // CHUNK * CHUNK)
                copy = ExactCopy.follow(snapshot, copy, self._store.files, most=most)
            with self._store.writing_files(None), self._store.snapshot() as snapshot:
                if copy.is_outgrown(snapshot):
                    continue
                copy = copy.save(snapshot, self._store.files)
                if snapshot.state.vectors - copy.end <= CHUNK:
                    self._copy = copy
                    return
