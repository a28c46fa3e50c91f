"""Making a sound collection of a damaged one, without the encoder: what fits its checksums is kept, nothing else.

A new database is written beside the old one, with the rows that are sound; their vectors, those that are, go to new
segment files behind the old ones. Then the new database takes the old one's name, in one step, and everything old goes
to the folder ``quarantine``, where a person may look at it, or delete it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mrl_retrieval.errors import CorruptionError
from mrl_retrieval.manifest import Manifest

from .attachments import copy_sound
from .checks import as_int64, text_crc, vector_sums
from .database import SCHEMA
from .files import CollectionFiles, os_errors, sync_folder, temporary, write_atomically
from .marker import last_commit, note_commit, save_copy
from .records import SegmentFormat
from .rows import NewRow, insert
from .salvage import (
    SalvagedRow,
    VectorFiles,
    batches_1,
    folder_for,
    layout_of,
    read_meta,
    read_state,
    rows,
    rows_by_id,
)
from .segments import Segments
from .state import State
from .transaction import Transaction
from .verify import Problem

__all__ = ["RepairReport", "rebuild"]

_BATCH = 500


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What repairing a collection did."""

    problems: tuple[Problem, ...] = ()
    """What was found; empty: nothing was the matter, and nothing was changed."""
    rebuilt: bool = False
    """Whether documents and vectors were written anew."""
    rows: int = 0
    """Rows that are there now."""
    without_vector: tuple[str, ...] = ()
    """Ids of rows whose vector was lost: index these again. Until then no vector search finds them."""
    quarantined: tuple[str, ...] = ()
    """Ids, as far as they can be read, of rows whose document or metadata are damaged: no longer in the collection."""
    lost: tuple[str, ...] = ()
    """Ids of rows of which nothing else could be read."""
    unaccounted: int = 0
    """Rows that were there, and of which not even the id is known."""
    lost_commits: int = 0
    """How many of the last commits the database does not know any more."""
    lost_attachments: tuple[str, ...] = ()
    """Names of attachments that were damaged, as far as they can be read: write these again."""
    quarantine: Path | None = None
    """Where the old files and ``rows.jsonl``, the damaged rows, are now."""
    index_rebuilt: bool = False
    """Whether the coarse index was made again."""


@dataclass
class _Kept:
    """What happened to the rows."""

    ids: set[str] = field(default_factory=set)
    without_vector: list[str] = field(default_factory=list)
    damaged: list[SalvagedRow] = field(default_factory=list)


@dataclass(frozen=True)
class _Made:
    """The new database."""

    state: State
    kept: _Kept
    lost: tuple[str, ...]
    unaccounted: int
    lost_commits: int
    lost_attachments: tuple[str, ...]


def rebuild(files: CollectionFiles, problems: Sequence[Problem]) -> RepairReport:
    """See above. The caller holds the writer lock, and has no connection open.

    Raises:
        CorruptionError: not even what the collection is can be read.
        BackendError: the disk is full, or files cannot be moved; the collection is as it was.
    """
    noted = last_commit(files.committed)
    written = temporary(files.database)
    with os_errors(f"repairing {files.folder}"):
        try:
            with contextlib.closing(sqlite3.connect(files.database, isolation_level=None)) as old:
                old.text_factory = _text
                with contextlib.suppress(sqlite3.Error):
                    old.execute("PRAGMA busy_timeout = 1000")
                    old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                meta = read_meta(old, files)
                manifest = Manifest.loads(meta["manifest"])
                layout = layout_of(meta, manifest)
                vectors = VectorFiles(files, layout, old)
                try:
                    made = _copy(files, old, written, meta, manifest, layout, vectors, noted)
                finally:
                    vectors.close()
            aside = _swap(files, written, made.kept, vectors.last_number)
        finally:
            for name in (written.name, f"{written.name}-wal", f"{written.name}-shm"):
                written.with_name(name).unlink(missing_ok=True)
        note_commit(files.committed, made.state.collection_id, made.state.generation)
        save_copy(files.copy, meta)
    return RepairReport(
        problems=tuple(problems),
        rebuilt=True,
        rows=len(made.kept.ids),
        without_vector=tuple(made.kept.without_vector),
        quarantined=tuple(str(row.id) for row in made.kept.damaged),
        lost=made.lost,
        unaccounted=made.unaccounted,
        lost_commits=made.lost_commits,
        lost_attachments=made.lost_attachments,
        quarantine=aside,
    )


