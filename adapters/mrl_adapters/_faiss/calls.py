"""FAISS, imported in one place, with its errors turned into ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from mrl_retrieval.errors import BackendError, MissingExtra

try:
    import faiss
except ImportError as error:
    raise MissingExtra("the faiss backend", "faiss") from error

__all__ = ["after_fork", "faiss", "faiss_errors", "untyped"]

# FAISS's Python layer takes arrays and keywords that the declarations of its C++ classes do not know.
untyped: Any = faiss


def after_fork() -> None:
    """Keep FAISS usable in a forked child: the threads that OpenMP keeps for the forking thread are not there, and a
    search that counts on them would wait for ever. Other threads of the child make their own."""
    faiss.omp_set_num_threads(1)


@contextlib.contextmanager
def faiss_errors(doing: str) -> Iterator[None]:
    """Turn FAISS's errors into ours: the one place where that happens."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        raise BackendError(f"{doing} failed, FAISS says: {error}") from error
