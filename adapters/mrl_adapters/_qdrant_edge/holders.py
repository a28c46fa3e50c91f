"""Who has which shard: all backends of this process that name one collection share one :class:`SharedShard`.

The last to let it go closes it, and so frees the folder for other processes.
"""

from __future__ import annotations

import contextlib
import logging
import threading

from mrl_retrieval.errors import MRLError
from mrl_retrieval.storage import forks

from .._temporary import Temporary
from .files import EdgeFiles
from .shard import SharedShard

__all__ = ["abandon", "acquire", "release"]

log = logging.getLogger(__name__)

_SHARDS: dict[EdgeFiles, SharedShard] = {}
_SHARDS_LOCK = threading.Lock()


class _AfterFork:
    """A child process starts with no shard of its own; the parent's are kept, so that nothing closes them here."""

    def __init__(self) -> None:
        self.parents: list[SharedShard] = []

    def after_fork(self) -> None:
        global _SHARDS_LOCK
        _SHARDS_LOCK = threading.Lock()
        self.parents += _SHARDS.values()
        _SHARDS.clear()


_after_fork = _AfterFork()
forks.register(_after_fork)


def acquire(files: EdgeFiles) -> SharedShard:
    """The shard of a collection, to be given back by :func:`release`. Opens nothing."""
    with _SHARDS_LOCK:
        shared = _SHARDS.setdefault(files, SharedShard(files))
        shared.users += 1
        return shared


def release(shared: SharedShard) -> None:
    """Give a shard back; the last to do so closes it."""
    with _SHARDS_LOCK:
        shared.users -= 1
        if shared.users:
            return
        if _SHARDS.get(shared.files) is shared:
            del _SHARDS[shared.files]
    shared.finish()


def abandon(shared: SharedShard, temporary: Temporary | None) -> None:
    """Give back what a backend had that nobody closed and nobody can reach any more.

    Done in a thread: this may be called wherever garbage is collected, also where a lock is held that it takes.
    """

    def let_go() -> None:
        try:
            release(shared)
        except MRLError:
            log.warning("closing %s, which nobody had closed, failed", shared.files.folder, exc_info=True)
        finally:
            if temporary is not None:
                temporary.remove()

    with contextlib.suppress(RuntimeError):  # no new threads once the interpreter ends: the folder goes then
        threading.Thread(target=let_go, name="mrl-qdrant-edge-abandon").start()
