"""Rows in Qdrant, by whichever library: written, fetched, counted, scanned and deleted, over six calls of the engine.

What the ``qdrant`` and ``qdrant-edge`` backends share. It speaks JSON in the words of Qdrant's REST interface; the two
adapters translate that into what their library wants.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.backend import Backend
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import MRLError
from mrl_retrieval.filters import Filter, IdIn, check_order
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import FloatArray

from . import filters, points
from .filters import JSON
from .points import FULL, Point, ScoredPoint, parts

__all__ = ["QdrantRows"]

_IDS_PER_REQUEST = 5_000


class QdrantRows(Backend):
    """The verbs of rows."""

    # -- what an adapter gives -----------------------------------------------------------------------------

    @abstractmethod
    def _upsert(self, part: list[JSON]) -> None:
        """Write points, each whole."""

    @abstractmethod
    def _delete_points(self, ids: list[Any]) -> None:
        """Remove points by Qdrant's ids."""

    @abstractmethod
    def _retrieve_points(
        self, ids: list[str], *, payload: bool | list[str], vectors: bool | list[str]
    ) -> Sequence[Point]:
        """Points by Qdrant's ids; those that are not there are left out."""

    @abstractmethod
    def _count(self, condition: JSON | None, *, exact: bool = True) -> int:
        """How many points match."""

    @abstractmethod
    def _page(
        self, condition: JSON | None, size: int, offset: Any, payload: list[str], vectors: bool | list[str]
    ) -> tuple[Sequence[Point], Any]:
        """Up to ``size`` points that match, from ``offset`` on, and the next offset: None at the end."""

    @abstractmethod
    def _query_batch(self, requests: list[JSON]) -> list[Sequence[ScoredPoint]]:
        """The answers to several queries."""

    # -- rows ----------------------------------------------------------------------------------------------

    def upsert(self, batch: RowBatch) -> None:
        """See the base class. Each row is written whole; a large batch takes several requests."""
        done: list[str] = []
        for ids, part in points.requests_of(batch, self.manifest):
            try:
                self._upsert(part)
            except MRLError as error:
                error.indexed_ids = tuple(done)
                raise
            done += ids

    def delete(self, ids: Sequence[str]) -> int:
        """See the base class."""
        return sum(self._delete(part) for part in parts(dict.fromkeys(ids), _IDS_PER_REQUEST))

    def _delete(self, ids: list[str]) -> int:
        there = [record.id for record in self._retrieve(ids, payload=False)]
        if there:
            self._delete_points(there)
        return len(there)

    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        """See the base class."""
        found: dict[str, Point] = {}
        for part in parts(dict.fromkeys(ids), self._rows_per_read(vectors)):
            records = self._retrieve(part, payload=points.ROW, vectors=[FULL] if vectors else False)
            found |= {str(record.id): record for record in records}
        wanted = (found.get(filters.point_id(each)) for each in ids)
        return [None if record is None else points.read_row(record.payload, record.vector) for record in wanted]

    def fetch_vectors(self, ids: Sequence[str]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """See the base class. Reads no payload."""
        return self._vectors(FULL, ids)

    def _vectors(self, name: str, ids: Sequence[str]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        out = np.zeros((len(ids), points.vector_dims(self.manifest)[name]), dtype=np.float32)
        found = np.zeros(len(ids), dtype=np.bool_)
        at: dict[str, list[int]] = {}
        for i, each in enumerate(ids):
            at.setdefault(filters.point_id(each), []).append(i)
        for part in parts(dict.fromkeys(ids), self._rows_per_read(vectors=True)):
            for record in self._retrieve(part, payload=False, vectors=[name]):
                vector = points.vector_named(record.vector, name)
                if vector is not None:
                    out[at[str(record.id)]] = vector
                    found[at[str(record.id)]] = True
        return out, found

    def _rows_per_read(self, vectors: bool) -> int:
        per_row = 4096 + (points.FLOAT_BYTES * self.manifest.fine_dims if vectors else 0)
        return max(1, min(_IDS_PER_REQUEST, points.REQUEST_BYTES // per_row))

    def _retrieve(
        self, ids: Sequence[str], *, payload: bool | list[str], vectors: bool | list[str] = False
    ) -> Sequence[Point]:
        return self._retrieve_points(list(map(filters.point_id, ids)), payload=payload, vectors=vectors)

    def count(self, filter: Filter | None = None) -> int:
        """See the base class."""
        self._require()
        pushed = self.resolve_filter(filter)
        if isinstance(pushed, IdIn):
            listed = parts(sorted(pushed.ids), _IDS_PER_REQUEST)
            return sum(len(self._retrieve(part, payload=False)) for part in listed)
        return self._count(filters.compile_filter(pushed))

    def scan(
        self, filter: Filter | None = None, *, vectors: bool = False, documents: bool = True, batch_size: int = 1000
    ) -> Iterator[RowBatch]:
        """See the base class. In the order of Qdrant's point ids."""
        self._require()
        pushed = self.resolve_filter(filter)
        payload = [key for key in points.ROW if documents or key != points.DOCUMENT]
        wanted: bool | list[str] = [FULL] if vectors else False
        size = min(batch_size, self._rows_per_read(vectors))
        pages: Iterator[Sequence[Point]]
        if isinstance(pushed, IdIn):
            pages = (self._retrieve(part, payload=payload, vectors=wanted) for part in parts(sorted(pushed.ids), size))
        else:
            pages = self._scroll(filters.compile_filter(pushed), size, payload, wanted)
        for page in pages:
            if page:
                yield points.row_batch(page, self.manifest.fine_dims if vectors else None)

    def _scroll(
        self, condition: JSON | None, size: int, payload: list[str], vectors: bool | list[str] = False
    ) -> Iterator[Sequence[Point]]:
        page, offset = self._page(condition, size, None, payload, vectors)
        yield page
        while offset is not None:
            page, offset = self._page(condition, size, offset, payload, vectors)
            yield page

    def _require(self) -> Manifest:
        """The manifest; raises where there is no collection."""
        return self.manifest

    # -- filters -------------------------------------------------------------------------------------------

    def can_filter(self, filter: Filter) -> bool:
        """Whether Qdrant can say it: all but substrings, the order of strings, and the order of huge numbers."""
        return filters.can_push(filter)

    def resolve_filter(self, filter: Filter | None) -> Filter | None:
        """See the base class. One small request finds rows whose type has no order with the operand's."""
        resolved = super().resolve_filter(filter)
        if resolved is filter and (wrong := filters.out_of_order(filter)) is not None:
            for record in next(self._scroll(wrong, 1, points.ROW)):
                row = points.read_row(record.payload)
                check_order(filter, row.id, row.metadata)
        return resolved
