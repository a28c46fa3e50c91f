"""The ``memory`` backend: NumPy arrays in this process, exact in both stages. The oracle of the others.

``memory:`` is a collection of its own; ``memory:NAME`` is shared by everybody in this process who opens that name.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .address import Address
from .attachments import checked_name, seal
from .backend import Backend, BackendStats, Capabilities
from .documents import Row, RowBatch
from .errors import BackendError, ConflictError, InvalidInput
from .filters import OPERATORS, Filter, check_order, matches
from .manifest import Manifest
from .matryoshka import FloatArray, prefix
from .scoring import cosine_scores, top_k
from .two_stage import Candidates

__all__ = ["MemoryBackend"]


class _Table:
    """The rows of one collection. ``order`` is a snapshot of ids and matrices, rebuilt when a search needs it."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.rows: dict[str, Row] = {}
        self.attachments: dict[str, bytes] = {}
        self.arrays: tuple[list[str], FloatArray, FloatArray] | None = None

    def matrices(self) -> tuple[list[str], FloatArray, FloatArray]:
        """Ids, full vectors and prefixes of the rows that have a vector."""
        if self.arrays is None:
            kept = [row for row in self.rows.values() if row.vector is not None]
            full = np.array([row.vector for row in kept], dtype=np.float32).reshape(len(kept), self.manifest.fine_dims)
            self.arrays = [row.id for row in kept], full, prefix(full, self.manifest.coarse_dims)
        return self.arrays


_SHARED: dict[str, dict[str, _Table]] = {}
_SHARED_LOCK = threading.RLock()


class MemoryBackend(Backend):
    """Rows in a dict, vectors in matrices."""

    capabilities = Capabilities(transactions=True, exact_search=True, filter_operators=OPERATORS, attachments=True)

    def __init__(self, address: Address, tables: dict[str, _Table]) -> None:
        super().__init__(address)
        self._found = tables
        self._closed = False

    @classmethod
    def from_address(cls, address: Address, **options: Any) -> MemoryBackend:
        if options:
            raise InvalidInput(f"the memory backend takes no options, got {sorted(options)}")
        with _SHARED_LOCK:
            return cls(address, {} if address.in_memory else _SHARED.setdefault(address.path, {}))

    @property
    def _tables(self) -> dict[str, _Table]:
        if self._closed:
            raise BackendError(f"{self.address} was closed; open it again")
        return self._found

    @property
    def _table(self) -> _Table:
        table = self._tables.get(self.address.collection)
        if table is None:
            self._manifest = None
            _ = self.manifest  # raises CollectionNotFound
        assert table is not None
        return table

    def read_manifest(self) -> Manifest | None:
        table = self._tables.get(self.address.collection)
        self._manifest = None if table is None else table.manifest
        return self._manifest

    def write_manifest(self, manifest: Manifest, expected: Manifest | None) -> None:
        with _SHARED_LOCK:
            stored = self._tables.get(self.address.collection)
            if (stored and stored.manifest.checksum) != (expected and expected.checksum):
                raise ConflictError(f"the manifest of {self.address} was changed meanwhile; read it again and repeat")
            if stored is None:
                self._tables[self.address.collection] = _Table(manifest)
            else:
                stored.manifest = manifest
            self._manifest = manifest

    def collections(self) -> list[str]:
        return sorted(self._tables)

    def drop(self) -> None:
        with _SHARED_LOCK:
            self._tables.pop(self.address.collection, None)
            self._manifest = None

    def write_attachment(self, name: str, content: bytes) -> None:
        seal(name, content)  # for its checks: memory needs no checksum
        with _SHARED_LOCK:
            self._table.attachments[name] = content

    def read_attachment(self, name: str) -> bytes | None:
        checked_name(name)
        table = self._tables.get(self.address.collection)
        return None if table is None else table.attachments.get(name)

    def upsert(self, batch: RowBatch) -> None:
        rows = [
            Row(row.id, row.document, copy.deepcopy(row.metadata), None if row.vector is None else row.vector.copy())
            for row in batch.rows()
        ]
        with _SHARED_LOCK:
            table = self._table
            table.rows.update((row.id, row) for row in rows)
            table.arrays = None

    def delete(self, ids: Sequence[str]) -> int:
        with _SHARED_LOCK:
            table = self._table
            gone = [id for id in dict.fromkeys(ids) if table.rows.pop(id, None)]
            if gone:
                table.arrays = None
            return len(gone)

    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        with _SHARED_LOCK:
            found = [self._table.rows.get(id) for id in ids]
        return [row and _out(row, vectors) for row in found]

    def count(self, filter: Filter | None = None) -> int:
        with _SHARED_LOCK:
            return sum(1 for _ in self._matching(filter))

    def scan(
        self, filter: Filter | None = None, *, vectors: bool = False, documents: bool = True, batch_size: int = 1000
    ) -> Iterator[RowBatch]:
        with _SHARED_LOCK:
            rows = list(self._matching(filter))
            dims = self._table.manifest.fine_dims
        for i in range(0, len(rows), batch_size):
            part = rows[i : i + batch_size]
            matrix = None
            if vectors:
                matrix = np.zeros((len(part), dims), dtype=np.float32)
                for j, row in enumerate(part):
                    if row.vector is not None:
                        matrix[j] = row.vector
            yield RowBatch(
                ids=[row.id for row in part],
                documents=[row.document for row in part],
                metadatas=[copy.deepcopy(row.metadata) for row in part],
                vectors=matrix,
                has_vector=np.array([row.vector is not None for row in part], dtype=np.bool_),
            )

    def _matching(self, filter: Filter | None) -> Iterator[Row]:
        """Rows that match; an order across types is an error in whichever row it is."""
        rows = list(self._table.rows.values())
        for row in rows:
            check_order(filter, row.id, row.metadata)
        return (row for row in rows if matches(filter, row.id, row.metadata))

    def coarse_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        with _SHARED_LOCK:
            ids, _, short = self._table.matrices()
            return self._best(vectors, short, ids, limit, filter)

    def exact_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        with _SHARED_LOCK:
            ids, full, _ = self._table.matrices()
            return self._best(vectors, full, ids, limit, filter)

    def _best(
        self, queries: FloatArray, matrix: FloatArray, ids: list[str], limit: int, filter: Filter | None
    ) -> list[Candidates]:
        if filter is not None:
            allowed = {row.id for row in self._matching(filter)}
            kept = np.flatnonzero([id in allowed for id in ids])
            ids, matrix = [ids[i] for i in kept], matrix[kept]
        return [Candidates(*top_k(cosine_scores(query, matrix), ids, limit), matrix.nbytes) for query in queries]

    def stats(self) -> BackendStats:
        with _SHARED_LOCK:
            table = self._table
            ids, full, short = table.matrices()
            text = sum(len(r.id) + len(r.document or "") for r in table.rows.values())
            return BackendStats(
                rows=len(table.rows),
                vectors=len(ids),
                bytes={"coarse": short.nbytes, "fine": full.nbytes, "rows": text},
                details={"index": "flat, exact"},
            )

    def close(self) -> None:
        """A named collection stays; one without a name is gone."""
        self._closed = True


def _out(row: Row, vectors: bool) -> Row:
    """A copy that the caller may change."""
    vector = row.vector.copy() if vectors and row.vector is not None else None
    return Row(row.id, row.document, copy.deepcopy(row.metadata), vector)
