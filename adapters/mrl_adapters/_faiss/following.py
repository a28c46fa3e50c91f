"""The coarse index of one ``faiss`` backend in one process: it follows the store, and is shared by its searches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from mrl_retrieval.storage import ReadWriteLock, Snapshot, Store

from .index import CoarseIndex, after_fork, rows_in_cache

__all__ = ["FollowingIndex"]

T = TypeVar("T")


class FollowingIndex:
    """Brings the index up to date with the commit that each search sees. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = ReadWriteLock()
        self._coarse: CoarseIndex | None = None

    def after_fork(self) -> None:
        """Start afresh in a child process: a thread of the parent may have been changing the index."""
        self._lock = ReadWriteLock()
        self._coarse = None
        after_fork()

    @contextlib.contextmanager
    def forgotten(self) -> Iterator[None]:
        """Nobody searches within the ``with``, and the next search makes the index again."""
        with self._lock.write():
            self._coarse = None
            yield

    def forget(self) -> None:
        """Let go of the index; the next search makes it again."""
        with self.forgotten():
            pass

    def on(self, work: Callable[[Snapshot, CoarseIndex], T]) -> T:
        """What ``work`` gives for a snapshot and the index of the same generation, which nobody changes meanwhile."""
        # The lock first: the index cannot run ahead of a snapshot that is begun while it stands still.
        with self._lock.read(), self._store.snapshot() as snapshot:
            coarse = self._coarse
            if coarse is not None and coarse.fits(snapshot):
                return work(snapshot, coarse)
        with self._lock.write(), self._store.snapshot() as snapshot:
            self._coarse = coarse = CoarseIndex.follow(snapshot, self._coarse, self._store.files)
            return work(snapshot, coarse)

    def save(self, worth_it: Callable[[int, int], bool], lock_timeout: float | None) -> None:
        """Write the cache file, if ``worth_it`` says so of the vectors that it lacks and those that it covers.

        Raises:
            LockTimeout: somebody else was writing for longer than ``lock_timeout`` seconds (None: the store's own).
        """

        def save(snapshot: Snapshot, coarse: CoarseIndex) -> None:
            coarse.save(snapshot, self._store.files)
            self._coarse = replace(coarse, cache_is_bad=False)

        with self._store.snapshot() as snapshot:
            bad = self._coarse is not None and self._coarse.cache_is_bad
            covered = 0 if bad else rows_in_cache(self._store.files, snapshot.state.collection_id)
            if not worth_it(snapshot.state.vectors - covered, covered):
                return
        # The writer lock keeps two processes from mixing an index of one with the sidecar of the other.
        with self._store.writing_files(lock_timeout):
            self.on(save)
