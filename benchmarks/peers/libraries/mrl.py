"""This library as its users call it: the FAISS backend, and hits with documents."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contract import Peer, Rows, Setting, lazy
from benchmarks.peers.sets import Shape
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["Library"]

mrl: Any = lazy("mrl_retrieval")
_BLOCK = 20_000


class Library(Peer):
    label = "mrl_retrieval"
    needs = ("faiss",)
    adds = removes = ours = True

    @classmethod
    def grid(cls, shape: Shape) -> Sequence[Setting]:
        return [{"coarse": dims} for dims in shape.coarse]

    def prepare(self) -> None:
        """A small collection, so that what is compiled at first use is compiled."""
        super().prepare()
        rows = np.random.default_rng(0).standard_normal((500, self.shape.dims)).astype(np.float32)
        with tempfile.TemporaryDirectory() as folder:
            self.build(rows, Path(folder), threads=1)
            self.open(Path(folder), rows, threads=1)
            self.setting = self.settings(1)[0]
            self.query(rows[0], 1)
            self._retriever.close()

    def _options(self) -> dict[str, Any]:
        """Of the backend: everything of a build but the length of its prefixes."""
        return {key: value for key, value in self.made.items() if key != "coarse"}

    def build(self, vectors: FloatArray, folder: Path, threads: int) -> None:
        retriever = mrl.MatryoshkaRetriever(
            encoder=None,
            backend=f"faiss:{folder}",
            coarse_dims=self.made["coarse"],
            dim=self.shape.dims,
            backend_options=self._options(),
        )
        for start in range(0, len(vectors), _BLOCK):
            block = np.ascontiguousarray(vectors[start : start + _BLOCK])
            numbers = range(start, start + len(block))
            retriever.index([f"document {i}" for i in numbers], ids=[str(i) for i in numbers], vectors=block)
        retriever.flush()
        retriever.close()

    def open(self, folder: Path, vectors: FloatArray, threads: int) -> None:
        self._retriever = mrl.MatryoshkaRetriever.open(f"faiss:{folder}", backend_options=self._options())

    def settings(self, k: int) -> Sequence[Setting]:
        return [{"coarse_top_k": n} for n in (30, 50, 75, 100, 150, 200, 300, 400, 800) if n >= k]

    def query(self, vector: FloatArray, k: int) -> Rows:
        found = self._retriever.search_by_vector(vector, k, coarse_top_k=self.setting["coarse_top_k"])
        return [int(hit.id) for hit in found]

    def fine(self, folder: Path) -> list[Path]:
        return [folder / "default" / "segments"]
