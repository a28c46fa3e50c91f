"""The coarse index of one ``faiss`` backend in one process: it follows the store, and is shared by its searches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar, cast

from mrl_retrieval.storage import ReadWriteLock, Snapshot, Store

from .index import CoarseIndex, after_fork, rows_in_cache

__all__ = ["FollowingIndex"]

C = TypeVar("C")
T = TypeVar("T")

_ATTEMPTS = 3


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

    def on(self, search: Callable[[Snapshot, CoarseIndex], C], rest: Callable[[Snapshot, C], T]) -> T:
        """``rest`` of what ``search`` finds for a snapshot and the index of the same generation.

        Nobody changes the index while ``search`` runs; ``rest`` has the same snapshot, and holds nobody up.
        """
        for _ in range(_ATTEMPTS):
            with contextlib.ExitStack() as held:
                # The lock first: the index cannot run ahead of a snapshot that is begun while it stands still.
                with self._lock.read():
                    snapshot = held.enter_context(self._store.snapshot())
                    coarse = self._coarse if self._coarse is not None and self._coarse.fits(snapshot) else None
                    found = None if coarse is None else search(snapshot, coarse)
                if coarse is not None:
                    return rest(snapshot, cast(C, found))
            with self._lock.write(), self._store.snapshot() as snapshot:
                self._follow(snapshot)
        with contextlib.ExitStack() as held:
            with self._lock.write():  # somebody commits all the time
                snapshot = held.enter_context(self._store.snapshot())
                found = search(snapshot, self._follow(snapshot))
            return rest(snapshot, found)

    def _follow(self, snapshot: Snapshot) -> CoarseIndex:
        self._coarse = CoarseIndex.follow(snapshot, self._coarse, self._store.files)
        return self._coarse

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
            self.on(save, lambda snapshot, _: None)
