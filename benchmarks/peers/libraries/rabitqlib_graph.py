"""SymphonyQG of the RaBitQ library: a graph whose nodes hold RaBitQ codes of their neighbours.

Over full vectors, which it keeps for its own rescoring; and over prefixes, with a second stage by numba.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.peers.contract import Peer, Rows, Setting, lazy, truncated
from benchmarks.peers.libraries._rerank import FineRows, compile_kernel, write_fine
from benchmarks.peers.sets import Shape
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["SymphonyQG", "SymphonyQGPrefix"]

rabitqlib: Any = lazy("rabitqlib")
_METRIC = "ip"
_LADDER = (
    (50, 64), (50, 100), (100, 100), (100, 150), (150, 200), (200, 256), (300, 384), (400, 512), (800, 1024),
)  # fmt: skip
"""Candidates to rescore, and width of the search in the graph."""


class SymphonyQG(Peer):
    label = "SymphonyQG"
    needs: ClassVar[tuple[str, ...]] = ("rabitqlib",)

    @classmethod
    def grid(cls, shape: Shape) -> Sequence[Setting]:
        return [{"degree": 32, "ef": 200, "bits": bits} for bits in (0, 8)]

    def build(self, vectors: FloatArray, folder: Path, threads: int) -> None:
        dims, made = vectors.shape[1], self.made
        index = rabitqlib.SymqgIndex(dims, made["degree"], _METRIC, made["bits"])
        index.build(np.ascontiguousarray(vectors), made["ef"], threads)
        index.save(str(folder / "index.symqg"))

    def open(self, folder: Path, vectors: FloatArray, threads: int) -> None:
        self._threads = threads
        self._index = rabitqlib.SymqgIndex.load(str(folder / "index.symqg"))

    def settings(self, k: int) -> Sequence[Setting]:
        return [
            {"ef": n} for n in (10, 16, 24, 32, 48, 64, 96, 128, 160, 192, 256, 384, 512, 768, 1024, 1536) if n >= k
        ]

    def query(self, vector: FloatArray, k: int) -> Rows:
        found: Rows = self._index.search(vector[None], k, self.setting["ef"])[0][0]
        return found

    def batch(self, vectors: FloatArray, k: int) -> Any:
        return self._index.search(vectors, k, self.setting["ef"], self._threads)[0]


class SymphonyQGPrefix(SymphonyQG):
    label = "SymphonyQG on prefixes + numba rerank"
    needs = (
        "rabitqlib",
        "numba",
    )

    @classmethod
    def grid(cls, shape: Shape) -> Sequence[Setting]:
        # Its rotation knows no shorter vectors than 64.
        return [{"coarse": dims, "degree": 32, "ef": 200, "bits": 0} for dims in shape.coarse if dims >= 64]

    def build(self, vectors: FloatArray, folder: Path, threads: int) -> None:
        super().build(truncated(vectors, self.made["coarse"]), folder, threads)
        write_fine(vectors, self.files(folder)[0])

    def files(self, folder: Path) -> list[Path]:
        return [folder.parents[2] / "fine-fp16.npy"]

    def prepare(self) -> None:
        super().prepare()
        compile_kernel()

    def open(self, folder: Path, vectors: FloatArray, threads: int) -> None:
        super().open(folder, vectors, threads)
        self._fine = FineRows(self.files(folder)[0])

    def settings(self, k: int) -> Sequence[Setting]:
        pairs = [
            (50, 64),
            (50, 100),
            (100, 100),
            (100, 150),
            (150, 200),
            (200, 256),
            (300, 384),
            (400, 512),
            (800, 1024),
        ]
        return [{"candidates": candidates, "ef": ef} for candidates, ef in pairs if candidates >= k]

    def query(self, vector: FloatArray, k: int) -> Rows:
        prefix = vector[: self.made["coarse"]]
        prefix = prefix / np.sqrt(prefix @ prefix)
        found = self._index.search(prefix[None], self.setting["candidates"], self.setting["ef"])[0][0]
        return self._fine.best(vector, found.astype(np.int64), k)

    def batch(self, vectors: FloatArray, k: int) -> Any:
        return Peer.batch(self, vectors, k)
