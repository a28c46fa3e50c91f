"""Intel's Scalable Vector Search: the Vamana graph over LeanVec, LVQ or plain float16 vectors.

LVQ and LeanVec end the process on processors that are not Intel's; then the plain ones remain.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contract import Peer, Rows, Setting, lazy
from benchmarks.peers.sets import Shape
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["Svs"]

svs: Any = lazy("svs")
_PARTS = ("config", "graph", "data")


class Svs(Peer):
    label = "SVS Vamana"
    needs = ("svs",)
    note = "LVQ and LeanVec work on Intel's processors only"

    @classmethod
    def grid(cls, shape: Shape) -> Sequence[Setting]:
        compressed = ["lvq4x8", "lvq8", *(f"leanvec{dims}" for dims in shape.coarse)]
        return [{"vectors": kind, "degree": 64, "window": 128} for kind in (*compressed, "float16")]

    def build(self, vectors: FloatArray, folder: Path, threads: int) -> None:
        # More than 1 is for distances, less for similarities.
        parameters = svs.VamanaBuildParameters(
            alpha=0.95, graph_max_degree=self.made["degree"], window_size=self.made["window"]
        )
        kind, ip = self.made["vectors"], svs.DistanceType.MIP
        if kind == "float16":
            index = svs.Vamana.build(parameters, np.asarray(vectors, dtype=np.float16), ip, num_threads=threads)
        else:
            plain = folder / "plain.fvecs"
            svs.write_vecs(np.ascontiguousarray(vectors), str(plain))
            loader = self._compressed(kind, svs.VectorDataLoader(str(plain), svs.DataType.float32, self.shape.dims))
            index = svs.Vamana.build(parameters, loader, ip, num_threads=threads)
            plain.unlink()
        index.save(*(str(folder / part) for part in _PARTS))

    def _compressed(self, kind: str, plain: Any) -> Any:
        if kind.startswith("leanvec"):
            return svs.LeanVecLoader(plain, int(kind.removeprefix("leanvec")))
        bits = [int(number) for number in kind.removeprefix("lvq").split("x")]
        return svs.LVQLoader(plain, primary=bits[0], residual=bits[1] if len(bits) > 1 else 0)

    def open(self, folder: Path, vectors: FloatArray, threads: int) -> None:
        config, graph, data = (str(folder / part) for part in _PARTS)
        kind = self.made["vectors"]
        if kind == "float16":
            loader = svs.VectorDataLoader(data, svs.DataType.float16, self.shape.dims)
        else:
            loader = svs.LeanVecLoader(data) if kind.startswith("leanvec") else svs.LVQLoader(data)
        self._index = svs.Vamana(config, svs.GraphLoader(graph), loader, svs.DistanceType.MIP, num_threads=threads)

    def settings(self, k: int) -> Sequence[Setting]:
        return [{"window": n} for n in (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768) if n >= k]

    def use(self, setting: Setting) -> None:
        super().use(setting)
        self._index.search_window_size = setting["window"]

    def query(self, vector: FloatArray, k: int) -> Rows:
        found: Rows = self._index.search(vector, k)[0][0]
        return found

    def batch(self, vectors: FloatArray, k: int) -> Any:
        return self._index.search(vectors, k)[0]
