"""USearch: HNSW over float16 or 8-bit vectors, without a second stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contract import Peer, Rows, Setting, lazy
from benchmarks.peers.sets import Shape
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["USearch"]

usearch: Any = lazy("usearch.index")
_BLOCK = 20_000


class USearch(Peer):
    label = "USearch"
    needs = ("usearch",)
    adds = removes = True

    @classmethod
    def grid(cls, shape: Shape) -> Sequence[Setting]:
        return [{"dtype": dtype, "connectivity": 32, "expansion_add": 200} for dtype in ("f16", "i8")]

    def _new(self) -> Any:
        return usearch.Index(ndim=self.shape.dims, metric="ip", **self.made)

    def build(self, vectors: FloatArray, folder: Path, threads: int) -> None:
        index = self._new()
        for start in range(0, len(vectors), _BLOCK):
            block = np.ascontiguousarray(vectors[start : start + _BLOCK])
            index.add(np.arange(start, start + len(block)), block, threads=threads)
        index.save(str(folder / "index.usearch"))

    def open(self, folder: Path, vectors: FloatArray, threads: int) -> None:
        self._threads = threads
        self._index = self._new()
        self._index.load(str(folder / "index.usearch"))

    def settings(self, k: int) -> Sequence[Setting]:
        return [{"expansion_search": n} for n in (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024) if n >= k]

    def use(self, setting: Setting) -> None:
        super().use(setting)
        self._index.expansion_search = setting["expansion_search"]

    def query(self, vector: FloatArray, k: int) -> Rows:
        found: Rows = self._index.search(vector, k, threads=1).keys
        return found

    def batch(self, vectors: FloatArray, k: int) -> Any:
        return self._index.search(vectors, k, threads=self._threads).keys
