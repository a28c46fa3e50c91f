"""A collection on disk: reading it in snapshots, and writing it in transactions that survive a crash.

The database is the journal and the truth. A batch is written so: take the writer lock, append the vectors to the
segment files at the committed end, make them durable, then commit the rows, the checksums of the vectors and the new
end in one transaction. Killed before the commit, nothing has happened; after it, everything has.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mrl_retrieval.attachments import checked_name, seal_text, unseal_text
from mrl_retrieval.documents import RowBatch
from mrl_retrieval.errors import CollectionMismatchError, CollectionNotFound, ConflictError, CorruptionError
from mrl_retrieval.manifest import Manifest

from . import attachments
from .attachments import SETTINGS
from .checks import as_int64, text_crc, vector_sums
from .database import SCHEMA
from .files import check_place, sync_folder
from .marker import note_commit, save_copy
from .query import writable
from .records import SegmentFormat
from .rows import NewRow, insert, remove
from .state import State, read_manifest
from .upkeep import Upkeep

__all__ = ["Store"]


class Store(Upkeep):
    """One collection. Safe to share among threads; opening it creates nothing and takes no lock.

    Args:
        path: the folder of the store.
        collection: a checked collection name.
        fine_dtype: ``"float16"``, ``"float32"`` or ``"int8"``: how vectors are stored. None: as the collection was
            made, and float16 for a new one.
        lock_timeout: seconds a write waits for another writer.
        compact_at: the share of dead vectors beyond which writes compact the collection, a little each; 1: never.
        compact_bytes: with fewer bytes of dead vectors than that they do not.
        segment_bytes: size at which a new segment file is begun, in a collection made by this object.
    """

    # -- the collection ------------------------------------------------------------------------------------

    def read_manifest(self) -> Manifest | None:
        """The manifest, or None where there is no collection. Checks the segments' headers and sizes too.

        Raises:
            NotACollection: something else is there.
            ManifestError: it is damaged.
            CorruptionError: a segment or the database is damaged or missing.
            CollectionMismatchError: the collection has another ``fine_dtype`` than this store was asked for.
        """
        check_place(self.files.store)
        try:
            with self.snapshot(of_any=True) as snapshot:
                manifest = snapshot.manifest()
                self._bound = manifest.collection_id
                return manifest
        except CollectionNotFound as error:
            if self.files.has_segments():
                raise CorruptionError(
                    f"{self.files.segments} holds vectors, but {self.files.database} is missing or empty, expected the "
                    "database that belongs to them: restore it from a backup, or drop the collection"
                ) from error
            return None

    def write_manifest(self, manifest: Manifest, expected: Manifest | None) -> None:
        """Compare-and-set: replace ``expected`` by ``manifest``; with ``expected=None`` make the collection.

        Raises:
            ConflictError: what is stored is not ``expected``.
            CollectionMismatchError: ``fine_dims`` or the collection's id would change.
        """
        if expected is None:
            self._create(manifest)
            return
        with self._transaction() as transaction:
            connection = transaction.connection
            stored = read_manifest(connection)
            if stored.checksum != expected.checksum:
                raise ConflictError(
                    f"the manifest of {self.files.folder} was changed by somebody else meanwhile (found "
                    f"{stored.checksum[:12]}…, expected {expected.checksum[:12]}…): read it again and repeat"
                )
            for name in ("fine_dims", "collection_id"):
                if (old := getattr(stored, name)) != (new := getattr(manifest, name)):
                    raise CollectionMismatchError(
                        f"{self.files.folder} has {name} {old!r}, the new manifest {new!r}: these stay as they are for "
                        "the life of a collection; make another one"
                    )
            connection.execute("UPDATE meta SET value = ? WHERE key = 'manifest'", (manifest.dumps(),))
            transaction.state = replace(transaction.state, coarse_dims=manifest.coarse_dims)
            save_copy(self.files.copy, dict(connection.execute(SETTINGS).fetchall()))
        self._bound = manifest.collection_id

    def drop(self) -> None:
        """Remove the collection with everything in it; no error if it is not there.

        Raises:
            NotACollection: the folder holds files that are not ours.
        """
        if not check_place(self.files.store):
            return
        with contextlib.suppress(FileNotFoundError), self._lock.held():
            self._connections.reset()
            self._let_go()
            self._bound = None
            self.files.remove()

    def _create(self, manifest: Manifest) -> None:
        while True:
            self.files.create()
            with contextlib.suppress(FileNotFoundError), self._lock.held():  # dropped by another meanwhile: again
                if not self.files.database.exists() and self.files.has_segments():
                    raise CorruptionError(
                        f"{self.files.segments} holds vectors without their database {self.files.database}: restore it "
                        "from a backup, or drop the collection"
                    )
                with self._connections.connection(create=True) as connection:
                    self._fill(connection, manifest)
                sync_folder(self.files.folder)
                self._bound = manifest.collection_id
                return

    def _fill(self, connection: sqlite3.Connection, manifest: Manifest) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables:
            raise ConflictError(
                f"a collection exists at {self.files.folder}, expected none: read its manifest and use it"
            )
        for statement in SCHEMA:
            connection.execute(statement)
        dtype = self._fine_dtype or "float16"
        row_bytes = SegmentFormat(dtype, manifest.fine_dims, 1, manifest.collection_id).row_bytes
        meta = {
            "manifest": manifest.dumps(),
            "fine_dtype": dtype,
            "fine_dims": str(manifest.fine_dims),
            "rows_per_segment": str(max(1, self._segment_bytes // row_bytes)),
        }
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        state = State(1, 0, 0, 0, manifest.coarse_dims, manifest.collection_id)
        state.write(connection)
        connection.execute("COMMIT")
        save_copy(self.files.copy, meta)
        note_commit(self.files.committed, state.collection_id, state.generation)

    # -- attachments ---------------------------------------------------------------------------------------

    def write_attachment(self, name: str, content: bytes) -> None:
        """Keep a blob in the database, in place of what had this name. Durable on return.

        Raises:
            InvalidInput: name or content cannot be used.
            CollectionNotFound: there is no collection.
        """
        sealed = seal_text(name, content)
        with self._transaction() as transaction:
            attachments.write(transaction.connection, name, sealed)

    def read_attachment(self, name: str) -> bytes | None:
        """The blob of this name; None where there is none, or no collection.

        Raises:
            CorruptionError: it is not as it was written.
        """
        checked_name(name)
        try:
            with self.snapshot() as snapshot:
                found = snapshot.attachment(name)
        except CollectionNotFound:
            return None
        return None if found is None else unseal_text(name, found, self.files.folder)

    # -- rows ----------------------------------------------------------------------------------------------

    def upsert(self, batch: RowBatch) -> None:
        """Write rows; an id that exists is overwritten whole. Durable on return; on an error nothing was written."""
        if not len(batch):
            return
        metadatas = [json.dumps(m, ensure_ascii=False, separators=(",", ":"), allow_nan=False) for m in batch.metadatas]
        with self._transaction(maintain=len(batch)) as transaction:
            connection, state = transaction.connection, transaction.state
            with_vector = np.flatnonzero(batch.has_vector)
            sums: list[int] = []
            if len(with_vector):
                assert batch.vectors is not None
                records = transaction.segments.layout.encode(batch.vectors[with_vector])
                found = vector_sums(records)
                sums = as_int64(found)
                transaction.append(records, found)
            gone = remove(connection, transaction.paths, batch.ids, state.generation)
            numbers = np.where(
                batch.has_vector,
                state.vectors - 1 + np.cumsum(batch.has_vector),
                -state.bare - np.cumsum(~batch.has_vector),
            ).tolist()
            rows = [
                NewRow(
                    number,
                    id,
                    metadata,
                    sums[number - state.vectors] if number >= 0 else None,
                    text_crc(document),
                    document,
                )
                for number, id, metadata, document in zip(numbers, batch.ids, metadatas, batch.documents, strict=True)
            ]
            insert(connection, transaction.paths, rows, batch.metadatas)
            bare = len(batch) - len(with_vector)
            left = _without(transaction.state, gone)
            transaction.state = replace(
                left,
                bare=left.bare + bare,
                rows=left.rows + len(batch),
                bare_rows=left.bare_rows + bare,
                numbers=left.numbers + sum(numbers),
            )

    def delete(self, ids: Sequence[str]) -> int:
        """Remove rows; unknown ids are no error. Returns how many were there."""
        with self.snapshot() as snapshot:
            if not snapshot.rows_of_ids(ids):
                return 0
        with self._transaction(maintain=len(ids)) as transaction:
            unique = writable(dict.fromkeys(ids))
            gone = remove(transaction.connection, transaction.paths, unique, transaction.state.generation)
            transaction.state = _without(transaction.state, gone)
            return len(gone)


def _without(state: State, gone: Sequence[int]) -> State:
    """The counters without some rows."""
    return replace(
        state,
        rows=state.rows - len(gone),
        bare_rows=state.bare_rows - sum(number < 0 for number in gone),
        numbers=state.numbers - sum(gone),
    )
