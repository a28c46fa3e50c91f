"""A collection on disk: reading it in snapshots, and writing it in transactions that survive a crash.

The database is the journal and the truth. A batch is written so: take the writer lock, append the vectors to the
segment files at the committed end, make them durable, then commit the rows, the checksum of the vectors and the new
end in one transaction. Killed before the commit, nothing has happened; after it, everything has.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mrl_retrieval.documents import Metadata, RowBatch
from mrl_retrieval.errors import (
    CollectionMismatchError,
    CollectionNotFound,
    ConflictError,
    CorruptionError,
    InvalidInput,
)
from mrl_retrieval.manifest import Manifest

from .database import SCHEMA, Connections
from .fields import entries
from .files import CollectionFiles, check_place, os_errors, sweep_temporaries, sync_folder
from .forks import register
from .locks import WriterLock
from .query import CHUNK, in_chunks, writable
from .segments import DTYPES, SEGMENT_BYTES, SegmentFormat, Segments
from .snapshot import MaskCache, Snapshot, State, read_manifest

__all__ = ["Store"]

_PLACES = ",".join("?" * CHUNK)
_STORED = f"SELECT row, metadata FROM row WHERE id IN ({_PLACES})"  # noqa: S608 - nothing but question marks


class Store:
    """One collection. Safe to share among threads; opening it creates nothing and takes no lock.

    Args:
        path: the folder of the store.
        collection: a checked collection name.
        fine_dtype: ``"float16"`` or ``"float32"``: how vectors are stored. None: as the collection was made, and
            float16 for a new one.
        lock_timeout: seconds a write waits for another writer.
        segment_bytes: size at which a new segment file is begun, in a collection made by this object.
    """

    def __init__(
        self,
        path: Path,
        collection: str,
        *,
        fine_dtype: str | None = None,
        lock_timeout: float = 30.0,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        if fine_dtype is not None and fine_dtype not in DTYPES:
            raise InvalidInput(f"fine_dtype={fine_dtype!r}; known: {', '.join(DTYPES)}")
        if isinstance(lock_timeout, bool) or not isinstance(lock_timeout, (int, float)) or not lock_timeout >= 0:
            raise InvalidInput(f"lock_timeout={lock_timeout!r}; expected seconds, a number from 0 up")
        check_place(path)
        self.files = CollectionFiles(path, collection)
        self._fine_dtype = fine_dtype
        self._segment_bytes = segment_bytes
        self._lock = WriterLock(self.files.lock, lock_timeout)
        self._connections = Connections(self.files.database, lock_timeout)
        self._segments: Segments | None = None
        self._masks = MaskCache()
        self._bound: str | None = None
        register(self)

    def after_fork(self) -> None:
        """Start afresh in a child process."""
        self._lock.after_fork()
        self._connections.after_fork()
        self._segments = None
        self._masks = MaskCache()

    def close(self) -> None:
        """Close every file, those that are being read when that is over; a second call is no error."""
        self._connections.close()
        self._segments = None

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
            with self._unbound_snapshot() as snapshot:
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
        with self._transaction() as connection:
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
            connection.execute("UPDATE state SET generation = generation + 1, coarse_dims = ?", (manifest.coarse_dims,))
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
            self._segments = self._bound = None
            self.files.remove()

    # -- reading -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """The collection as the last commit left it, for as long as the ``with`` lasts.

        Raises:
            CollectionNotFound: there is none.
            CollectionMismatchError: it is another one than the manifest was read of.
            CorruptionError: a segment is damaged or missing.
        """
        with self._unbound_snapshot() as snapshot:
            self._check_bound(snapshot.state)
            yield snapshot

    @contextlib.contextmanager
    def _unbound_snapshot(self) -> Iterator[Snapshot]:
        with self._connections.connection() as connection:
            connection.execute("BEGIN")
            state = State.read(connection)
            segments = self._segments_of(connection, state)
            yield Snapshot(connection, state, segments.view(state.vectors), self._masks)

    def verify(self) -> int:
        """Read everything and compare it with its checksums. Returns the number of vectors checked.

        Raises:
            CorruptionError: something is not as it was written.
        """
        with self.snapshot() as snapshot:
            return snapshot.verify()

    @property
    def fine_dtype(self) -> str:
        """How vectors are stored, as far as is known: what the collection says, else the option, else float16."""
        segments = self._segments
        return segments.layout.dtype if segments is not None else self._fine_dtype or "float16"

    def sizes(self) -> dict[str, int]:
        """Bytes on disk: ``"fine"`` (vectors) and ``"rows"`` (the database)."""
        with os_errors(f"reading {self.files.folder}"):
            log = self.files.database.with_name(self.files.database.name + "-wal")
            return {
                "fine": sum(file.stat().st_size for file in self.files.segments.glob("*.seg")),
                "rows": sum(file.stat().st_size for file in (self.files.database, log) if file.exists()),
            }

    # -- writing -------------------------------------------------------------------------------------------

    def upsert(self, batch: RowBatch) -> None:
        """Write rows; an id that exists is overwritten whole. Durable on return; on an error nothing was written."""
        if not len(batch):
            return
        metadatas = [json.dumps(m, ensure_ascii=False, separators=(",", ":"), allow_nan=False) for m in batch.metadatas]
        with self._transaction() as connection:
            state = State.read(connection)
            segments = self._segments_of(connection, state)
            segments.view(state.vectors)  # a damaged collection is not written to
            with_vector = np.flatnonzero(batch.has_vector)
            if len(with_vector):
                assert batch.vectors is not None
                encoded = segments.layout.encode(batch.vectors[with_vector])
                segments.append(state.vectors, encoded)
                connection.execute(
                    "INSERT INTO batch VALUES (?, ?, ?)", (state.vectors, len(encoded), zlib.crc32(encoded.data))
                )
            generation = state.generation + 1
            removed = _remove(connection, batch.ids, generation)
            numbers = np.where(
                batch.has_vector,
                state.vectors - 1 + np.cumsum(batch.has_vector),
                -state.bare - np.cumsum(~batch.has_vector),
            ).tolist()
            connection.executemany(
                "INSERT INTO row VALUES (?, ?, ?, ?)", zip(numbers, batch.ids, metadatas, batch.documents, strict=True)
            )
            _index(connection, zip(numbers, batch.metadatas, strict=True))
            connection.execute(
                "UPDATE state SET generation = ?, vectors = ?, bare = ?, rows = ?",
                (
                    generation,
                    state.vectors + len(with_vector),
                    state.bare + len(batch) - len(with_vector),
                    state.rows + len(batch) - removed,
                ),
            )

    def delete(self, ids: Sequence[str]) -> int:
        """Remove rows; unknown ids are no error. Returns how many were there."""
        with self.snapshot() as snapshot:
            if not snapshot.rows_of_ids(ids):
                return 0
        with self._transaction() as connection:
            state = State.read(connection)
            removed = _remove(connection, list(writable(dict.fromkeys(ids))), state.generation + 1)
            connection.execute("UPDATE state SET generation = generation + 1, rows = rows - ?", (removed,))
            return removed

    @contextlib.contextmanager
    def writing_files(self, timeout: float | None) -> Iterator[None]:
        """Hold the writer lock to replace a cache file."""
        with self._lock.held(timeout):
            sweep_temporaries(self.files.folder)
            yield

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._lock.held())
            except FileNotFoundError as error:
                raise CollectionNotFound(
                    f"there is no collection at {self.files.folder}; index something first"
                ) from error
            connection = stack.enter_context(self._connections.connection())
            connection.execute("BEGIN IMMEDIATE")
            self._check_bound(State.read(connection))
            yield connection
            connection.execute("COMMIT")

    def _check_bound(self, state: State) -> None:
        if self._bound not in (None, state.collection_id):
            raise CollectionMismatchError(
                f"{self.files.folder} now holds the collection {state.collection_id}, this object was opened on "
                f"{self._bound}: it was dropped and made again meanwhile; open it again"
            )

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
        row_bytes = manifest.fine_dims * np.dtype(DTYPES[dtype]).itemsize
        meta = {
            "manifest": manifest.dumps(),
            "fine_dtype": dtype,
            "fine_dims": str(manifest.fine_dims),
            "rows_per_segment": str(max(1, self._segment_bytes // row_bytes)),
        }
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        connection.execute(
            "INSERT INTO state VALUES (1, 1, 0, 0, 0, ?, ?)", (manifest.coarse_dims, manifest.collection_id)
        )
        connection.execute("COMMIT")

    def _segments_of(self, connection: sqlite3.Connection, state: State) -> Segments:
        """The segments that belong to what the connection reads; made anew if the collection was."""
        segments = self._segments
        if segments is None or segments.layout.collection_id != state.collection_id:
            meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
            try:
                dtype, dims, each = meta["fine_dtype"], int(meta["fine_dims"]), int(meta["rows_per_segment"])
                layout = SegmentFormat(dtype, dims, each, state.collection_id)
                if dtype not in DTYPES or dims < 1 or each < 1:
                    raise ValueError(f"{layout}")
            except (KeyError, ValueError) as error:
                raise CorruptionError(
                    f"{self.files.database} does not say how vectors are stored ({error!r}): restore it from a backup"
                ) from error
            if self._fine_dtype not in (None, dtype):
                raise CollectionMismatchError(
                    f"{self.files.folder} stores vectors as {dtype}, asked for fine_dtype={self._fine_dtype!r}: "
                    "leave the option out, or index into another collection"
                )
            self._segments = segments = Segments(self.files.segments, layout)
        return segments


def _remove(connection: sqlite3.Connection, ids: Sequence[str], generation: int) -> int:
    """Remove rows and their index entries; leave a tombstone for each."""
    found: list[tuple[int, str]] = []
    for chunk in in_chunks(ids):
        found += connection.execute(_STORED, chunk).fetchall()
    if found:
        names = _path_numbers(connection, [])
        connection.executemany(
            "DELETE FROM field WHERE path = ? AND kind = ? AND value = ? AND row = ?",
            (
                (names[name], kind, value, row)
                for row, metadata in found
                for name, kind, value in entries(json.loads(metadata))
            ),
        )
        connection.executemany("DELETE FROM row WHERE row = ?", ((row,) for row, _ in found))
        connection.executemany("INSERT INTO tombstone VALUES (?, ?)", ((generation, row) for row, _ in found))
    return len(found)


def _index(connection: sqlite3.Connection, rows: Iterator[tuple[int, Metadata]]) -> None:
    found = [(row, *entry) for row, metadata in rows for entry in entries(metadata)]
    names = _path_numbers(connection, dict.fromkeys(name for _, name, _, _ in found))
    # In the order of the key, so that each page of the index is visited once; values of one kind have an order.
    ordered = sorted((names[name], kind, value, row) for row, name, kind, value in found)
    connection.executemany("INSERT INTO field VALUES (?, ?, ?, ?)", ordered)


def _path_numbers(connection: sqlite3.Connection, new: Iterable[str]) -> dict[str, int]:
    connection.executemany("INSERT INTO path (name) VALUES (?) ON CONFLICT DO NOTHING", ((name,) for name in new))
    return dict(connection.execute("SELECT name, path FROM path").fetchall())
