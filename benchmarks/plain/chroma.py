"""Chroma used plainly: one collection with Chroma's default graph, searched with ``where``.

The width of a graph's search is fixed when a collection is made, but Chroma searches at least as widely as it is asked
for results: so that is the knob, and the first ``k`` are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import chromadb
from chromadb.config import Settings

from benchmarks.comparison.side import Batch, Equal, Setting, Side
from mrl_retrieval.matryoshka import FloatArray

_SETTINGS = Settings(anonymized_telemetry=False)


class Chroma(Side):
    note = "one collection, default HNSW"

    def _client(self) -> Any:
        return chromadb.PersistentClient(str(self.place.folder / "plain"), settings=_SETTINGS)

    def create(self) -> None:
        # Without an embedding function, as vectors are given.
        self._collection: Any = self._client().create_collection(
            "plain", configuration={"hnsw": {"space": "ip"}}, embedding_function=None
        )

    def upsert(self, batch: Batch) -> None:
        self._collection.upsert(
            ids=batch.ids, embeddings=batch.vectors, documents=batch.documents, metadatas=batch.metadatas
        )

    def open(self) -> None:
        self._collection = self._client().get_collection("plain", embedding_function=None)

    def settings(self, k: int) -> Sequence[Setting]:
        return [{"n_results": n} for n in (k, 20, 50, 100, 200, 400, 1000, 2000) if n >= k]

    def search(self, query: FloatArray, k: int, only: Equal | None, setting: Setting) -> list[int]:
        found = self._collection.query(
            query_embeddings=query[None],
            n_results=setting["n_results"],
            where=None if only is None else {only.key: only.value},
        )
        return [int(id) for id in found["ids"][0][:k]]

    def close(self) -> None:
        del self._collection


class ChromaServer(Chroma):
    note = "one collection, default HNSW; chroma run"

    def _client(self) -> Any:
        parts = urlsplit(self.place.url)
        return chromadb.HttpClient(host=parts.hostname or "", port=parts.port or 8000, settings=_SETTINGS)
