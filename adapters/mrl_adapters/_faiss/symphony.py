"""SymphonyQG of the RaBitQ library, the one place where that is called: a graph over vectors that never changes.

Each node has its vector and, beside it, 1-bit codes of its 32 neighbours, so that a step of a search reads one piece of
memory and scores all of them at once (Gou, Gao, Xu and Long, "SymphonyQG", SIGMOD 2025).
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.errors import BackendError, MissingExtra
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.parallel import THREADS

from .._temporary import Temporary
from .structure import Found

__all__ = ["LEAST_POINTS", "SymphonyGraph", "bytes_for", "lacking", "rabitq_errors", "required"]

_DEGREE = 32
LEAST_POINTS = _DEGREE + 1
"""Fewer vectors have not neighbours enough."""
_EF_CONSTRUCTION = 200
_RAW = 0
_HALF = 0.5
_LEAST_DIMS = 64  # of its rotation
_TOO_FEW = "could not produce k results"


def lacking(machine: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """What the library needs of an x86 processor and this one does not have; empty where it cannot be told."""
    if machine.lower() not in ("x86_64", "amd64"):
        return []
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return []
    flags = next((line.split() for line in lines if line.startswith("flags")), None)
    return [] if flags is None else [name for name in ("avx2", "fma") if name not in flags]


def required() -> Any:
    """The library.

    Raises:
        MissingExtra: it is not installed.
        BackendError: the processor lacks instructions that it uses; it would end the process.
    """
    try:
        import rabitqlib
    except ImportError as error:
        raise MissingExtra("index='graph'", "graph") from error
    if missing := lacking(platform.machine()):
        raise BackendError(
            f"index='graph' needs a processor with AVX2 and FMA, this one lacks {' and '.join(missing)}: use "
            "index='hnsw' or 'ivf'"
        )
    return rabitqlib


@contextlib.contextmanager
def rabitq_errors(doing: str) -> Iterator[None]:
    """Turn the library's errors into ours: the one place where that happens."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise BackendError(f"{doing} failed, rabitqlib says: {error}") from error


def bytes_for(points: int, dims: int) -> int:
    """Bytes that the graph of so many vectors takes: the vector, and 32 codes, pairs of factors and numbers."""
    width = max(dims, _LEAST_DIMS)
    return points * (4 * width + _DEGREE * (-(-width // 64) * 8 + 2 * 4 + 4))


class SymphonyGraph:
    """A graph over vectors with ``dims`` components, in single precision. Any number of threads may search it."""

    def __init__(self, index: Any, dims: int) -> None:
        self._index = index
        self.dims = dims

    @classmethod
    def of(cls, vectors: FloatArray) -> SymphonyGraph:
        """The graph of unit or zero vectors (n, dims), at least :data:`LEAST_POINTS` of them.

        It takes long, holds no interpreter lock meanwhile, and cannot be stopped.

        Raises:
            BackendError: it cannot be built.
        """
        rows = _widened(vectors)
        # The nearest unit vectors are those with the greatest inner product, and graphs for distances are better where
        # there are clusters: of 1,100 vectors in 20 of them 1.000 were found by themselves, with the other metric .955.
        # Zero vectors would be too near. Where clusters are loose, there is no difference.
        are_unit = bool(np.einsum("nd,nd->n", rows, rows).min() > _HALF)
        with rabitq_errors("building the graph"), ThreadPoolExecutor(1) as pool:
            index = required().SymqgIndex(rows.shape[1], _DEGREE, "l2" if are_unit else "ip", _RAW)
            # In a thread of its own: OpenMP's threads belong to the one that called for them, and do not survive a fork
            # of that one.
            pool.submit(index.build, rows, _EF_CONSTRUCTION, THREADS).result()
        return cls(index, vectors.shape[1])

    @property
    def points(self) -> int:
        """How many vectors it holds."""
        return int(self._index.num_points)

    def search(self, queries: FloatArray, k: int, ef: int) -> Found | None:
        """Inner products and numbers (Q, k) of ``k`` vectors near each query (Q, dims), best first.

        Args:
            queries: finite rows.
            k: from 1 to :attr:`points`.
            ef: how many candidates the search keeps, at least ``k``. As it may meet one more than once, it scores about
                two thirds as many; where these are fewer than ``k``, neighbours of what it found fill the places left.

        Returns:
            None: the graph does not lead to so many.
        """
        with rabitq_errors("searching the graph"):
            try:
                numbers, distances = self._index.search(_widened(queries), k, ef, 1)
            except RuntimeError as error:
                if _TOO_FEW in str(error):
                    return None
                raise
        if self._index.metric == "l2":
            squares = np.einsum("qd,qd->q", queries, queries)[:, None]
            distances = np.float32(0.5) * (distances + np.float32(1) - squares)
        return np.float32(1) - distances, numbers.astype(np.int64)

    def write(self, path: Path) -> None:
        """Write it to a new file, in the library's own format.

        Raises:
            BackendError: it cannot be written.
        """
        with rabitq_errors(f"writing {path}"):
            self._index.save(str(path))

    @classmethod
    def read(cls, content: npt.NDArray[np.uint8], dims: int) -> SymphonyGraph:
        """What was written. The library reads files alone: the bytes go through one in the temporary folder.

        Raises:
            ValueError: it was not this, or cannot be read here.
        """
        try:
            library = required()
            folder = Temporary("mrl-graph-")
            try:
                file = folder.path / "graph"
                content.tofile(file)
                with rabitq_errors("reading the graph"):
                    index = library.SymqgIndex.load(str(file))
            finally:
                folder.remove()
        except (OSError, BackendError, MissingExtra) as error:
            raise ValueError(f"its graph cannot be read: {error}") from error
        found = (index.dim, index.quantization_bits)
        if found != (expected := (max(dims, _LEAST_DIMS), _RAW)):
            raise ValueError(
                f"its graph has {found[0]} dims in {found[1]} bits, expected {expected[0]} in {expected[1]}"
            )
        return cls(index, dims)


def _widened(vectors: FloatArray) -> FloatArray:
    """Vectors that are too short for the library, filled up with zeros, which change no inner product."""
    n, dims = vectors.shape
    if dims >= _LEAST_DIMS:
        return np.ascontiguousarray(vectors, dtype=np.float32)
    wide = np.zeros((n, _LEAST_DIMS), dtype=np.float32)
    wide[:, :dims] = vectors
    return wide
