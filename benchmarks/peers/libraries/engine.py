"""This library's embedded index without what is around it: row numbers, no ids, no documents, no store to ask first.

It opens what :class:`~benchmarks.peers.libraries.mrl.Library` built, so that the two differ in the query alone. This is
what compares with libraries that hold vectors and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contract import Rows, Setting, lazy
from benchmarks.peers.libraries.mrl import Library
from mrl_retrieval.matryoshka import FloatArray, prefix
from mrl_retrieval.storage.stored_cosines import stored_cosines

__all__ = ["Engine"]

mrl: Any = lazy("mrl_retrieval")
_THREADS = 2
_PROBES = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_CANDIDATES = (20, 30, 50, 75, 100, 150, 200, 300)


class Engine(Library):
    label = "mrl_retrieval, engine alone"

    def open(self, folder: Path, vectors: FloatArray, threads: int) -> None:
        super().open(folder, vectors, threads)
        self._retriever.search_by_vector(np.ones(self.shape.dims, np.float32), 1)
        index: Any = self._retriever._backend._index
        self._index, self._fine = index.on(lambda _, coarse: coarse, lambda snapshot, coarse: (coarse, snapshot.fine))

    def settings(self, k: int) -> Sequence[Setting]:
        """Lists to look into, and candidates."""
        lists = self._index.structure.details().get("lists", 1)
        probes = [p for p in _PROBES if p < lists] or [1]
        return [{"probes": p, "coarse_top_k": n} for p in probes for n in _CANDIDATES if n >= k]

    def query(self, vector: FloatArray, k: int) -> Rows:
        limit, probes = self.setting["coarse_top_k"], self.setting["probes"]
        found = self._index.search(prefix(vector[None], self.made["coarse"]), limit, None, probes)[1][0]
        scores = stored_cosines(self._fine, found, vector, len(vector))
        best = np.argpartition(-scores, k - 1)[:k]
        rows: Rows = found[best]
        return rows

    def batch(self, vectors: FloatArray, k: int) -> Sequence[Rows]:
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(lambda vector: self.query(vector, k), vectors, chunksize=32))
