"""FAISS, imported in one place, with its errors turned into ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.errors import BackendError, MissingExtra

try:
    import faiss
except ImportError as error:
    raise MissingExtra("the faiss backend", "faiss") from error

__all__ = ["after_fork", "faiss", "faiss_errors", "read_index", "untyped", "write_index"]

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


def write_index(index: Any, path: Path) -> None:
    """Write an index to a new file."""
    with faiss_errors("writing the index"):
        faiss.write_index(index, str(path))


def read_index(content: npt.NDArray[np.uint8], kind: type[Any]) -> Any:
    """The index whose file these are the bytes of.

    Raises:
        ValueError: they are none, or not of an index of this kind.
    """
    try:
        index = faiss.deserialize_index(content)
    except RuntimeError as error:
        raise ValueError(f"FAISS refuses it: {error}") from error
    if not isinstance(index, kind):
        raise ValueError(f"it is a {type(index).__name__}")
    return index
