"""turbovec: a flat scan of 4-bit codes of the prefixes, and a second stage by numba over float16 vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contract import Peer, Rows, Setting, lazy, truncated
from benchmarks.peers.libraries._faiss import sample
from benchmarks.peers.libraries._rerank import FineRows, compile_kernel, write_fine
from benchmarks.peers.sets import Shape
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["Turbovec"]

turbovec: Any = lazy("turbovec")


class Turbovec(Peer):
    label = "turbovec on prefixes + numba rerank"
    needs = (
        "turbovec",
        "numba",
    )
    adds = removes = True

    @classmethod
    def grid(cls, shape: Shape) -> Sequence[Setting]:
        return [{"coarse": dims, "bits": 4} for dims in (*shape.coarse, 2 * shape.coarse[-1])]

    def build(self, vectors: FloatArray, folder: Path, threads: int) -> None:
        prefixes = truncated(vectors, self.made["coarse"])
        index = turbovec.TurboQuantIndex(dim=self.made["coarse"], bit_width=self.made["bits"])
        index.calibrate(sample(prefixes, 4096))
        index.add(prefixes)
        index.write(str(folder / "index.tv"))
        write_fine(vectors, self.files(folder)[0])

    def files(self, folder: Path) -> list[Path]:
        return [folder.parents[2] / "fine-fp16.npy"]

    def prepare(self) -> None:
        super().prepare()
        compile_kernel()

    def open(self, folder: Path, vectors: FloatArray, threads: int) -> None:
        self._index = turbovec.TurboQuantIndex.load(str(folder / "index.tv"))
        self._index.prepare()
        self._fine = FineRows(self.files(folder)[0])

    def settings(self, k: int) -> Sequence[Setting]:
        return [{"candidates": n} for n in (30, 50, 75, 100, 150, 200, 300, 400, 800, 1600) if n >= k]

    def query(self, vector: FloatArray, k: int) -> Rows:
        prefix = np.ascontiguousarray(vector[None, : self.made["coarse"]])
        found = self._index.search(prefix, self.setting["candidates"])[1][0]
        return self._fine.best(vector, found.astype(np.int64), k)

    def batch(self, vectors: FloatArray, k: int) -> Any:
        prefixes = np.ascontiguousarray(vectors[:, : self.made["coarse"]])
        found = self._index.search(prefixes, self.setting["candidates"])[1]
        return [self._fine.best(*pair, k) for pair in zip(vectors, found.astype(np.int64), strict=True)]
