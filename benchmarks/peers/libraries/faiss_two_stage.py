"""Two stages all in FAISS's C++: an index over renormalised prefixes, refined with the full vectors in float16.

``IndexPreTransform`` cuts (``RemapDimensionsTransform``) and renormalises (``NormalizationTransform``) what comes in,
below ``IndexRefine``, which sees full vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.peers.contract import Setting
from benchmarks.peers.libraries._faiss import RefinedPeer, add, faiss, lists, sample
from benchmarks.peers.libraries.faiss_hnsw import LADDER
from benchmarks.peers.libraries.faiss_ivf import PROBES
from benchmarks.peers.sets import Shape
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["TwoStageHnsw", "TwoStageIvf"]

_CANDIDATES = (5, 10, 15, 20, 30, 40)  # for each neighbour asked for


class _TwoStage(RefinedPeer):
    def prefixes(self, index: Any) -> Any:
        """An index that takes full vectors and hands their prefixes on."""
        coarse = self.made["coarse"]
        steps = [
            faiss.RemapDimensionsTransform(self.shape.dims, coarse, False),
            faiss.NormalizationTransform(coarse, 2.0),
        ]
        whole = faiss.IndexPreTransform(index)
        for step in reversed(steps):
            whole.prepend_transform(step)
        self._parts = (index, steps)
        return whole

    def _under_prefixes(self, parameters: Any) -> Any:
        self._inner = parameters
        return faiss.SearchParametersPreTransform(index_params=parameters)


class TwoStageIvf(_TwoStage):
    label = "FAISS two-stage, IVF,SQ8"

    @classmethod
    def grid(cls, shape: Shape) -> Sequence[Setting]:
        return [{"coarse": dims} for dims in shape.coarse]

    def base(self, vectors: FloatArray) -> Any:
        n = lists(self.shape)
        index = self.prefixes(faiss.index_factory(self.made["coarse"], f"IVF{n},SQ8", faiss.METRIC_INNER_PRODUCT))
        index.train(sample(vectors, n * 64))
        add(index, vectors)
        return index

    def settings(self, k: int) -> Sequence[Setting]:
        probes = [n for n in PROBES if n <= lists(self.shape)]
        return [{"nprobe": n, "k_factor": factor} for n in probes for factor in _CANDIDATES]

    def use(self, setting: Setting) -> None:
        super().use(setting)
        self.refine(setting["k_factor"], self._under_prefixes(faiss.SearchParametersIVF(nprobe=setting["nprobe"])))


class TwoStageHnsw(_TwoStage):
    label = "FAISS two-stage, HNSW,SQ8"

    @classmethod
    def grid(cls, shape: Shape) -> Sequence[Setting]:
        return [{"coarse": dims, "M": 32, "efConstruction": 200} for dims in shape.coarse]

    def base(self, vectors: FloatArray) -> Any:
        inner = faiss.index_factory(self.made["coarse"], f"HNSW{self.made['M']},SQ8", faiss.METRIC_INNER_PRODUCT)
        inner.hnsw.efConstruction = self.made["efConstruction"]
        index = self.prefixes(inner)
        index.train(sample(vectors, 100_000))
        add(index, vectors)
        return index

    def settings(self, k: int) -> Sequence[Setting]:
        widths = sorted({ef for ef, _ in LADDER if ef >= 32})
        return [
            {"efSearch": ef, "k_factor": factor} for ef in widths for factor in _CANDIDATES if ef >= factor * k * 0.8
        ]

    def use(self, setting: Setting) -> None:
        super().use(setting)
        graph = faiss.SearchParametersHNSW(efSearch=setting["efSearch"])
        self.refine(setting["k_factor"], self._under_prefixes(graph))
