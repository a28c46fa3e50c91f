"""pgvector used plainly, as its README does: ``COPY``, then HNSW on a vector column, and indexes on filtered columns.

``hnsw.iterative_scan`` is on, as the README advises for filtered searches.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from benchmarks.comparison.side import Batch, Equal, Setting, Side
from mrl_retrieval.matryoshka import FloatArray


class Pgvector(Side):
    note = "vector column, HNSW vector_ip_ops, B-tree on the filtered columns"

    def create(self) -> None:
        self.open()
        self._connection.execute(
            sql.SQL(
                "CREATE TABLE items (id bigint PRIMARY KEY, document text, metadata jsonb, tenth int, mille int, "
                "embedding vector({}))"
            ).format(sql.Literal(self.dims))
        )

    def upsert(self, batch: Batch) -> None:
        with (
            self._connection.transaction(),
            self._connection.cursor() as cursor,
            cursor.copy("COPY items (id, document, metadata, tenth, mille, embedding) FROM STDIN") as copy,
        ):
            for id, text, metadata, vector in zip(
                batch.ids, batch.documents, batch.metadatas, batch.vectors, strict=True
            ):
                row = (int(id), text, json.dumps(metadata), metadata["tenth"], metadata["mille"], _text(vector))
                copy.write_row(row)

    def finish(self) -> None:
        self._connection.execute("CREATE INDEX ON items (tenth)")
        self._connection.execute("CREATE INDEX ON items (mille)")
        self._connection.execute("CREATE INDEX ON items USING hnsw (embedding vector_ip_ops)")

    def open(self) -> None:
        self._connection: psycopg.Connection[tuple[Any, ...]] = psycopg.connect(autocommit=True)
        self._connection.execute("SET hnsw.iterative_scan = 'strict_order'")
        self._setting: Setting = {}

    def settings(self, k: int) -> Sequence[Setting]:
        return [{"ef_search": n} for n in (20, 40, 80, 160, 320, 640, 1000) if n >= k]

    def search(self, query: FloatArray, k: int, only: Equal | None, setting: Setting) -> list[int]:
        if setting != self._setting:
            width = sql.Literal(setting["ef_search"])
            self._connection.execute(sql.SQL("SET hnsw.ef_search = {}").format(width))
            self._setting = setting
        condition: sql.Composable = sql.SQL("TRUE")
        if only is not None:
            condition = sql.SQL("{} = {}").format(sql.Identifier(only.key), sql.Literal(only.value))
        text = sql.SQL(
            "SELECT id, document, metadata FROM items WHERE {} ORDER BY embedding <#> %s::vector LIMIT %s"
        ).format(condition)
        return [int(row[0]) for row in self._connection.execute(text, (_text(query), k))]

    def close(self) -> None:
        self._connection.close()


def _text(vector: FloatArray) -> str:
    return json.dumps(vector.tolist())
