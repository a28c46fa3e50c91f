"""LanceDB used plainly: a table, ``create_index`` as it comes (IVF_PQ), scalar indexes on the filtered columns."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import lancedb
import pyarrow as pa  # type: ignore[import-untyped]

from benchmarks.comparison.side import Batch, Equal, Setting, Side
from mrl_retrieval.matryoshka import FloatArray

NAME = "plain"
_LEAST_TO_INDEX = 256  # of its product quantisation
_COLUMNS = ["id", "document", "tenth", "mille", "source", "year"]


class LanceDB(Side):
    note = "one vector column, create_index (IVF_PQ), scalar indexes"

    def create(self) -> None:
        schema = pa.schema(
            [
                ("id", pa.int64()),
                ("vector", pa.list_(pa.float32(), self.dims)),
                ("document", pa.string()),
                ("tenth", pa.int64()),
                ("mille", pa.int64()),
                ("source", pa.string()),
                ("year", pa.int64()),
            ]
        )
        self._table: Any = lancedb.connect(str(self.place.folder / "plain")).create_table(NAME, schema=schema)

    def upsert(self, batch: Batch) -> None:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch.vectors.ravel()), self.dims)
        columns: dict[str, Any] = {"id": pa.array(map(int, batch.ids)), "vector": vectors, "document": batch.documents}
        for key in batch.metadatas[0]:
            columns[key] = [metadata[key] for metadata in batch.metadatas]
        self._table.add(pa.table(columns))

    def finish(self) -> None:
        self._table.create_scalar_index("tenth")
        self._table.create_scalar_index("mille")
        if self._table.count_rows() >= _LEAST_TO_INDEX:
            self._table.create_index(metric="dot")
        self._table.optimize(cleanup_older_than=timedelta(0))

    def open(self) -> None:
        self._table = lancedb.connect(str(self.place.folder / "plain")).open_table(NAME)

    def settings(self, k: int) -> Sequence[Setting]:
        rungs = ((20, 0), (20, 5), (20, 10), (20, 20), (50, 20), (50, 50), (100, 50), (100, 100))
        return [{"nprobes": nprobes, "refine_factor": refine} for nprobes, refine in rungs]

    def search(self, query: FloatArray, k: int, only: Equal | None, setting: Setting) -> list[int]:
        search = self._table.search(query).distance_type("dot").limit(k).nprobes(setting["nprobes"])
        if setting["refine_factor"]:
            search = search.refine_factor(setting["refine_factor"])
        if only is not None:
            search = search.where(f"{only.key} = {only.value}")
        return [int(row["id"]) for row in search.select(_COLUMNS).to_list()]

    def close(self) -> None:
        del self._table
