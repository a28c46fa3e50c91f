"""Looking after a collection: verifying, repairing and compacting it, and backups."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path

import numpy as np

from mrl_retrieval.errors import CollectionNotFound, CorruptionError, ManifestError, NewerFormatError, NotACollection

from . import compaction
from .attachments import SETTINGS
from .backup import BackupReport, RestoreReport, new_backup, unpack, write_backup
from .compaction import CompactionReport
from .database import sqlite_errors
from .files import CollectionFiles, check_place
from .marker import check_commit, last_commit, save_copy
from .opened import OpenCollection
from .repair import RepairReport, rebuild
from .verify import Problem, VerifyReport, verify_snapshot

__all__ = ["Upkeep"]

logger = logging.getLogger(__name__)

_COMPACT_ROWS = 5000


class Upkeep(OpenCollection):
    """These verbs of :class:`Store`."""

    def verify(self) -> VerifyReport:
        """Read everything and compare it with its checksums. Changes nothing, takes no lock.

        Raises:
            CollectionNotFound: there is none.
            NewerFormatError: a newer version of this library made it.
        """
        check_place(self.files.store)
        noted = last_commit(self.files.committed)
        rows = vectors = 0
        problems: list[Problem] = []
        try:
            with self._connections.connection() as connection:
                snapshot = self._begin(connection)
                state = snapshot.state
                self._check_bound(state)
                rows, vectors, problems = verify_snapshot(snapshot, connection)
                check_commit(noted, state.collection_id, state.generation, self.files.database)
        except CollectionNotFound:
            if not self.files.has_segments():
                raise
            problems.append(Problem("database", f"{self.files.database} is missing, expected the database"))
        except (CorruptionError, NotACollection, ManifestError) as error:
            if isinstance(error, NewerFormatError):
                raise
            problems.append(Problem("database", str(error)))
        return VerifyReport(rows, vectors, sum(self.sizes().values()), tuple(problems))

    def repair(self) -> RepairReport:
        """Verify the collection; if it is damaged, build a sound one of what fits its checksums. Needs no encoder.

        Every document that is whole is kept. One whose vector was lost is listed in the report and has to be indexed
        again. Damaged files and rows are put into the folder ``quarantine``. Needs as much room as the collection has.

        Raises:
            CorruptionError: nothing can be saved: restore a backup.
            LockTimeout: somebody else is writing.
        """
        check_place(self.files.store)
        with self._locked():
            if not self.files.database.exists():
                raise CorruptionError(
                    f"{self.files.database} is missing, expected the database of {self.files.segments}: it cannot be "
                    "repaired without documents, restore the collection from a backup"
                )
            report = self.verify()
            if report.ok:
                return RepairReport(rows=report.rows)
            logger.warning("repairing %s: %s", self.files.folder, report.problems[0].message)
            self._forget()
            try:
                with sqlite_errors(self.files.database):
                    return rebuild(self.files, report.problems)
            finally:
                self._forget()

    def compact(self) -> CompactionReport:
        """Take back the room of everything that was deleted or overwritten. Others may read and write meanwhile: the
        writer lock is taken for one step at a time.

        Raises:
            CorruptionError: a row that has to be moved is damaged: repair the collection first.
            LockTimeout: another writer does not let go.
        """
        before = sum(self.sizes().values())
        with self._transaction() as transaction:
            if transaction.state.dead > 0 and transaction.state.first >= transaction.state.clean_to:
                compaction.begin(transaction)
            goal, bare = transaction.state.clean_to, transaction.state.bare
            tidy = transaction.state.bare_window == transaction.state.bare_rows
        moved, done = 0, False
        while not done:
            with self._transaction() as transaction:
                if transaction.state.first < goal:
                    moved += compaction.step(transaction, self._fine(transaction), _COMPACT_ROWS)
                elif not tidy and transaction.state.first_bare < bare:
                    moved += compaction.step_bare(transaction, bare, _COMPACT_ROWS)
                else:
                    compaction.clear_tombstones(transaction)
                    done = True
        with self._locked(), self._connections.connection() as connection:
            if transaction.spans:
                transaction.segments.remove_before(transaction.spans[0].number)
            _shrink(connection)
        return CompactionReport(moved, before, sum(self.sizes().values()))

    def backup(self, target: Path, *, overwrite: bool = False) -> BackupReport:
        """Verify the collection and write it to one file, as the last commit left it. Others may write meanwhile.

        Args:
            target: a new file; it appears when it is complete.
            overwrite: whether a file that is there may be replaced.

        Raises:
            ConflictError: the file exists.
            CorruptionError: the collection is damaged: a backup of it would be worth nothing.
        """
        noted = last_commit(self.files.committed)
        # The connection is given back, and what was read held to what is there now, before a backup is replaced.
        with new_backup(target, overwrite=overwrite) as written, self._connections.connection() as connection:
            snapshot = self._begin(connection)
            state = snapshot.state
            self._check_bound(state)
            check_commit(noted, state.collection_id, state.generation, self.files.database)
            rows, vectors, problems = verify_snapshot(snapshot, connection)
            VerifyReport(rows, vectors, 0, tuple(problems)).raise_if_damaged()
            return write_backup(snapshot, connection, written, target)

    @classmethod
    def restore(cls, archive: Path, path: Path, collection: str) -> RestoreReport:
        """Make a collection of a backup, and verify it before it takes its name.

        Args:
            archive: what :meth:`backup` wrote.
            path: the folder of a store, which need not exist.
            collection: a checked name that nothing there has.

        Raises:
            ConflictError: the collection exists.
            NotACollection: the file is no backup, or the folder no store.
            CorruptionError: the backup is damaged.
            NewerFormatError: a newer version of this library made it.
        """
        check_place(path)
        files = CollectionFiles(path, collection)
        with unpack(archive, files) as folder:
            with contextlib.closing(cls(path, folder.name)) as restored:
                restored.verify().raise_if_damaged()
                with restored.snapshot() as snapshot:
                    rows, vectors = snapshot.state.rows, int(np.count_nonzero(snapshot.vector_mask(None)))
                with restored._connections.connection() as connection:
                    meta = dict(connection.execute(SETTINGS).fetchall())
                size = sum(restored.sizes().values())
            save_copy(CollectionFiles(path, folder.name).copy, meta)
        return RestoreReport(files.folder, size, rows, vectors)


def _shrink(connection: sqlite3.Connection) -> None:
    """Give the pages that the database does not use back to the disk, where that is worth copying the others."""
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    if free * 5 > pages:
        connection.execute("VACUUM")
    # Readers that are at it keep this from being complete, and are not waited for: the next one finishes it.
    (patience,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.execute(f"PRAGMA busy_timeout = {int(patience)}")
