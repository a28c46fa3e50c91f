"""IVF-RaBitQ of the RaBitQ library: inverted lists over RaBitQ codes of several bits, without a second stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contract import Peer, Rows, Setting, lazy
from benchmarks.peers.libraries._faiss import lists
from benchmarks.peers.sets import Shape
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["RaBitQIvf"]

rabitqlib: Any = lazy("rabitqlib")
_MANY = 1024  # lists from which on the library recommends its other clustering


class RaBitQIvf(Peer):
    label = "IVF-RaBitQ (rabitqlib)"
    needs = ("rabitqlib",)
    adds = removes = True

    @classmethod
    def grid(cls, shape: Shape) -> Sequence[Setting]:
        return [{"lists": lists(shape), "bits": bits} for bits in (5, 8)]

    def build(self, vectors: FloatArray, folder: Path, threads: int) -> None:
        n, dims = self.made["lists"], self.shape.dims
        data = np.ascontiguousarray(vectors)
        kind = rabitqlib.QGKMeans if n >= _MANY else rabitqlib.RaBitQKMeans
        clusters = kind(dims, n, num_threads=threads, spherical=True)
        clusters.train(data)
        index = rabitqlib.IvfIndex(dims, len(data), n, self.made["bits"], "ip")
        index.build(data, clusters.centroids, clusters.assignments, threads)
        index.save(str(folder / "index.ivf"))

    def open(self, folder: Path, vectors: FloatArray, threads: int) -> None:
        self._threads = threads
        self._index = rabitqlib.IvfIndex.load(str(folder / "index.ivf"))

    def settings(self, k: int) -> Sequence[Setting]:
        return [
            {"nprobe": n}
            for n in (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
            if n <= self.made["lists"]
        ]

    def query(self, vector: FloatArray, k: int) -> Rows:
        found: Rows = self._index.search(vector[None], k, self.setting["nprobe"])[0][0]
        return found

    def batch(self, vectors: FloatArray, k: int) -> Any:
        return self._index.search(vectors, k, self.setting["nprobe"], num_threads=self._threads)[0]
