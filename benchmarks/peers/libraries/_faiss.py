"""What the FAISS peers share: files, threads, and a second stage of float16 vectors that all of one set use."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contract import Peer, Rows, lazy
from benchmarks.peers.sets import Shape
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["FaissPeer", "RefinedPeer", "add", "faiss", "lists", "sample"]

faiss: Any = lazy("faiss")
_BLOCK = 50_000
_INDEX = "index.faiss"


class FaissPeer(Peer):
    """One index, in one file."""

    needs = ("faiss",)
    adds = True

    def open(self, folder: Path, vectors: FloatArray, threads: int) -> None:
        faiss.omp_set_num_threads(threads)
        self._index = faiss.read_index(str(folder / _INDEX))
        self._parameters: Any = None

    def query(self, vector: FloatArray, k: int) -> Rows:
        found: Rows = self._index.search(vector[None], k, params=self._parameters)[1][0]
        return found

    def batch(self, vectors: FloatArray, k: int) -> Any:
        return self._index.search(vectors, k, params=self._parameters)[1]


class RefinedPeer(FaissPeer):
    """A compressed index under FAISS's ``IndexRefine``, which rescores with the vectors in float16.

    The float16 vectors are one file for all builds of a set, as they are the same in each.
    """

    @abstractmethod
    def base(self, vectors: FloatArray) -> Any:
        """The trained and filled index below."""

    def build(self, vectors: FloatArray, folder: Path, threads: int) -> None:
        faiss.omp_set_num_threads(threads)
        faiss.write_index(self.base(vectors), str(folder / _INDEX))
        (fine,) = self.files(folder)
        if not fine.exists():
            store = faiss.IndexScalarQuantizer(
                self.shape.dims, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
            )
            add(store, vectors)
            part = fine.with_suffix(".part")
            faiss.write_index(store, str(part))
            part.replace(fine)

    def files(self, folder: Path) -> list[Path]:
        return [folder.parents[2] / "fine-fp16.faiss"]

    def open(self, folder: Path, vectors: FloatArray, threads: int) -> None:
        super().open(folder, vectors, threads)
        self._base = self._index
        self._fine = faiss.read_index(str(self.files(folder)[0]))
        self._index = faiss.IndexRefine(self._base, self._fine)

    def refine(self, factor: float, base_parameters: Any) -> None:
        """For the next searches: candidates for each neighbour asked for, and what the index below is told."""
        # FAISS holds only pointers to parameters, so what they are made of is kept.
        self._kept = base_parameters
        self._parameters = faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=base_parameters)


def add(index: Any, vectors: FloatArray) -> None:
    """Add rows block by block, as they may be mapped from a file larger than memory."""
    for start in range(0, len(vectors), _BLOCK):
        index.add(np.ascontiguousarray(vectors[start : start + _BLOCK]))


def sample(vectors: FloatArray, n: int) -> FloatArray:
    """At most ``n`` rows for training, drawn with a fixed seed."""
    if len(vectors) <= n:
        return np.array(vectors)
    return np.array(vectors[np.sort(np.random.default_rng(3).choice(len(vectors), n, replace=False))])


def lists(shape: Shape) -> int:
    """Inverted lists: the power of two next to four times the root of the rows; 4,096 for a million."""
    return int(2 ** round(np.log2(4 * np.sqrt(shape.rows))))
