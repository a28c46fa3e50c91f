"""This library's FAISS backend without what is around it: row numbers, no ids, no documents.

It opens what :class:`~benchmarks.peers.libraries.mrl.Library` built, so that the two differ in the query alone.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.contract import Rows
from benchmarks.peers.libraries.mrl import Library
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["Engine"]


class Engine(Library):
    label = "mrl_retrieval, engine alone"

    def open(self, folder: Path, vectors: FloatArray, threads: int) -> None:
        raise NotImplementedError

    def query(self, vector: FloatArray, k: int) -> Rows:
        raise NotImplementedError
