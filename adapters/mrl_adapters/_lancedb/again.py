"""Reads that are repeated where another process removed what they were reading."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from mrl_retrieval.errors import BackendError

from .database import table_is_gone

__all__ = ["read_again"]

# How often a read is repeated whose table, or version of it, was removed under its feet.
_READ_AGAIN = 3


class Forgets(Protocol):
    """Knows which table holds the rows, and can look it up anew."""

    def forget(self) -> None:
        """Do so at the next call."""


B = TypeVar("B", bound=Forgets)
P = ParamSpec("P")
R = TypeVar("R")


def read_again(read: Callable[Concatenate[B, P], R]) -> Callable[Concatenate[B, P], R]:
    """Repeat a read that met files which another process had just removed; the new table is looked up first."""

    @functools.wraps(read)
    def reading(self: B, /, *args: P.args, **kwargs: P.kwargs) -> R:
        for _ in range(_READ_AGAIN):
            try:
                return read(self, *args, **kwargs)
            except BackendError as error:
                if not table_is_gone(error):
                    raise
                self.forget()
        return read(self, *args, **kwargs)

    return reading
