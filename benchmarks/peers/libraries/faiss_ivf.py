"""FAISS's inverted lists over codes of the full vectors, refined in float16: SQ8, 4-bit PQ fast scan, RaBitQ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.peers.contract import Setting
from benchmarks.peers.libraries._faiss import RefinedPeer, add, faiss, lists, sample
from benchmarks.peers.sets import Shape
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["PROBES", "Ivf", "RaBitQ"]

PROBES = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)
_PER_LIST = 64  # rows to train each centroid with


class Ivf(RefinedPeer):
    label = "FAISS IVF + refine"
    factors: Sequence[int] = (4, 10, 20)

    @classmethod
    def grid(cls, shape: Shape) -> Sequence[Setting]:
        return [{"codes": codes} for codes in ("SQ8", f"PQ{shape.dims // 2}x4fs", f"PQ{shape.dims // 4}x4fs")]

    def base(self, vectors: FloatArray) -> Any:
        n = lists(self.shape)
        index = faiss.index_factory(self.shape.dims, f"IVF{n},{self.made['codes']}", faiss.METRIC_INNER_PRODUCT)
        index.train(sample(vectors, n * _PER_LIST))
        add(index, vectors)
        return index

    def settings(self, k: int) -> Sequence[Setting]:
        probes = [n for n in PROBES if n <= lists(self.shape)]
        factors = (2, 4) if self.made["codes"] == "SQ8" else self.factors
        return [{"nprobe": n, "k_factor": factor} for n in probes for factor in factors]

    def use(self, setting: Setting) -> None:
        super().use(setting)
        self.refine(setting["k_factor"], self.parameters(setting))

    def parameters(self, setting: Setting) -> Any:
        """For the inverted lists."""
        return faiss.SearchParametersIVF(nprobe=setting["nprobe"])


class RaBitQ(Ivf):
    label = "FAISS IVF,RaBitQ + refine"
    factors = (4, 10, 20, 40)

    @classmethod
    def grid(cls, shape: Shape) -> Sequence[Setting]:
        return [{"codes": codes} for codes in ("RaBitQfs", "RaBitQfs4", "RaBitQ")]

    def parameters(self, setting: Setting) -> Any:
        if self.made["codes"] == "RaBitQ":
            return faiss.IVFRaBitQSearchParameters(nprobe=setting["nprobe"], qb=8)
        return super().parameters(setting)
