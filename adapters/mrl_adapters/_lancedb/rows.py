"""Rows as an Arrow table: its columns, and the way there and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import FloatArray, prefix

from . import filters
from .package import pa

__all__ = ["columns", "matrix", "row_schema", "to_arrow", "to_batch", "to_rows"]

_DTYPES = {"float32": pa.float32(), "float16": pa.float16()}


def row_schema(manifest: Manifest, fine_dtype: str) -> Any:
    """The Arrow schema of a collection's rows. ``key`` stands for the id wherever SQL is involved."""
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("id", pa.string(), nullable=False),
            pa.field("document", pa.large_string()),
            pa.field("metadata", pa.large_string(), nullable=False),
            pa.field("terms", pa.list_(pa.string())),
            pa.field("order_keys", pa.list_(pa.string())),
            pa.field("order_values", pa.list_(pa.string())),
            pa.field("has_vector", pa.bool_(), nullable=False),
            pa.field("coarse", pa.list_(pa.float32(), manifest.coarse_dims)),
            pa.field("full", pa.list_(_DTYPES[fine_dtype], manifest.fine_dims)),
        ]
    )


def to_arrow(batch: RowBatch, schema: Any) -> Any:
    """A batch with vectors as an Arrow table of :func:`row_schema`."""
    assert batch.vectors is not None
    bare = ~batch.has_vector
    dtype = schema.field("full").type.value_type.to_pandas_dtype()
    full = np.where(bare[:, None], np.float32(0), batch.vectors).astype(dtype)
    # Prefixes are those of the vectors as stored, so that both stages rank the same vectors.
    coarse = prefix(full.astype(np.float32), schema.field("coarse").type.list_size)
    ordered = [filters.order_columns(metadata) for metadata in batch.metadatas]
    made = {
        "key": [filters.key_of(id) for id in batch.ids],
        "id": list(batch.ids),
        "document": list(batch.documents),
        "metadata": [_dumps(metadata) for metadata in batch.metadatas],
        "terms": [filters.terms(metadata) for metadata in batch.metadatas],
        "order_keys": [keys for keys, _ in ordered],
        "order_values": [values for _, values in ordered],
        "has_vector": batch.has_vector,
        "coarse": _vectors(coarse, bare),
        "full": _vectors(full, bare),
    }
    return pa.Table.from_arrays([pa.array(made[field.name], type=field.type) for field in schema], schema=schema)


def columns(*, vectors: bool, documents: bool) -> list[str]:
    """What must be read for :func:`to_batch`."""
    names = ["id", "metadata"] + ["document"] * documents
    return [*names, "full", "has_vector"] if vectors else [*names, "has_vector"]


def to_batch(table: Any, fine_dims: int) -> RowBatch:
    """An Arrow table, or record batch, of :func:`columns` as a batch; what was not read is None throughout."""
    names = table.schema.names
    return RowBatch(
        ids=table["id"].to_pylist(),
        documents=table["document"].to_pylist() if "document" in names else [None] * table.num_rows,
        metadatas=[json.loads(text) for text in table["metadata"].to_pylist()],
        vectors=matrix(table["full"], fine_dims) if "full" in names else None,
        has_vector=np.asarray(table["has_vector"].to_numpy(zero_copy_only=False), dtype=np.bool_),
    )


def to_rows(ids: Sequence[str], table: Any) -> list[Row]:
    """An Arrow table of ``document`` and ``metadata`` as rows of these ids, without vectors."""
    texts = zip(ids, table["document"].to_pylist(), table["metadata"].to_pylist(), strict=True)
    return [Row(id, document, json.loads(metadata)) for id, document, metadata in texts]


def matrix(column: Any, dims: int) -> FloatArray:
    """A column of vectors as float32, ``(n, dims)``; a row without one is zeros."""
    chunks: Sequence[Any] = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [_chunk(chunk, dims) for chunk in chunks]
    return np.concatenate(parts) if parts else np.empty((0, dims), dtype=np.float32)


def _chunk(chunk: Any, dims: int) -> FloatArray:
    # `values` with the offset, not `flatten()`, which leaves out what is null.
    flat = chunk.values.slice(chunk.offset * dims, len(chunk) * dims)
    rows = np.array(flat.to_numpy(zero_copy_only=False), dtype=np.float32).reshape(len(chunk), dims)
    if chunk.null_count:
        rows[chunk.is_null().to_numpy(zero_copy_only=False)] = 0
    return rows


def _vectors(rows: npt.NDArray[np.floating], bare: npt.NDArray[np.bool_]) -> Any:
    flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1], mask=pa.array(bare))


def _dumps(metadata: Any) -> str:
    return json.dumps(metadata, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
