"""What a library has to do to take part: one class in one file of ``libraries/``.

A library is imported where it is used, not where its file is read, so that every file can be read everywhere.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from benchmarks.peers.sets import Shape
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["Peer", "Rows", "Setting", "lazy", "truncated"]

Setting = Mapping[str, Any]
"""Of a build or of a query; its values go into JSON."""

Rows = Sequence[int] | npt.NDArray[Any]
"""Row numbers, best first."""

_BATCH_THREADS = 2


class Peer(ABC):
    """One way to search with one library.

    A build is made in one process and opened in others: one that asks single queries with one thread, on one core, and
    one that asks all at once with two.
    """

    label: ClassVar[str]
    """As it stands in tables."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Modules that must be there."""
    adds: ClassVar[bool] = False
    """Whether rows can be added to a build."""
    removes: ClassVar[bool] = False
    """Whether rows can be taken out of a build."""
    exact: ClassVar[bool] = False
    """Whether the answer is the exact one by design."""
    rereads: ClassVar[bool] = False
    """Whether opening a build needs the vectors' own file too, so that it counts as kept on disk."""
    ours: ClassVar[bool] = False
    """Whether this is the library that all others are compared with."""
    note: ClassVar[str] = ""
    """What a reader of its figures should know."""

    def __init__(self, shape: Shape, build: Setting) -> None:
        self.shape = shape
        self.made = build

    def prepare(self) -> None:
        """Import, and compile, what is the library's own size and not the index's: it is not counted."""
        for module in self.needs:
            importlib.import_module(module)

    @classmethod
    def grid(cls, shape: Shape) -> Sequence[Setting]:
        """The builds to try."""
        return [{}]

    @abstractmethod
    def build(self, vectors: FloatArray, folder: Path, threads: int) -> None:
        """Make an index of ``(N, D)`` unit rows in an empty folder. The rows are mapped from a file.

        What is needed to open it has to lie in the folder, but for the vectors themselves, which are at hand there too.
        """

    @abstractmethod
    def open(self, folder: Path, vectors: FloatArray, threads: int) -> None:
        """Make ready to search. What is kept of ``vectors`` has to be copied into memory, or is counted as mapped."""

    @abstractmethod
    def settings(self, k: int) -> Sequence[Setting]:
        """What to try at query time, from the fastest to the most thorough."""

    def use(self, setting: Setting) -> None:
        """Take a setting for the queries to come; its time is not counted."""
        self.setting = setting

    @abstractmethod
    def query(self, vector: FloatArray, k: int) -> Rows:
        """Row numbers of the best ``k`` for one query ``(D,)``. This call is what is timed."""

    def batch(self, vectors: FloatArray, k: int) -> Sequence[Rows]:
        """The same for ``(Q, D)`` at once, by whatever the library has for it; here: threads that ask one by one."""
        with ThreadPoolExecutor(_BATCH_THREADS) as pool:
            return list(pool.map(lambda vector: self.query(vector, k), vectors, chunksize=16))

    def files(self, folder: Path) -> list[Path]:
        """What has to stay on disk, besides the folder."""
        return []

    def fine(self, folder: Path) -> list[Path]:
        """Those files that hold full vectors and are read for candidates only, where they are mapped."""
        return []


class _Lazy:
    """A module that is imported when something of it is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, value)
        return value


def lazy(module: str) -> Any:
    """Stands for a module; importing starts with the first use."""
    return _Lazy(module)


def truncated(vectors: FloatArray, dims: int) -> FloatArray:
    """Renormalised prefixes ``(N, d)``, contiguous; made block by block, as ``vectors`` may be larger than memory."""
    found = np.empty((len(vectors), dims), dtype=np.float32)
    for start in range(0, len(vectors), 50_000):
        block = np.asarray(vectors[start : start + 50_000, :dims])
        lengths = np.sqrt(np.einsum("nd,nd->n", block, block))
        found[start : start + 50_000] = block / np.maximum(lengths, np.finfo(np.float32).tiny)[:, None]
    return found
