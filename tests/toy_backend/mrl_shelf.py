"""A backend in about a hundred lines: ``shelf:FOLDER``, one SQLite file a collection, every vector looked at.

It keeps full vectors only and cuts the prefixes when it searches. It cannot filter, so it declares no operators, and
filters arrive as an allow-list of ids.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np

from mrl_retrieval.address import Address
from mrl_retrieval.backend import Backend, BackendStats, Capabilities
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.errors import BackendError, ConflictError, InvalidInput
from mrl_retrieval.filters import Filter, IdIn
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import FloatArray, prefix
from mrl_retrieval.scoring import cosine_scores, top_k
from mrl_retrieval.two_stage import Candidates

_TABLES = """
CREATE TABLE IF NOT EXISTS manifest (one INTEGER PRIMARY KEY CHECK (one = 1), text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rows (id TEXT PRIMARY KEY, document TEXT, metadata TEXT NOT NULL, vector BLOB);
"""


class ShelfBackend(Backend):
    capabilities = Capabilities(persistent=True, transactions=True, concurrent_writers=True)

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._file = address.folder / f"{address.collection}.shelf"
        self._lock = threading.RLock()

    @classmethod
    def from_address(cls, address: Address, **options: Any) -> ShelfBackend:
        if options:
            raise InvalidInput(f"the shelf backend takes no options, got {sorted(options)}")
        return cls(address)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own: committed at the end, rolled back if anything fails on the way."""
        try:
            with self._lock, closing(sqlite3.connect(self._file, timeout=30)) as db, db:
                db.executescript(_TABLES)
                db.execute("BEGIN IMMEDIATE")
                yield db
        except sqlite3.Error as error:
            raise BackendError(f"{self._file}: {error}; is the folder there, and writable?") from error

    def read_manifest(self) -> Manifest | None:
        self._manifest = None
        if self._file.exists():
            with self._transaction() as db:
                found = db.execute("SELECT text FROM manifest").fetchone()
            self._manifest = Manifest.loads(found[0]) if found else None
        return self._manifest

    def write_manifest(self, manifest: Manifest, expected: Manifest | None) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._transaction() as db:
            found = db.execute("SELECT text FROM manifest").fetchone()
            if (found and Manifest.loads(found[0]).checksum) != (expected and expected.checksum):
                raise ConflictError(f"the manifest of {self.address} was changed meanwhile; read it again and repeat")
            db.execute("INSERT OR REPLACE INTO manifest VALUES (1, ?)", (manifest.dumps(),))
        self._manifest = manifest

    def collections(self) -> list[str]:
        return sorted(file.stem for file in self.address.folder.glob("*.shelf"))

    def drop(self) -> None:
        self._file.unlink(missing_ok=True)
        self._manifest = None

    def upsert(self, batch: RowBatch) -> None:
        _ = self.manifest  # raises where there is no collection
        rows = [
            (r.id, r.document, json.dumps(r.metadata), None if r.vector is None else r.vector.tobytes())
            for r in batch.rows()
        ]
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)", rows)

    def delete(self, ids: Sequence[str]) -> int:
        with self._transaction() as db:
            return db.executemany("DELETE FROM rows WHERE id = ?", [(id,) for id in dict.fromkeys(ids)]).rowcount

    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Row | None]:
        with self._transaction() as db:
            found = [db.execute("SELECT * FROM rows WHERE id = ?", (id,)).fetchone() for id in ids]
        return [None if one is None else self._row(one, vectors) for one in found]

    def count(self, filter: Filter | None = None) -> int:
        return sum(map(len, self.scan(filter, documents=False)))

    def scan(
        self, filter: Filter | None = None, *, vectors: bool = False, documents: bool = True, batch_size: int = 1000
    ) -> Iterator[RowBatch]:
        filter = self.resolve_filter(filter)
        with self._transaction() as db:
            found = db.execute("SELECT * FROM rows").fetchall()
        rows = [self._row(one, True) for one in found if not isinstance(filter, IdIn) or one[0] in filter.ids]
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            nothing = np.zeros(self.manifest.fine_dims, np.float32)
            yield RowBatch(
                [row.id for row in part],
                [row.document for row in part],
                [row.metadata for row in part],
                np.stack([nothing if row.vector is None else row.vector for row in part]) if vectors else None,
                np.array([row.vector is not None for row in part], dtype=np.bool_),
            )

    def _row(self, stored: tuple[str, str | None, str, bytes | None], vectors: bool) -> Row:
        id, document, metadata, vector = stored
        decoded = None if vector is None or not vectors else np.frombuffer(vector, np.float32)
        return Row(id, document, json.loads(metadata), decoded)

    def coarse_search(self, vectors: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        ids: list[str] = []
        full = [np.empty((0, self.manifest.fine_dims), np.float32)]
        for batch in self.scan(filter, vectors=True, documents=False):
            assert batch.vectors is not None
            ids += [id for id, there in zip(batch.ids, batch.has_vector, strict=True) if there]
            full.append(batch.vectors[batch.has_vector])
        short = prefix(np.concatenate(full), self.manifest.coarse_dims)
        return [Candidates(*top_k(cosine_scores(query, short), ids, limit)) for query in vectors]

    def stats(self) -> BackendStats:
        with self._transaction() as db:
            rows, with_vector = db.execute("SELECT count(*), count(vector) FROM rows").fetchone()
        size = self._file.stat().st_size
        return BackendStats(rows=rows, vectors=with_vector, bytes={"coarse": None, "fine": None, "rows": size})

    def close(self) -> None:
        """Every call has a connection of its own: nothing is left open."""
