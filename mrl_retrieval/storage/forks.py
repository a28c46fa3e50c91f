"""Objects that must start afresh in a child process: locks and connections do not survive a fork."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["Forkable", "register"]


class Forkable(Protocol):
    """Has something to put right after a fork."""

    def after_fork(self) -> None:
        """Called in the child, before anything else runs there."""


_LIVING: weakref.WeakSet[Forkable] = weakref.WeakSet()


def register(thing: Forkable) -> None:
    """Call ``thing.after_fork()`` in every child process, for as long as the object lives."""
    _LIVING.add(thing)


def _after_fork() -> None:
    for thing in list(_LIVING):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
