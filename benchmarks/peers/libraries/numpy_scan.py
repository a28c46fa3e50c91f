"""NumPy as tutorials on Matryoshka embeddings write it: sort all prefix scores, rerank the first with full vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.peers.contract import Peer, Rows, Setting, truncated
from benchmarks.peers.sets import Shape
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["Tutorial"]


class Tutorial(Peer):
    label = "NumPy, as in tutorials"
    adds = removes = rereads = True

    @classmethod
    def grid(cls, shape: Shape) -> Sequence[Setting]:
        return [{"coarse": dims} for dims in shape.coarse]

    def build(self, vectors: FloatArray, folder: Path, threads: int) -> None:
        np.save(folder / "prefixes.npy", truncated(vectors, self.made["coarse"]))

    def open(self, folder: Path, vectors: FloatArray, threads: int) -> None:
        self._prefixes = np.load(folder / "prefixes.npy")
        self._full = np.array(vectors)

    def settings(self, k: int) -> Sequence[Setting]:
        return [{"candidates": n} for n in (50, 100, 200, 400) if n >= k]

    def query(self, vector: FloatArray, k: int) -> Rows:
        prefix = vector[: self.made["coarse"]]
        candidates = np.argsort(-(self._prefixes @ (prefix / np.linalg.norm(prefix))))[: self.setting["candidates"]]
        return candidates[np.argsort(-(self._full[candidates] @ vector))[:k]]
