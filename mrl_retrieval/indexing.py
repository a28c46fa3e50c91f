"""From what the caller passes to checked batches: lengths, ids, documents, metadata and vectors.

Sized input (lists, arrays) is checked whole before the first batch is written; a stream is checked batch by batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from .documents import Metadata, check_document, check_id, check_metadata, content_id
from .errors import DimensionError, DuplicateIdError, InvalidInput, MRLError
from .matryoshka import FloatArray, as_vectors, number_of_axes

__all__ = ["InputBatch", "input_batches"]


@dataclass(frozen=True, slots=True)
class InputBatch:
    """Checked rows, parallel columns. ``vectors`` is None where all rows are to be encoded."""

    ids: list[str]
    documents: list[str | None]
    metadatas: list[Metadata]
    vectors: FloatArray | None
    has_vector: npt.NDArray[np.bool_]


def input_batches(
    documents: Iterable[Any],
    ids: Iterable[Any] | None,
    metadatas: Iterable[Any] | None,
    vectors: Any | None,
    *,
    batch_size: int,
    dim: int | None,
) -> Iterator[InputBatch]:
    """Checked batches of at most ``batch_size`` rows.

    If every column has a length, everything is checked before the first batch is yielded. A vector may be None:
    that row has none. An id may be None: it is made from the content.

    Args:
        documents: texts; None is allowed for a row where ``vectors`` are given.
        ids: strings or ints, or None.
        metadatas: dicts or None.
        vectors: ``(N, dim)``, or an iterable of vectors and None.
        batch_size: rows in a batch, at least 1.
        dim: the length vectors must have; None: that of the first.

    Raises:
        InvalidInput: a value that cannot be stored, or columns of different lengths.
        DimensionError, NonFiniteError: a vector of the wrong length, or with NaN or an infinity.
        DuplicateIdError: an id the caller gave twice.
    """
    columns = {"documents": documents, "ids": ids, "metadatas": metadatas, "vectors": vectors}
    given = {name: column for name, column in columns.items() if column is not None}
    if documents is None:
        raise InvalidInput("documents is None; pass a list of texts (of None, where only vectors= are known)")
    for name, column in given.items():
        if isinstance(column, (str, bytes, dict)) or not isinstance(column, (Iterable, np.ndarray)):
            raise InvalidInput(f"{name} is {type(column).__name__}; pass a list (or another iterable) of {name}")
    reader = _Reader(given, dim)
    if all(isinstance(column, Sized) for column in given.values()):
        lengths = {name: len(column) for name, column in given.items() if isinstance(column, Sized)}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{n} {name}" for name, n in lengths.items())
            raise InvalidInput(f"the columns have different lengths: {told}; give one of each for every row")
        for _ in _Reader(given, dim).batches(batch_size):
            pass
    yield from reader.batches(batch_size)


class _Reader:
    """Reads parallel columns in batches and remembers what must be unique over the whole call."""

    def __init__(self, columns: dict[str, Any], dim: int | None) -> None:
        self._columns = columns
        self._dim = dim
        self._position = 0
        self._seen: dict[str, int] = {}
        self._made: dict[str, int] = {}

    def batches(self, size: int) -> Iterator[InputBatch]:
        iterators = {name: iter(column) for name, column in self._columns.items()}
        while True:
            parts = {name: list(islice(iterator, size)) for name, iterator in iterators.items()}
            lengths = {name: len(part) for name, part in parts.items()}
            rows = min(lengths.values())
            if rows < max(lengths.values()):
                told = ", ".join(f"{self._position + n} {name}" for name, n in lengths.items())
                raise InvalidInput(
                    f"the columns have different lengths: at least {told}; give one of each for every row"
                )
            if rows == 0:
                return
            yield self._check(parts, rows)
            self._position += rows

    def _check(self, parts: dict[str, list[Any]], rows: int) -> InputBatch:
        first = self._position
        vectors = parts.get("vectors")
        documents = [
            check_document(d, first + i, optional=vectors is not None) for i, d in enumerate(parts["documents"])
        ]
        metadatas = [check_metadata(m, first + i) for i, m in enumerate(parts.get("metadatas", [None] * rows))]
        ids = [
            self._id(value, first + i, documents[i], metadatas[i])
            for i, value in enumerate(parts.get("ids", [None] * rows))
        ]
        if vectors is None:
            return InputBatch(ids, documents, metadatas, None, np.ones(rows, dtype=np.bool_))
        matrix, has_vector = self._matrix(vectors, first)
        return InputBatch(ids, documents, metadatas, matrix, has_vector)

    def _id(self, value: Any, position: int, document: str | None, metadata: Metadata) -> str:
        if value is None:
            id = content_id(document, metadata)
            self._made.setdefault(id, position)
            if id in self._seen:
                raise DuplicateIdError(
                    f"the id made from the content at position {position} is {id!r}, which was given at position "
                    f"{self._seen[id]}: give every row its own id"
                )
            return id
        id = check_id(value, position)
        if id in self._seen:
            raise DuplicateIdError(
                f"id {id!r} is given twice, at positions {self._seen[id]} and {position}; give every row its own id, "
                "or leave ids out to have equal rows share one"
            )
        if id in self._made:
            raise DuplicateIdError(
                f"id {id!r}, given at position {position}, is the one made from the content at position "
                f"{self._made[id]}: give every row its own id"
            )
        self._seen[id] = position
        return id

    def _matrix(self, vectors: list[Any], first: int) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        has_vector = np.array([v is not None for v in vectors], dtype=np.bool_)
        present = np.flatnonzero(has_vector)
        for i in present:
            if number_of_axes(vectors[i], f"vectors[{first + int(i)}]") != 1:
                raise DimensionError(
                    f"vectors[{first + int(i)}] has shape {np.shape(vectors[i])}, expected one vector of shape (D,)"
                )
        try:
            # The usual case, one rectangle, in one go.
            rows = as_vectors([vectors[i] for i in present], dim=self._dim) if len(present) else None
        except MRLError:
            # Once more row by row: the message must name the row in the caller's own counting.
            for i in present:
                row = as_vectors(vectors[i], dim=self._dim, first_row=first + int(i))
                self._dim = row.shape[1]
            raise
        if rows is None:
            return np.zeros((len(vectors), self._dim or 0), dtype=np.float32), has_vector
        self._dim = rows.shape[1]
        matrix = np.zeros((len(vectors), rows.shape[1]), dtype=np.float32)
        matrix[present] = rows
        return matrix, has_vector
