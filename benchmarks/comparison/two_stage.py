"""Two-stage retrieval with this library, on any of its backends, as it comes but for the knobs of the search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.comparison.side import Batch, Equal, Place, Setting, Side
from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.registry import backend_class

CANDIDATES = (25, 50, 100, 200, 400, 800, 1600)

# Graphs whose width can be chosen for each opening are searched as widely as there are candidates.
_WIDTH: dict[str, Callable[[int], dict[str, int]]] = {
    "pgvector": lambda candidates: {"ef_search": min(1000, max(50, candidates))},
    "qdrant-edge": lambda candidates: {"hnsw_ef": max(50, candidates)},
}
# Files of older versions are kept for readers for ten minutes, which here would be counted as its size.
_OPTIONS: dict[str, dict[str, Any]] = {"lancedb": {"keep_versions": 0.001}}


class TwoStage(Side):
    def __init__(self, backend: str, place: Place, dims: int, coarse_dims: int) -> None:
        super().__init__(backend, place, dims, coarse_dims)
        self.note = f"MatryoshkaRetriever, coarse stage {coarse_dims} dims"
        self._scheme = backend.removesuffix("-server")
        backend_class(self._scheme)  # imported now, not when the collection is opened
        self._open: dict[tuple[tuple[str, int], ...], MatryoshkaRetriever] = {}

    def _retriever(self, options: dict[str, int]) -> MatryoshkaRetriever:
        key = tuple(sorted(options.items()))
        if key not in self._open:
            address = f"{self._scheme}:{self.place.folder / 'kb'}"
            if self.place.url:
                address = f"{self._scheme}+{self.place.url}"
            elif self.backend == "pgvector":
                address = "pgvector:"  # libpq's environment says where
            self._open[key] = MatryoshkaRetriever(
                encoder=None,
                backend=address,
                coarse_dims=self.coarse_dims,
                dim=self.dims,
                backend_options={**_OPTIONS.get(self.backend, {}), **options},
            )
        return self._open[key]

    def create(self) -> None:
        self._retriever({})

    def upsert(self, batch: Batch) -> None:
        self._retriever({}).index(
            batch.documents, batch.ids, batch.metadatas, vectors=batch.vectors, batch_size=len(batch.ids)
        )

    def finish(self) -> None:
        self._retriever({}).flush()

    def open(self) -> None:
        self._retriever(self._width(CANDIDATES[0]))

    def settings(self, k: int) -> Sequence[Setting]:
        return [{"coarse_top_k": n, **self._width(n)} for n in CANDIDATES if n >= k]

    def _width(self, candidates: int) -> dict[str, int]:
        return _WIDTH[self.backend](candidates) if self.backend in _WIDTH else {}

    def search(self, query: FloatArray, k: int, only: Equal | None, setting: Setting) -> list[int]:
        candidates = setting["coarse_top_k"]
        filter = None if only is None else {only.key: only.value}
        retriever = self._retriever(self._width(candidates))
        return [int(id) for id in retriever.search_by_vector(query, k, coarse_top_k=candidates, filter=filter).ids]

    def close(self) -> None:
        for retriever in self._open.values():
            retriever.close()
        self._open.clear()
