"""Milvus Lite used plainly, as its quickstart does: ``MilvusClient("f.db")``, one vector field, AUTOINDEX.

AUTOINDEX is a graph where FAISS is installed, as it is here, else it compares the query with every vector.
"""

from __future__ import annotations

from collections.abc import Sequence

from milvus_lite.server_manager import server_manager_instance  # type: ignore[import-untyped]
from pymilvus import MilvusClient  # type: ignore[import-untyped]

from benchmarks.comparison.side import Batch, Equal, Setting, Side
from mrl_retrieval.matryoshka import FloatArray

NAME = "plain"


class Milvus(Side):
    note = "Milvus Lite, one vector field, AUTOINDEX (HNSW of FAISS)"

    @property
    def _path(self) -> str:
        return str(self.place.folder / "plain.db")

    def create(self) -> None:
        self.open()
        self._client.create_collection(NAME, dimension=self.dims, metric_type="IP")

    def upsert(self, batch: Batch) -> None:
        rows = zip(batch.ids, batch.vectors, batch.documents, batch.metadatas, strict=True)
        self._client.upsert(
            NAME,
            data=[
                {"id": int(id), "vector": vector, "document": text, **metadata} for id, vector, text, metadata in rows
            ],
        )

    def finish(self) -> None:
        self._client.flush(NAME)  # rows that are in memory only are searched many times more slowly

    def open(self) -> None:
        self._client = MilvusClient(self._path)
        if self._client.has_collection(NAME):
            self._client.load_collection(NAME)

    def settings(self, k: int) -> Sequence[Setting]:
        return [{"ef": n} for n in (16, 32, 64, 128, 256, 512, 1024, 4096) if n >= k]

    def search(self, query: FloatArray, k: int, only: Equal | None, setting: Setting) -> list[int]:
        found = self._client.search(
            NAME,
            data=[query],
            limit=k,
            search_params={"params": {"ef": setting["ef"]}},
            filter="" if only is None else f"{only.key} == {only.value}",
            output_fields=["document", "tenth", "mille", "source", "year"],
        )
        return [int(hit["id"]) for hit in found[0]]

    def close(self) -> None:
        self._client.close()
        # Its graph is built in the background: only the end of the server waits for that, and loading ends with it.
        server_manager_instance.release_server(self._path)
