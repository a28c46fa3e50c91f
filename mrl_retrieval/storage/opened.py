"""A collection on disk, opened: snapshots for readers, and transactions, with compaction behind them, for writers."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from mrl_retrieval.errors import (
    CollectionMismatchError,
    CollectionNotFound,
    CorruptionError,
    InvalidInput,
    MRLError,
)

from . import compaction
from .attachments import SETTINGS
from .database import RESTORE, Connections, schema_version, sqlite_errors
from .files import CollectionFiles, check_place, os_errors, sweep_temporaries
from .forks import register
from .glance import Glances
from .locks import WriterLock
from .marker import check_commit, last_commit, note_commit
from .masks import MaskCache
from .query import CheckedPaths
from .reading import Known, Reading
from .records import DTYPES, SegmentFormat
from .row_copy import CopyInUse
from .segments import SEGMENT_BYTES, FineView, Segments
from .snapshot import Snapshot
from .state import State, load_spans, load_sums
from .transaction import Transaction
from .upgrade import upgrade

__all__ = ["OpenCollection"]

logger = logging.getLogger(__name__)

# A write moves as many rows as this, and twice as many as it wrote itself, while a compaction is under way.
_STEP_ROWS = 500
_LEAST_DEAD_BYTES = 16 * 2**20

_LONGEST_WAIT = 1_000_000.0
"""Seconds; what is longer, even for ever, is cut to it, because SQLite counts milliseconds in 32 bits."""


class OpenCollection:
    """What the verbs of :class:`Store` stand on."""

    def __init__(
        self,
        path: Path,
        collection: str,
        *,
        fine_dtype: str | None = None,
        lock_timeout: float = 30.0,
        compact_at: float = 0.5,
        compact_bytes: int = _LEAST_DEAD_BYTES,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        if fine_dtype is not None and not (isinstance(fine_dtype, str) and fine_dtype in DTYPES):
            raise InvalidInput(f"fine_dtype={fine_dtype!r}; expected one of {', '.join(map(repr, DTYPES))}")
        if isinstance(lock_timeout, bool) or not isinstance(lock_timeout, (int, float)) or not lock_timeout >= 0:
            raise InvalidInput(f"lock_timeout={lock_timeout!r}; expected seconds, a number from 0 up")
        lock_timeout = min(lock_timeout, _LONGEST_WAIT)
        if isinstance(compact_at, bool) or not isinstance(compact_at, (int, float)) or not 0 <= compact_at <= 1:
            raise InvalidInput(f"compact_at={compact_at!r}; expected a share, a number from 0 to 1")
        check_place(path)
        self.files = CollectionFiles(path, collection)
        self._fine_dtype = fine_dtype
        self._segment_bytes = segment_bytes
        self._compact_at, self._compact_bytes = compact_at, compact_bytes
        self._lock = WriterLock(self.files.lock, lock_timeout)
        self._connections = Connections(self.files.database, lock_timeout, self._other_file)
        self._epoch = 0
        self._segments: Segments | None = None
        self._masks = MaskCache()
        self.row_copy = CopyInUse(self.files)
        """The rows in a file of their own, where one was made."""
        self.glances = Glances(self.files)
        """The last snapshot, for searches that need no database."""
        self._known: Known | None = None
        self._bound: str | None = None
        self._history_is_checked = False
        register(self)

    def after_fork(self) -> None:
        """Start afresh in a child process."""
        self._lock.after_fork()
        self._connections.after_fork()
        self._let_go()
        self._masks = MaskCache()

    def close(self) -> None:
        """Close every file, those that are being read when that is over; a second call is no error."""
        self._connections.close()
        self._let_go()

    # -- reading -------------------------------------------------------------------------------------------

    def snapshot(self, *, of_any: bool = False) -> Reading:
        """The collection as the last commit left it, for as long as the ``with`` lasts.

        ``of_any``: also if it is another collection than the manifest was read of.

        Raises:
            CollectionNotFound: there is none.
            CollectionMismatchError: it is another one than the manifest was read of.
            CorruptionError: a segment is damaged or missing.
        """
        return Reading(self, self._connections.connection(), of_any=of_any)

    def noted(self) -> tuple[str, int] | None:
        """The last commit as noted beside the database; None where the database was held to it before."""
        return None if self._history_is_checked else last_commit(self.files.committed)

    def begin(self, connection: sqlite3.Connection, noted: tuple[str, int] | None, *, of_any: bool) -> Snapshot:
        """Begin a read transaction, for :meth:`snapshot`."""
        snapshot = self._begin(connection)
        if noted is not None:
            check_commit(noted, snapshot.state.collection_id, snapshot.state.generation, self.files.database)
        self._history_is_checked = True
        if not of_any:
            self._check_bound(snapshot.state)
        return snapshot

    def _begin(self, connection: sqlite3.Connection) -> Snapshot:
        """Begin a read transaction whose segments are there; nothing is read again that no commit changed."""
        before: State | None = None
        while True:
            connection.execute("BEGIN")
            known = self._known
            if known is not None and known.is_of(connection):
                version, state = known.version, known.state
            else:
                known = None
                version = schema_version(connection, self.files.database)
                state = State.read(connection, version)
            try:
                if known is None:
                    known = self._known = self._know(connection, version, state)
                known.fine.check_sizes()
            except CorruptionError:
                # Compacted away since the transaction began? Then the next one does not need it.
                if before == state:
                    raise
                before = state
                connection.execute("ROLLBACK")
                continue
            return Snapshot(
                connection, version, state, known.fine, self._masks, known.paths, self.row_copy, self._epoch
            )

    def _know(self, connection: sqlite3.Connection, version: int, state: State) -> Known:
        fine = self._view(connection, version, state)
        before = self._known
        paths = None if before is None or version == 1 else before.paths
        if version > 1 and (paths is None or paths.collection_id != state.collection_id):
            paths = CheckedPaths(state.collection_id)
        return Known(Known.stamp_of(connection, version), version, state, fine, paths)

    def _view(self, connection: sqlite3.Connection, version: int, state: State) -> FineView:
        """The vectors of a state; maps and reads no more than has come since the last time."""
        segments = self._segments_of(connection, state)
        view = segments.latest
        if view is not None and version > 1 and view.sums is None:
            view = None  # made before an upgrade
        if view is not None and view.first == state.first and view.vectors >= state.vectors:
            return view
        spans = load_spans(connection, version, state, segments.layout.rows_per_segment)
        if version == 1:
            return segments.view(state.first, state.vectors, spans, None)
        known = (None, 0, 0) if view is None else (view.sums, view.first, min(view.vectors, state.vectors))
        return segments.view(state.first, state.vectors, spans, load_sums(connection, state, *known))

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
                "fine": sum(map(_size, self.files.segments.glob("*.seg"))),
                "rows": _size(self.files.database) + _size(log),
            }

    # -- writing -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing_files(self, timeout: float | None) -> Iterator[None]:
        """Hold the writer lock to replace a cache file."""
        with self._lock.held(timeout):
            sweep_temporaries(self.files.folder)
            yield

    @contextlib.contextmanager
    def _transaction(self, *, maintain: int = 0) -> Iterator[Transaction]:
        """Change the collection: all of it at the end of the ``with``, or nothing on an error.

        ``maintain``: rows that are written; afterwards in proportion to them a compaction that is due goes on.
        """
        with self._locked(), self._connections.connection() as connection:
            transaction = self._begin_writing(connection)
            yield transaction
            self._commit(transaction)
            if maintain:
                self._maintain(connection, transaction.state, _STEP_ROWS + 2 * maintain)

    def _begin_writing(self, connection: sqlite3.Connection) -> Transaction:
        noted = last_commit(self.files.committed)
        connection.execute("BEGIN IMMEDIATE")
        version = schema_version(connection, self.files.database)
        state = State.read(connection, version)
        self._check_bound(state)
        check_commit(noted, state.collection_id, state.generation, self.files.database)
        fine = self._view(connection, version, state)  # a damaged collection is not written to
        fine.check_sizes()
        segments = self._segments_of(connection, state)
        spans = load_spans(connection, version, state, segments.layout.rows_per_segment)
        if version == 1:
            state = upgrade(connection, state, spans, fine)
        return Transaction(connection, state, segments, spans)

    def _commit(self, transaction: Transaction) -> None:
        transaction.finish()
        transaction.connection.execute("COMMIT")
        note_commit(self.files.committed, transaction.state.collection_id, transaction.state.generation)
        if transaction.files_before is not None:
            transaction.segments.remove_before(transaction.files_before)

    def _maintain(self, connection: sqlite3.Connection, state: State, limit: int) -> None:
        """One step of a compaction, if one is due. The write that it follows is done: nothing here makes it fail."""
        row_bytes = self._segments_of(connection, state).layout.row_bytes
        if not compaction.is_due(state, row_bytes, self._compact_at, self._compact_bytes):
            return
        try:
            with sqlite_errors(self.files.database):
                transaction = self._begin_writing(connection)
                if state.first >= state.clean_to:
                    compaction.begin(transaction)
                compaction.step(transaction, self._fine(transaction), limit)
                self._commit(transaction)
        except MRLError as error:
            logger.warning("compacting %s failed, nothing was lost: %s", self.files.folder, error)
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _fine(self, transaction: Transaction) -> FineView:
        """The vectors as they were when the transaction began."""
        view = transaction.segments.latest
        assert view is not None
        return view

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._lock.held())
            except FileNotFoundError as error:
                raise CollectionNotFound(
                    f"there is no collection at {self.files.folder}; index something first"
                ) from error
            yield

    # -- what is open --------------------------------------------------------------------------------------

    def _other_file(self) -> None:
        """Another database is where the one that was read was: nothing of what was read counts."""
        self._epoch += 1
        self._let_go()
        self._masks = MaskCache()
        self._history_is_checked = False

    def _let_go(self) -> None:
        self._segments = self._known = None
        self.glances.forget()
        self.row_copy.look_again()

    def _forget(self) -> None:
        self._connections.reset()
        self._let_go()
        self._masks = MaskCache()
        self._history_is_checked = False

    def _check_bound(self, state: State) -> None:
        if self._bound not in (None, state.collection_id):
            raise CollectionMismatchError(
                f"{self.files.folder} now holds the collection {state.collection_id}, this object was opened on "
                f"{self._bound}: it was dropped and made again meanwhile; open it again"
            )

    def _segments_of(self, connection: sqlite3.Connection, state: State) -> Segments:
        """The segments that belong to what the connection reads; made anew if the collection was."""
        segments = self._segments
        if segments is None or segments.layout.collection_id != state.collection_id:
            meta = dict(connection.execute(SETTINGS).fetchall())
            try:
                dtype, dims, each = meta["fine_dtype"], int(meta["fine_dims"]), int(meta["rows_per_segment"])
                layout = SegmentFormat(dtype, dims, each, state.collection_id)
                if dtype not in DTYPES or dims < 1 or each < 1:
                    raise ValueError(f"{layout}")
            except (KeyError, ValueError) as error:
                raise CorruptionError(
                    f"{self.files.database} does not say how vectors are stored ({error!r}): {RESTORE}"
                ) from error
            if self._fine_dtype not in (None, dtype):
                raise CollectionMismatchError(
                    f"{self.files.folder} stores vectors as {dtype}, asked for fine_dtype={self._fine_dtype!r}: "
                    "leave the option out, or index into another collection"
                )
            self._segments = segments = Segments(self.files.segments, layout)
        return segments


def _size(path: Path) -> int:
    """Bytes of a file; 0 where it is not there any more, as one that was compacted away meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
