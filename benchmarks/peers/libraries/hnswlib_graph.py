"""hnswlib: the reference HNSW, with float32 vectors in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contract import Peer, Rows, Setting, lazy
from benchmarks.peers.sets import Shape
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["Hnswlib"]

hnswlib: Any = lazy("hnswlib")
_BLOCK = 20_000


class Hnswlib(Peer):
    label = "hnswlib"
    needs = ("hnswlib",)
    adds = removes = True

    @classmethod
    def grid(cls, shape: Shape) -> Sequence[Setting]:
        return [{"M": m, "ef_construction": 200} for m in (16, 32)]

    def build(self, vectors: FloatArray, folder: Path, threads: int) -> None:
        index = hnswlib.Index(space="ip", dim=self.shape.dims)
        index.init_index(len(vectors), ef_construction=self.made["ef_construction"], M=self.made["M"], random_seed=1)
        for start in range(0, len(vectors), _BLOCK):
            block = np.ascontiguousarray(vectors[start : start + _BLOCK])
            index.add_items(block, np.arange(start, start + len(block)), num_threads=threads)
        index.save_index(str(folder / "index.bin"))

    def open(self, folder: Path, vectors: FloatArray, threads: int) -> None:
        self._index = hnswlib.Index(space="ip", dim=self.shape.dims)
        self._index.load_index(str(folder / "index.bin"))
        self._index.set_num_threads(threads)

    def settings(self, k: int) -> Sequence[Setting]:
        return [{"ef": n} for n in (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024) if n >= k]

    def use(self, setting: Setting) -> None:
        super().use(setting)
        self._index.set_ef(setting["ef"])

    def query(self, vector: FloatArray, k: int) -> Rows:
        found: Rows = self._index.knn_query(vector, k)[0][0]
        return found

    def batch(self, vectors: FloatArray, k: int) -> Any:
        return self._index.knn_query(vectors, k)[0]
