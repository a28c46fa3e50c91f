"""The one shard that this process has open on a collection's folder, and every error Qdrant's engine can raise.

A shard belongs to one process at a time, so a lock on the folder is held for as long as it is open.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from qdrant_edge import EdgeConfig, EdgeShard, UpdateOperation

from mrl_retrieval.errors import (
    BackendError,
    CollectionNotFound,
    ConflictError,
    LockTimeout,
    MRLError,
)
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.storage import forks
from mrl_retrieval.storage.locks import ReadWriteLock, WriterLock

from .._qdrant.points import vector_dims
from .._rust import translated
from .files import EdgeFiles

__all__ = ["SharedShard", "engine_errors"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_UNINDEXED = 50_000
"""So many new points, and no fewer than are indexed, make a write index them all."""
_UNINDEXED_AT_CLOSE = 10_000


class SharedShard:
    """A shard that is opened by the first call that needs it."""

    def __init__(self, files: EdgeFiles) -> None:
        self.files = files
        self.users = 0
        self._lock = ReadWriteLock()
        self._shard: EdgeShard | None = None
        self._folder_lock = contextlib.ExitStack()
        self._unindexed = 0
        self._finished = False
        self._forked = False
        forks.register(self)

    def after_fork(self) -> None:
        """In a child process: this shard is the parent's."""
        self._forked = True
        self._lock = ReadWriteLock()

    # -- opening and closing -------------------------------------------------------------------------------

    def run(self, action: Callable[[EdgeShard], T], *, doing: str, patience: float) -> T:
        """Call the engine; other threads may, too.

        Args:
            action: what to call.
            doing: what fails, as in "Qdrant failed while searching".
            patience: seconds to wait for another process to let the folder go.

        Raises:
            BackendError: the engine refused or failed, or the shard was closed.
            LockTimeout: another process has the folder.
            CollectionNotFound: the collection was dropped.
        """
        while True:
            with self._lock.read():
                if self._shard is not None and not self._forked:
                    with engine_errors(doing, self.files.folder):
                        return action(self._shard)
            with self._lock.write():
                self._open(patience)

    def _open(self, patience: float) -> None:
        if self._shard is not None and not self._forked:
            return
        with contextlib.ExitStack() as undo:
            undo.enter_context(self._folder_taken(patience))
            found = self.files.read()
            if found is None:
                raise self._not_there()
            with engine_errors("opening the shard", self.files.folder):
                shard = EdgeShard.load(str(self.files.shard))
                info = shard.info()
            # Each named vector of a point counts.
            indexed = info.indexed_vectors_count // len(vector_dims(found[0]))
            self._unindexed = max(0, info.points_count - indexed)
            self._shard, self._folder_lock = shard, undo.pop_all()

    @contextlib.contextmanager
    def _folder_taken(self, patience: float) -> Iterator[None]:
        """Other processes are kept out of the folder."""
        if self._forked:
            raise BackendError(
                f"{self.files.folder} was opened before this process was forked, and is the parent's: open it again "
                "here, after the parent closed it"
            )
        if self._finished:
            raise BackendError(f"{self.files.folder} was closed; open it again")
        if self._shard is not None:
            yield
            return
        lock = contextlib.ExitStack()
        try:
            lock.enter_context(WriterLock(self.files.lock, patience).held())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._not_there() from error
        except LockTimeout as error:
            raise LockTimeout(
                f"{error}. A shard of qdrant-edge belongs to one process at a time, readers included: for several run "
                "a Qdrant server and use qdrant+http://host:6333"
            ) from error
        with lock:
            yield

    def _not_there(self) -> CollectionNotFound:
        return CollectionNotFound(f"there is no collection at {self.files.folder}; it was dropped, or never made")

    def finish(self) -> None:
        """Index what is worth it, write everything out, and let the folder go."""
        with self._lock.write():
            self._finished = True
            if self._shard is None or self._forked:  # in a child process both are the parent's
                return
            try:
                if self._unindexed >= _UNINDEXED_AT_CLOSE:
                    self._optimize(self._shard)
                with engine_errors("flushing", self.files.folder):
                    self._shard.flush()
            finally:
                with self._letting_go():
                    pass

    @contextlib.contextmanager
    def _letting_go(self) -> Iterator[None]:
        """The shard is closed; then the folder is freed for other processes."""
        shard, self._shard = self._shard, None
        held, self._folder_lock = self._folder_lock, contextlib.ExitStack()
        with held:
            if shard is not None:
                with engine_errors("closing the shard", self.files.folder):
                    shard.close()
            yield

    # -- the collection ------------------------------------------------------------------------------------

    def write_manifest(
        self,
        manifest: Manifest,
        expected: Manifest | None,
        make: Callable[[], tuple[EdgeConfig, list[UpdateOperation], str]],
        patience: float,
    ) -> None:
        """Compare and set; creates the collection where ``expected`` is None.

        Args:
            manifest: the new one.
            expected: the one that must be there.
            make: the settings of a new shard, what to do in it at once, and how it is quantised.
            patience: seconds to wait for another process to let the folder go.

        Raises:
            ConflictError: another manifest is there.
        """
        if expected is None:
            self.files.create()
        with self._lock.write(), self._folder_taken(patience):
            found = self.files.read()
            if (found and found[0].checksum) != (expected and expected.checksum):
                raise ConflictError(
                    f"the manifest of {self.files.folder} was changed meanwhile; read it again and repeat"
                )
            if found is not None:
                self.files.write(manifest, found[1])
                return
            config, operations, quantization = make()
            self.files.clear()
            with engine_errors("creating the shard", self.files.folder):
                shard = EdgeShard.create(str(self.files.shard), config)
                try:
                    for operation in operations:
                        shard.update(operation)
                    shard.flush()
                finally:
                    shard.close()
            self.files.write(manifest, quantization)

    def write_attachment(self, name: str, sealed: bytes, patience: float) -> None:
        """Put a sealed attachment in place.

        Raises:
            CollectionNotFound: there is no collection.
        """
        with self._lock.write(), self._folder_taken(patience):
            if self.files.read() is None:
                raise self._not_there()
            self.files.write_attachment(name, sealed)

    def sweep_attachments(self, patience: float) -> None:
        """Remove what killed writers left half written."""
        with self._lock.write(), self._folder_taken(patience):
            self.files.sweep_attachments()

    def drop(self, patience: float) -> None:
        """Remove the collection. The shard may be opened again when it was made again."""
        with self._lock.write(), self._folder_taken(patience):
            self.files.check_strangers()
            with self._letting_go():
                self.files.remove()

    # -- the index -----------------------------------------------------------------------------------------

    def wrote(self, points: int) -> None:
        """Count points that were written, and index them all once it is worth it."""
        with self._lock.write():
            self._unindexed += points
            shard = self._shard
            if shard is None or self._forked or self._unindexed < _UNINDEXED:
                return
            with engine_errors("reading the shard's state", self.files.folder):
                total = shard.info().points_count
            if 2 * self._unindexed >= total:
                self._optimize(shard)

    def flush(self) -> None:
        """Index everything and write it out, if the shard is open."""
        with self._lock.write():
            if self._shard is not None and not self._forked:
                self._optimize(self._shard)
                with engine_errors("flushing", self.files.folder):
                    self._shard.flush()

    def _optimize(self, shard: EdgeShard) -> None:
        with engine_errors("indexing", self.files.folder):
            changed = shard.optimize()
        self._unindexed = 0
        log.debug("optimized %s: %s", self.files.folder, "changed" if changed else "nothing to do")


def engine_errors(doing: str, folder: Path) -> contextlib.AbstractContextManager[None]:
    """Every error of the engine, as ours. It raises plain ``Exception``, with its words."""

    def ours(error: BaseException) -> MRLError:
        if "WouldBlock" in str(error):
            return LockTimeout(f"{folder} is open in another program that uses qdrant-edge ({error}): close it there")
        return BackendError(f"Qdrant's engine failed while {doing} in {folder}: {error}")

    return translated(ours)
