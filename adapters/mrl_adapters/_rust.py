"""Errors of clients that are written in Rust: a panic in one comes as an exception that is no ``Exception``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from mrl_retrieval.errors import MRLError

__all__ = ["translated"]


@contextlib.contextmanager
def translated(translate: Callable[[BaseException], MRLError]) -> Iterator[None]:
    """Raise what ``translate`` makes of a client's error or panic. Ours, and interruptions, go through as they are."""
    try:
        yield
    except MRLError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise translate(error) from error