def _copy(
    files: CollectionFiles,
    old: sqlite3.Connection,
    written: Path,
    meta: dict[str, str],
    manifest: Manifest,
    layout: SegmentFormat,
    vectors: VectorFiles,
    noted: tuple[str, int] | None,
) -> _Made:
    """Write the new database and its segments."""
    version, state = read_state(old)
    by_id = rows_by_id(old)
    # New numbers begin beyond all that anybody may have seen.
    end = max([vectors.end, *by_id.values(), 0 if state is None else state.vectors]) + 1
    bare = max([0 if state is None else state.bare, *(-row for row in by_id.values())])
    known = 0 if noted is None or noted[0] != manifest.collection_id else noted[1]
    found = 0 if state is None else state.generation
    start = State(max(known, found), end, bare, 0, manifest.coarse_dims, manifest.collection_id, end, bare, end)
    batches = batches_1(old, vectors) if version == 1 else None
    kept = _Kept()
    with contextlib.closing(sqlite3.connect(written, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA:
            connection.execute(statement)
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        lost_attachments = copy_sound(old, connection)
        transaction = Transaction(connection, start, Segments(files.segments, layout), [])
        transaction.number_segments_after(vectors.last_number)
        pending: list[SalvagedRow] = []
        for row in rows(old, version, -bare - 1, end):
            if not row.sound:
                kept.damaged.append(row)
                continue
            pending.append(row)
            if len(pending) == _BATCH:
                _write(transaction, pending, vectors, batches, kept)
                pending = []
        _write(transaction, pending, vectors, batches, kept)
        if not kept.ids and (state is None or state.rows):
            raise CorruptionError(
                f"no row of {files.database} can be read, expected {'some' if state is None else state.rows}: it "
                "cannot be repaired, restore the collection from a backup"
            )
        transaction.finish()
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    damaged = {row.row for row in kept.damaged}
    lost = tuple(id for id, row in by_id.items() if id not in kept.ids and row not in damaged)
    missing = 0 if state is None else state.rows - len(kept.ids) - len(kept.damaged) - len(lost)
    commits = 0 if state is None else max(0, known - found)
    return _Made(transaction.state, kept, lost, max(0, missing), commits, lost_attachments)


def _write(
    transaction: Transaction,
    found: Sequence[SalvagedRow],
    vectors: VectorFiles,
    batches: set[int] | None,
    kept: _Kept,
) -> None:
    """Write sound rows, with their vectors where these are sound too."""
    records: list[bytes] = []
    new: list[tuple[SalvagedRow, bool]] = []
    for row in sorted(found, key=lambda row: -row.row):
        if row.id in kept.ids:  # an index that was damaged let it in twice
            kept.damaged.append(row)
            continue
        kept.ids.add(row.id)
        record = None
        if row.row >= 0 and (batches is None or row.row in batches):
            record = vectors.sound(row.row, row.vector_sum)
        if record is not None:
            records.append(record)
        elif row.row >= 0:
            kept.without_vector.append(row.id)
        new.append((row, record is not None))
    if not new:
        return
    sums: list[int] = []
    number = transaction.state.vectors
    if records:
        matrix = np.frombuffer(b"".join(records), dtype=np.uint8).reshape(len(records), -1)
        checks = vector_sums(matrix)
        sums = as_int64(checks)
        number = transaction.append(matrix, checks)
    bare, at = transaction.state.bare, 0
    out = []
    for row, has_vector in new:
        bare += not has_vector
        out.append(
            NewRow(
                number + at if has_vector else -bare,
                row.id,
                row.metadata,
                sums[at] if has_vector else None,
                text_crc(row.document),
                row.document,
            )
        )
        at += has_vector
    insert(transaction.connection, transaction.paths, out, [json.loads(row.metadata) for row in out])
    state = transaction.state
    transaction.state = replace(
        state,
        bare=bare,
        rows=state.rows + len(out),
        bare_rows=state.bare_rows + len(out) - len(records),
        numbers=state.numbers + sum(row.row for row in out),
    )


def _swap(files: CollectionFiles, written: Path, kept: _Kept, last_old_segment: int) -> Path:
    """Put the old database aside, the new one in its place, then the old segments aside too."""
    files.quarantine.mkdir(exist_ok=True)
    aside = folder_for(files.quarantine)
    aside.mkdir()
    write_atomically(aside / "rows.jsonl", "".join(_line(row) for row in kept.damaged).encode())
    log = files.database.with_name(files.database.name + "-wal")
    for path in (files.database, log):
        if path.exists():
            _keep(path, aside / path.name)
    sync_folder(aside)
    # A log that belongs to the old database must not be there when the new one is.
    caches = (files.sidecar, files.index, files.exact_sidecar, files.exact_codes, files.row_copy)
    for path in (log, files.database.with_name(files.database.name + "-shm"), *caches):
        path.unlink(missing_ok=True)
    written.replace(files.database)
    sync_folder(files.folder)
    for path in files.segments.glob("*.seg"):
        if path.stem.isdigit() and int(path.stem) <= last_old_segment:
            path.rename(aside / path.name)
    return aside


def _keep(path: Path, aside: Path) -> None:
    """A second name for a file, or a copy where the file system has no such thing."""
    try:
        os.link(path, aside)
    except OSError:
        shutil.copy2(path, aside)


def _line(row: SalvagedRow) -> str:
    return (
        json.dumps({"row": row.row, "id": row.id, "metadata": row.metadata, "document": row.document}, default=str)
        + "\n"
    )


def _text(raw: bytes) -> str:
    """Text even where it is none any more: what was damaged can be looked at, and fails its checksum."""
    return raw.decode("utf-8", "surrogateescape")
