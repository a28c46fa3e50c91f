"""Qdrant Edge: the engine of Qdrant in this process, with one graph, and with its own two stages (``prefetch``)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.contract import Peer, Rows, Setting, lazy, truncated
from benchmarks.peers.sets import Shape
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["Plain", "Prefetch"]

edge: Any = lazy("qdrant_edge")
_BLOCK = 2_000
_EVERYTHING = 1_000_000_000  # kilobytes of a segment: one graph for all rows
_WIDTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


class _Shard(Peer):
    needs = ("qdrant_edge",)
    adds = removes = True

    @classmethod
    def grid(cls, shape: Shape) -> Sequence[Setting]:
        return [{"m": 16, "ef_construct": 100}]

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """Of every named vector."""

    @abstractmethod
    def named(self, block: FloatArray) -> dict[str, list[list[float]]]:
        """The named vectors of some rows."""

    def graph(self, m: int) -> Any:
        """Parameters of a graph; without edges there is none."""
        return edge.HnswIndexConfig(m=m, ef_construct=self.made["ef_construct"], full_scan_threshold=1)

    def build(self, vectors: FloatArray, folder: Path, threads: int) -> None:
        config = edge.EdgeConfig(
            vectors=self.parameters(),
            optimizers=edge.EdgeOptimizersConfig(
                default_segment_number=1, max_segment_size=_EVERYTHING, indexing_threshold=1
            ),
        )
        shard = edge.EdgeShard.create(str(folder), config)
        for start in range(0, len(vectors), _BLOCK):
            named = self.named(vectors[start : start + _BLOCK])
            points = [
                edge.Point(start + i, {name: rows[i] for name, rows in named.items()}, {})
                for i in range(len(next(iter(named.values()))))
            ]
            shard.update(edge.UpdateOperation.upsert_points(points))
        shard.optimize()
        shard.flush()
        shard.close()

    def open(self, folder: Path, vectors: FloatArray, threads: int) -> None:
        self._shard = edge.EdgeShard.load(str(folder))

    def query(self, vector: FloatArray, k: int) -> Rows:
        return [point.id for point in self._shard.query(self.request(vector, k))]

    @abstractmethod
    def request(self, vector: FloatArray, k: int) -> Any:
        """One query as the engine takes it."""


class Plain(_Shard):
    label = "Qdrant Edge, HNSW"

    @classmethod
    def grid(cls, shape: Shape) -> Sequence[Setting]:
        return [{"m": 16, "ef_construct": 100}, {"m": 32, "ef_construct": 200}]

    def parameters(self) -> dict[str, Any]:
        return {
            "full": edge.EdgeVectorParams(self.shape.dims, edge.Distance.Dot, hnsw_config=self.graph(self.made["m"]))
        }

    def named(self, block: FloatArray) -> dict[str, list[list[float]]]:
        return {"full": block.tolist()}

    def settings(self, k: int) -> Sequence[Setting]:
        return [{"hnsw_ef": n} for n in _WIDTHS if n >= k]

    def request(self, vector: FloatArray, k: int) -> Any:
        return edge.QueryRequest(
            limit=k,
            query=edge.Query.Nearest(vector.tolist(), using="full"),
            params=edge.SearchParams(hnsw_ef=self.setting["hnsw_ef"]),
        )


class Prefetch(_Shard):
    label = "Qdrant Edge, prefetch"

    @classmethod
    def grid(cls, shape: Shape) -> Sequence[Setting]:
        return [{"coarse": dims, "m": 16, "ef_construct": 100} for dims in shape.coarse]

    def parameters(self) -> dict[str, Any]:
        dot = edge.Distance.Dot
        return {
            "prefix": edge.EdgeVectorParams(self.made["coarse"], dot, hnsw_config=self.graph(self.made["m"])),
            "full": edge.EdgeVectorParams(self.shape.dims, dot, hnsw_config=self.graph(0)),
        }

    def named(self, block: FloatArray) -> dict[str, list[list[float]]]:
        return {"prefix": truncated(block, self.made["coarse"]).tolist(), "full": block.tolist()}

    def settings(self, k: int) -> Sequence[Setting]:
        pairs = [(n, ef) for n in (50, 100, 200, 400) for ef in _WIDTHS if n <= ef <= 8 * n]
        return [{"candidates": n, "hnsw_ef": ef} for n, ef in sorted(pairs, key=lambda pair: pair[1]) if n >= k]

    def request(self, vector: FloatArray, k: int) -> Any:
        prefix = truncated(vector[None], self.made["coarse"])[0]
        stage = edge.Prefetch(
            limit=self.setting["candidates"],
            query=edge.Query.Nearest(prefix.tolist(), using="prefix"),
            params=edge.SearchParams(hnsw_ef=self.setting["hnsw_ef"]),
        )
        return edge.QueryRequest(limit=k, query=edge.Query.Nearest(vector.tolist(), using="full"), prefetches=[stage])
