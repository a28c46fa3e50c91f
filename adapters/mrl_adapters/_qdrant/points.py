"""How the rows of a collection lie in Qdrant: named vectors, payload, and requests that a server takes.

Points go in as JSON in the words of Qdrant's REST interface, and come out as what either library gives, which has the
same attributes in both: :class:`Point`, :class:`ScoredPoint`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import CorruptionError
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import FloatArray, prefix

from .filters import ID, JSON, NATIVE, TAGS, native_copy, point_id, tags_of

__all__ = [
    "COARSE",
    "DOCUMENT",
    "FLOAT_BYTES",
    "FULL",
    "REQUEST_BYTES",
    "ROW",
    "WITH_VECTOR",
    "Point",
    "ScoredPoint",
    "parts",
    "payload_of",
    "read_row",
    "requests_of",
    "row_batch",
    "vector_dims",
    "vector_named",
]

T = TypeVar("T")

COARSE, FULL = "coarse", "full"
"""The named vectors of the first and the last stage."""
DOCUMENT = "document"
"""Payload key of the text; absent where a row has none."""
METADATA = "_mrl_metadata"
"""Payload key of the metadata as JSON text: what is given back, whatever a server does to numbers."""
HAS_VECTOR = "_mrl_has_vector"
"""Payload key of whether the row has vectors, so that a scan need not fetch them to know."""
ROW = [DOCUMENT, ID, METADATA, HAS_VECTOR]
"""Payload keys that make up a row."""
WITH_VECTOR = {"has_vector": FULL}
"""The condition that a row has vectors."""
REQUEST_BYTES = 24 * 2**20
"""A server takes requests of up to 32 MB unless told otherwise."""
FLOAT_BYTES = 24
"""A float32 as JSON text, at most."""


class Point(Protocol):
    """A point as it is read."""

    @property
    def id(self) -> Any:
        """A UUID, as a string or an object; ``str(id)`` is what :func:`point_id` gave."""

    @property
    def payload(self) -> Mapping[str, Any] | None:
        """What was asked for of it."""

    @property
    def vector(self) -> Any:
        """The named vectors that were asked for."""


class ScoredPoint(Point, Protocol):
    """A point as a search finds it."""

    @property
    def score(self) -> float:
        """The dot product of unit vectors."""


def vector_dims(manifest: Manifest) -> dict[str, int]:
    """The named vectors of a collection and their lengths, shortest first."""
    between = sorted(set(manifest.funnel_dims) - {manifest.coarse_dims, manifest.fine_dims})
    return {COARSE: manifest.coarse_dims} | {f"prefix_{d}": d for d in between} | {FULL: manifest.fine_dims}


def payload_of(row: Row) -> dict[str, Any]:
    """Everything but the vectors of a row, as it is stored."""
    payload: dict[str, Any] = {} if row.document is None else {DOCUMENT: row.document}
    return payload | {
        NATIVE: native_copy(row.metadata),
        ID: row.id,
        METADATA: json.dumps(row.metadata, ensure_ascii=False, separators=(",", ":"), allow_nan=False),
        TAGS: tags_of(row.metadata),
        HAS_VECTOR: row.vector is not None,
    }


def read_row(payload: Mapping[str, Any] | None, vectors: Any = None) -> Row:
    """A row from what Qdrant gives back.

    Raises:
        CorruptionError: the payload is not ours.
    """
    kept = payload or {}
    try:
        vector = vector_named(vectors, FULL)
        full = None if vector is None else np.asarray(vector, dtype=np.float32)
        return Row(kept[ID], kept.get(DOCUMENT), json.loads(kept[METADATA]), full)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptionError(
            f"a point in this collection has the payload keys {sorted(kept)}, but no readable {ID} and {METADATA}: "
            "this library did not write it; remove it with Qdrant's own tools"
        ) from error


def row_batch(records: Sequence[Point], dims: int | None) -> RowBatch:
    """Rows as columns; with full vectors of length ``dims``, or without vectors where it is None."""
    rows = [read_row(record.payload, record.vector) for record in records]
    matrix = None if dims is None else np.zeros((len(rows), dims), dtype=np.float32)
    for i, row in enumerate(rows):
        if matrix is not None and row.vector is not None:
            matrix[i] = row.vector
    return RowBatch(
        ids=[row.id for row in rows],
        documents=[row.document for row in rows],
        metadatas=[row.metadata for row in rows],
        vectors=matrix,
        has_vector=np.array([bool((record.payload or {}).get(HAS_VECTOR)) for record in records], dtype=np.bool_),
    )


def vector_named(vectors: Any, name: str) -> Any:
    """One of a point's named vectors, None where it has no such."""
    return vectors.get(name) if isinstance(vectors, Mapping) else None


def requests_of(batch: RowBatch, manifest: Manifest) -> Iterator[tuple[list[str], list[JSON]]]:
    """The rows of a batch as points, with their ids, in parts that a server takes as one request."""
    dims = vector_dims(manifest)
    named: dict[str, FloatArray] = {}
    if batch.vectors is not None:
        named = {name: batch.vectors if name == FULL else prefix(batch.vectors, d) for name, d in dims.items()}
    ids: list[str] = []
    points: list[JSON] = []
    total = 0
    for i, row in enumerate(batch.rows()):
        payload = payload_of(row)
        # A character takes up to 6 bytes in JSON. Metadata is there natively, as text and in the tags.
        size = 200 + 6 * (len(row.document or "") + 3 * len(payload[METADATA])) + FLOAT_BYTES * sum(dims.values())
        if points and total + size > REQUEST_BYTES:
            yield ids, points
            ids, points, total = [], [], 0
        vector: dict[str, Any] = {}
        if row.vector is not None:
            vector = {name: rows[i].tolist() for name, rows in named.items()}
        points.append({"id": point_id(row.id), "vector": vector, "payload": payload})
        ids.append(row.id)
        total += size
    if points:
        yield ids, points


def parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of at most ``size``."""
    rest = iter(items)
    while part := list(itertools.islice(rest, size)):
        yield part
