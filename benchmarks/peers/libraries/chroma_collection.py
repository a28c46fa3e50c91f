"""Chroma in this process: one collection with its graph.

Changing the width of the search of a live collection has no effect, but Chroma searches at least as widely as it is
asked for results: so that is the knob, and the first ``k`` are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.contract import Peer, Rows, Setting, lazy
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["Chroma"]

chromadb: Any = lazy("chromadb")
chromadb_config: Any = lazy("chromadb.config")
_BLOCK = 5_000


class Chroma(Peer):
    label = "Chroma"
    needs = ("chromadb",)
    adds = removes = True

    def _client(self, folder: Path) -> Any:
        return chromadb.PersistentClient(str(folder), settings=chromadb_config.Settings(anonymized_telemetry=False))

    def build(self, vectors: FloatArray, folder: Path, threads: int) -> None:
        collection = self._client(folder).create_collection(
            "peer", configuration={"hnsw": {"space": "ip", "num_threads": threads}}, embedding_function=None
        )
        for start in range(0, len(vectors), _BLOCK):
            block = vectors[start : start + _BLOCK]
            collection.upsert(ids=[str(start + i) for i in range(len(block))], embeddings=block)

    def open(self, folder: Path, vectors: FloatArray, threads: int) -> None:
        self._collection = self._client(folder).get_collection("peer", embedding_function=None)

    def settings(self, k: int) -> Sequence[Setting]:
        return [{"n_results": n} for n in sorted({k, 20, 50, 100, 200, 400}) if n >= k]

    def query(self, vector: FloatArray, k: int) -> Rows:
        found = self._collection.query(query_embeddings=vector[None], n_results=self.setting["n_results"], include=[])
        return [int(id) for id in found["ids"][0][:k]]
