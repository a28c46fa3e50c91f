"""FAISS's graph over 8-bit codes of the full vectors, refined in float16: ``HNSW32,SQ8`` under ``IndexRefine``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.peers.contract import Setting
from benchmarks.peers.libraries._faiss import RefinedPeer, add, faiss, sample
from benchmarks.peers.sets import Shape
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["LADDER", "Hnsw"]

LADDER = (
    (16, 1), (24, 2), (32, 2), (48, 2), (64, 2), (64, 4), (96, 4), (128, 4), (192, 4), (256, 4), (256, 10), (384, 4),
    (512, 10), (768, 10), (1024, 20), (2048, 20),
)  # fmt: skip
"""Width of the search in the graph, and candidates to refine for each neighbour asked for."""


class Hnsw(RefinedPeer):
    label = "FAISS HNSW,SQ8 + refine"

    @classmethod
    def grid(cls, shape: Shape) -> Sequence[Setting]:
        return [{"M": m, "efConstruction": 200} for m in (32, 16)]

    def base(self, vectors: FloatArray) -> Any:
        index = faiss.index_factory(self.shape.dims, f"HNSW{self.made['M']},SQ8", faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.made["efConstruction"]
        index.train(sample(vectors, 100_000))
        add(index, vectors)
        return index

    def settings(self, k: int) -> Sequence[Setting]:
        return [{"efSearch": ef, "k_factor": factor} for ef, factor in LADDER if ef >= k * factor]

    def use(self, setting: Setting) -> None:
        super().use(setting)
        self.refine(setting["k_factor"], faiss.SearchParametersHNSW(efSearch=setting["efSearch"]))
