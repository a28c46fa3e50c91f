"""This library's embedded index without what is around it: row numbers, no ids, no documents, no store to ask first.

It opens what :class:`~benchmarks.peers.libraries.mrl.Library` builds, so that the two differ in the query alone. This
is what compares with libraries that hold vectors and nothing else. Depth is set as other libraries' is, by sweeping it:
how far the promise of a list may be below that of the best (``margin``, see ``mrl_retrieval/coarse/depth.py``), and how
many candidates are reranked.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contract import Rows, Setting, lazy
from benchmarks.peers.libraries.mrl import Library
from mrl_retrieval.coarse.within import Reach
from mrl_retrieval.matryoshka import FloatArray, prefix
from mrl_retrieval.storage import Near
from mrl_retrieval.storage.stored_cosines import best_stored

__all__ = ["Engine"]

mrl: Any = lazy("mrl_retrieval")
_THREADS = 2
_MARGINS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.175, 0.2, 0.225, 0.25, 0.3, 0.35, 0.4, 0.5)
_CANDIDATES = (20, 30, 50, 75, 100, 150, 200, 300)


class Engine(Library):
    label = "mrl_retrieval, engine alone"

    def open(self, folder: Path, vectors: FloatArray, threads: int) -> None:
        super().open(folder, vectors, threads)
        self._retriever.search_by_vector(np.ones(self.shape.dims, np.float32), 1)
        index: Any = self._retriever._backend._index
        coarse, self._fine = index.on(lambda _, coarse: coarse, lambda snapshot, coarse: (coarse, snapshot.fine))
        self._structure, self._first = coarse.structure, coarse.first
        self._everyone = coarse.everyone

    def settings(self, k: int) -> Sequence[Setting]:
        """Lists to look into, and candidates."""
        lists = self._structure.details().get("lists", 1)
        margins = _MARGINS if lists > 1 else (0.0,)
        return [{"margin": margin, "candidates": n} for margin in margins for n in _CANDIDATES if n >= k]

    def query(self, vector: FloatArray, k: int) -> Rows:
        return self._several(vector[None], k)[0]

    def _several(self, vectors: FloatArray, k: int) -> list[Rows]:
        prefixes, limit = prefix(vectors, self.made["coarse"]), self.setting["candidates"]
        if hasattr(self._structure, "within") and self.setting["margin"]:
            reach = Reach(limit, self.setting["margin"])
            everyone = self._everyone
            near = Near(*self._structure.within.candidates(prefixes, reach, everyone.mask, everyone.count, k))
        else:
            near = Near.full(self._structure.search(prefixes, limit, self._everyone)[1])
        if not self._first:
            return [numbers for numbers, _ in best_stored(self._fine, *near, vectors, k)]
        best = best_stored(self._fine, near.numbers + self._first, near.counts, vectors, k)
        return [numbers - self._first for numbers, _ in best]

    def batch(self, vectors: FloatArray, k: int) -> Sequence[Rows]:
        parts = [vectors[start : start + 50] for start in range(0, len(vectors), 50)]
        with ThreadPoolExecutor(_THREADS) as pool:
            return [rows for part in pool.map(lambda part: self._several(part, k), parts) for rows in part]
