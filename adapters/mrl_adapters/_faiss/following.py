"""The coarse index of one ``faiss`` backend in one process: it follows the store, and is shared by its searches.

Where it is time for another structure, one is made in the background, from a snapshot, while searches go on with the
old one; then it is brought up to date and takes its place.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from mrl_retrieval.coarse.depth import LearnedDepth
from mrl_retrieval.errors import LockTimeout, NothingLearned
from mrl_retrieval.storage import NotAtHand, ReadWriteLock, Snapshot, Store

from . import cache
from .background import Background
from .calls import after_fork
from .choosing import Choice, Wish, can_learn, is_due, make
from .index import CoarseIndex
from .lessons import Sample
from .mapped import MappedPages

__all__ = ["FollowingIndex"]

logger = logging.getLogger(__name__)

C = TypeVar("C")
T = TypeVar("T")

_ATTEMPTS = 3


class FollowingIndex:
    """Brings the index up to date with the commit that each search sees. Thread-safe.

    Args:
        store: the collection.
        wish: what the index is to be.
        followed: called when it was brought up to date, and when it is made.
    """

    def __init__(self, store: Store, wish: Wish, followed: Callable[[Snapshot], None] | None = None) -> None:
        self._store = store
        self._followed = followed
        self._mapped = MappedPages()
        self._room: int | None = None
        """Bytes of the memory budget that the index leaves."""
        self._wish = wish
        self._background = Background("mrl-coarse-index", self._give_up)
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._lock = ReadWriteLock()
        self._coarse: CoarseIndex | None = None
        self._choosing = threading.Lock()
        self._gave_up_at = 0
        """How many vectors there were when a structure could not be made: it is not tried again before there are
        twice as many."""

    @property
    def probes(self) -> int | None:
        """How many lists searches are to look into; None: as many as was found to be enough."""
        return self._wish.probes

    def after_fork(self) -> None:
        """Start afresh in a child process: a thread of the parent may have been changing the index."""
        self._start_afresh()
        self._background.after_fork()
        after_fork()

    @contextlib.contextmanager
    def forgotten(self) -> Iterator[None]:
        """Nobody searches within the ``with``, and the next search makes the index again."""
        self.stop()
        with self._lock.write():
            self._coarse = None
            yield

    def forget(self) -> None:
        """Let go of the index; the next search makes it again."""
        with self.forgotten():
            pass

    def on(self, search: Callable[[Snapshot, CoarseIndex], C], rest: Callable[[Snapshot, C], T]) -> T:
        """``rest`` of what ``search`` finds for a snapshot and the index of the same generation.

        Nobody changes the index while ``search`` runs; ``rest`` has the same snapshot, and holds nobody up. Both may be
        called a second time, where they want of the first snapshot what is not at hand.
        """
        try:
            with self._lock.read() as reading:
                coarse, glanced = self._coarse, self._store.glances.take()
                if coarse is not None and glanced is not None and coarse.fits(glanced):
                    found = search(glanced, coarse)
                    reading.release()
                    return rest(glanced, found)
        except NotAtHand:
            pass
        return self._on_database(search, rest)

    def _on_database(self, search: Callable[[Snapshot, CoarseIndex], C], rest: Callable[[Snapshot, C], T]) -> T:
        for _ in range(_ATTEMPTS):
            # The lock first: the index cannot run ahead of a snapshot that is begun while it stands still.
            with self._lock.read() as reading, self._store.snapshot() as snapshot:
                coarse = self._coarse
                if coarse is not None and coarse.fits(snapshot):
                    found = search(snapshot, coarse)
                    self._store.glances.keep(snapshot)
                    reading.release()
                    return rest(snapshot, found)
            with self._lock.write(), self._store.snapshot() as snapshot:
                self._follow(snapshot)
        with contextlib.ExitStack() as held:
            with self._lock.write():  # somebody commits all the time
                snapshot = held.enter_context(self._store.snapshot())
                found = search(snapshot, self._follow(snapshot))
            return rest(snapshot, found)

    def searched(self, queries: int, snapshot: Snapshot) -> None:
        """Vectors and rows were read for so many queries: keep what is mapped of them within the memory budget."""
        if self._room is not None:
            self._mapped.after(queries, snapshot, self._room)

    def _follow(self, snapshot: Snapshot) -> CoarseIndex:
        coarse = self._bring_up(snapshot, self._coarse)
        alive = coarse.everyone.count
        if not self._background.is_busy and alive >= 2 * self._gave_up_at and self._is_due(coarse):
            self._background.start(f"{self._store.files.folder}: making a better coarse index", self._make)
        if self._followed is not None:
            self._followed(snapshot)
        return coarse

    def _bring_up(self, snapshot: Snapshot, before: CoarseIndex | None) -> CoarseIndex:
        self._coarse = coarse = CoarseIndex.follow(snapshot, before, self._store.files, self._wish)
        budget = self._wish.after(coarse.chosen).memory_budget
        self._room = None if budget is None else budget - coarse.structure.nbytes
        return coarse

    def _is_due(self, coarse: CoarseIndex) -> bool:
        return is_due(coarse.chosen, coarse.structure, coarse.everyone.count, self._wish)

    # -- another structure ---------------------------------------------------------------------------------

    def described(self) -> tuple[dict[str, Any], int | None]:
        """What the index is, in words, and its bytes in memory, about: where it is not made yet, as the cache file has
        it."""
        coarse = self._coarse
        if coarse is None:
            details, nbytes = cache.described(self._store.files)
            return details or {"index": "not made yet"}, nbytes
        details = {**coarse.structure.details()}
        if coarse.chosen:
            details["why"] = coarse.chosen.get("why")
        if self._background.is_busy:
            details["making"] = "another index, in the background"
        return details, coarse.structure.nbytes

    def choose(self, wish: Wish | None = None, sample: Sample | None = None) -> Choice:
        """Make the structure that there should be now, and use it; see :func:`~.choosing.make`.

        ``sample``: to learn from how deep to search; None: what the present one learned from, if it did.

        Raises:
            InvalidInput: what is asked for cannot be made of what there is, or not within the budget. The index is as
                it was.
        """
        with self._choosing:
            if wish is not None:
                self._wish = replace(wish, probes=self._wish.probes)
            coarse = self._coarse
            wish = self._wish.after({} if coarse is None else coarse.chosen)
            lesson = getattr(None if coarse is None else coarse.structure, "lesson", None)
            if sample is None and lesson is not None and can_learn(wish.index):
                sample = lesson.sample
            with self._store.snapshot() as snapshot:
                structure, choice = make(snapshot, wish, self._background.stopping, sample)
                made = CoarseIndex.of(structure, choice.as_dict(), snapshot)
            with self._lock.write(), self._store.snapshot() as snapshot:
                self._bring_up(snapshot, made)
            logger.info("%s: the coarse index is %s now: %s", self._store.files.folder, choice.index, choice.why)
            return choice

    def learned(self) -> LearnedDepth:
        """How deep to search, as the index in use has learned it.

        Raises:
            NothingLearned: it has not.
        """
        coarse = self._coarse
        lesson = None if coarse is None else getattr(coarse.structure, "lesson", None)
        if lesson is None:
            raise NothingLearned(f"the index of {self._store.files.folder} has not learned how deep to search")
        depth: LearnedDepth = lesson.depth
        return depth

    def choose_if_due(self) -> None:
        """The same, where it is time for it, waiting for one that is being made."""
        self._background.wait()
        self.on(lambda snapshot, coarse: None, lambda snapshot, _: None)
        self._background.wait()

    def _make(self) -> None:
        """In the background: make another structure, use it, and keep it. What goes wrong leaves the old one."""
        self.choose()
        try:
            self.save(lambda missing, covered: True, lock_timeout=0)
        except LockTimeout:  # it is in use, and the next one to write the file keeps it
            logger.info("%s: the new coarse index is not kept yet, somebody is writing", self._store.files.folder)

    def _give_up(self) -> None:
        coarse = self._coarse
        self._gave_up_at = 0 if coarse is None else coarse.everyone.count

    def stop(self) -> None:
        """Give up what is being made in the background, and wait for its end."""
        self._background.stop()

    # -- the cache file ------------------------------------------------------------------------------------

    def save(self, worth_it: Callable[[int, int], bool], lock_timeout: float | None) -> None:
        """Write the cache file, if ``worth_it`` says so of the vectors that it lacks and those that it covers.

        Raises:
            LockTimeout: somebody else was writing for longer than ``lock_timeout`` seconds (None: the store's own).
        """

        def save(snapshot: Snapshot, coarse: CoarseIndex) -> None:
            if coarse.structure.can_be_kept:
                cache.save(coarse.structure, coarse.first, coarse.chosen, snapshot, self._store.files)
                self._coarse = replace(coarse, cache_is_bad=False)

        with self._store.snapshot() as snapshot:
            bad = self._coarse is not None and self._coarse.cache_is_bad
            covered = 0 if bad else cache.rows_in_cache(self._store.files, snapshot.state.collection_id)
            if not worth_it(snapshot.state.vectors - covered, covered):
                return
        # The writer lock keeps two processes from mixing an index of one with the sidecar of the other.
        with self._store.writing_files(lock_timeout):
            self._on_database(save, lambda snapshot, _: None)
