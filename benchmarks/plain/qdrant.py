"""Qdrant's local mode used plainly: one vector a point. It compares the query with every one, in NumPy."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from qdrant_client import QdrantClient, models

from benchmarks.comparison.side import Batch, Equal, Setting, Side
from mrl_retrieval.matryoshka import FloatArray

NAME = "plain"


class QdrantLocal(Side):
    note = "local mode, one vector, brute force in NumPy"

    def create(self) -> None:
        self.open()
        self._client.create_collection(
            NAME, vectors_config=models.VectorParams(size=self.dims, distance=models.Distance.DOT)
        )

    def upsert(self, batch: Batch) -> None:
        rows = zip(batch.ids, batch.vectors, batch.documents, batch.metadatas, strict=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that local mode is not for more than 20,000 points
            self._client.upsert(
                NAME,
                points=[
                    models.PointStruct(id=int(id), vector=vector.tolist(), payload={"document": text, **metadata})
                    for id, vector, text, metadata in rows
                ],
            )

    def open(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._client = QdrantClient(path=str(self.place.folder / "plain"))

    def settings(self, k: int) -> Sequence[Setting]:
        return [{}]

    def search(self, query: FloatArray, k: int, only: Equal | None, setting: Setting) -> list[int]:
        wanted = None
        if only is not None:
            match = models.MatchValue(value=only.value)
            wanted = models.Filter(must=[models.FieldCondition(key=only.key, match=match)])
        found = self._client.query_points(
            NAME, query=query.tolist(), query_filter=wanted, limit=k, with_payload=True
        ).points
        return [int(point.id) for point in found]

    def close(self) -> None:
        self._client.close()
