"""LanceDB: a table on disk with its IVF_PQ index, or with graphs in the partitions; refined from the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contract import Peer, Rows, Setting, lazy
from benchmarks.peers.sets import Shape
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["LanceDB"]

lancedb: Any = lazy("lancedb")
pa: Any = lazy("pyarrow")
_BLOCK = 20_000


class LanceDB(Peer):
    label = "LanceDB"
    needs = (
        "lancedb",
        "pyarrow",
    )
    adds = removes = True
    note = "reads its files without mapping them: what the system caches of them is not counted as memory"

    @classmethod
    def grid(cls, shape: Shape) -> Sequence[Setting]:
        return [{"index": kind} for kind in ("IVF_PQ", "IVF_HNSW_SQ")]

    def build(self, vectors: FloatArray, folder: Path, threads: int) -> None:
        schema = pa.schema([("row", pa.int64()), ("vector", pa.list_(pa.float32(), self.shape.dims))])
        table = lancedb.connect(str(folder)).create_table("peer", schema=schema)
        for start in range(0, len(vectors), _BLOCK):
            block = np.ascontiguousarray(vectors[start : start + _BLOCK])
            column = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), self.shape.dims)
            table.add(pa.table({"row": pa.array(np.arange(start, start + len(block))), "vector": column}))
        table.create_index(metric="dot", index_type=self.made["index"])

    def open(self, folder: Path, vectors: FloatArray, threads: int) -> None:
        self._table = lancedb.connect(str(folder)).open_table("peer")

    def settings(self, k: int) -> Sequence[Setting]:
        if self.made["index"] == "IVF_PQ":
            lists = ((20, 5), (20, 20), (50, 20), (50, 50), (100, 50), (200, 100))
            return [{"nprobes": nprobes, "refine_factor": refine} for nprobes, refine in lists]
        graphs = ((1, 64), (2, 64), (4, 128), (8, 256), (20, 512))
        return [{"nprobes": nprobes, "ef": ef, "refine_factor": 4} for nprobes, ef in graphs]

    def query(self, vector: FloatArray, k: int) -> Rows:
        search = self._table.search(vector).distance_type("dot").limit(k).nprobes(self.setting["nprobes"])
        search = search.refine_factor(self.setting["refine_factor"])
        if "ef" in self.setting:
            search = search.ef(self.setting["ef"])
        found: Rows = search.select(["row"]).to_arrow()["row"].to_numpy()
        return found
