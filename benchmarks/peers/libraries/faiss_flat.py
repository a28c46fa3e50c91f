"""FAISS's exact scans: ``IndexFlatIP``, and ``IndexFlatIPPanorama``, which leaves off rows that cannot win."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.contract import Setting
from benchmarks.peers.libraries._faiss import FaissPeer, add, faiss
from benchmarks.peers.sets import Shape
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["Flat", "Panorama"]


class Flat(FaissPeer):
    label = "FAISS IndexFlatIP"
    removes = exact = rereads = True

    def _new(self) -> Any:
        return faiss.IndexFlatIP(self.shape.dims)

    def build(self, vectors: FloatArray, folder: Path, threads: int) -> None:
        (folder / "empty").touch()  # the vectors are the index

    def open(self, folder: Path, vectors: FloatArray, threads: int) -> None:
        faiss.omp_set_num_threads(threads)
        self._index, self._parameters = self._new(), None
        add(self._index, vectors)

    def settings(self, k: int) -> Sequence[Setting]:
        return [{}]


class Panorama(Flat):
    label = "FAISS IndexFlatIPPanorama"

    @classmethod
    def grid(cls, shape: Shape) -> Sequence[Setting]:
        return [{"levels": shape.dims // step} for step in (32, 64, 128) if shape.dims >= 2 * step]

    def _new(self) -> Any:
        return faiss.IndexFlatIPPanorama(self.shape.dims, self.made["levels"], 512)
