"""Qdrant Edge used plainly: one vector a point with a graph, payload indexes on the filtered keys, ``optimize()``."""

from __future__ import annotations

from collections.abc import Sequence

import qdrant_edge as edge

from benchmarks.comparison.side import Batch, Equal, Setting, Side
from mrl_retrieval.matryoshka import FloatArray

_VECTOR = "vector"


class QdrantEdge(Side):
    note = "one vector, HNSW, optimize(), integer indexes"

    def create(self) -> None:
        config = edge.EdgeConfig(vectors={_VECTOR: edge.EdgeVectorParams(self.dims, edge.Distance.Dot)})
        (self.place.folder / "plain").mkdir()
        self._shard = edge.EdgeShard.create(str(self.place.folder / "plain"), config)
        for key in ("tenth", "mille"):
            self._shard.update(edge.UpdateOperation.create_field_index(key, edge.PayloadSchemaType.Integer))

    def upsert(self, batch: Batch) -> None:
        rows = zip(batch.ids, batch.vectors, batch.documents, batch.metadatas, strict=True)
        points = [
            edge.Point(int(id), {_VECTOR: vector.tolist()}, {"document": text, **metadata})
            for id, vector, text, metadata in rows
        ]
        self._shard.update(edge.UpdateOperation.upsert_points(points))

    def finish(self) -> None:
        self._shard.optimize()
        self._shard.flush()

    def open(self) -> None:
        self._shard = edge.EdgeShard.load(str(self.place.folder / "plain"))

    def settings(self, k: int) -> Sequence[Setting]:
        return [{"hnsw_ef": n} for n in (16, 32, 64, 128, 256, 512, 1024) if n >= k]

    def search(self, query: FloatArray, k: int, only: Equal | None, setting: Setting) -> list[int]:
        wanted = None
        if only is not None:
            wanted = edge.Filter(must=[edge.FieldCondition(only.key, match=edge.MatchValue(only.value))])
        request = edge.QueryRequest(
            limit=k,
            query=edge.Query.Nearest(query.tolist(), using=_VECTOR),
            filter=wanted,
            params=edge.SearchParams(hnsw_ef=setting["hnsw_ef"]),
            with_payload=True,
        )
        return [int(point.id) for point in self._shard.query(request)]

    def close(self) -> None:
        self._shard.close()
