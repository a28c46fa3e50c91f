"""Comparing everything that is stored with its checksums, and each part with the others. Nothing is changed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrl_retrieval.errors import CorruptionError, MRLError

from . import attachments
from .checks import as_int64, entry_digest, entry_hash, row_crc, text_crc
from .fields import entries
from .query import FilterQuery, numbers_sum, path_digest
from .snapshot import Snapshot
from .state import check_batch, path_crc

__all__ = ["Problem", "VerifyReport", "verify_snapshot"]

_ROWS = "SELECT row, id, metadata, vector_sum, document_crc32, crc32, document FROM row ORDER BY row"
_MANY = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it was written."""

    part: str
    """``"database"``, ``"manifest"``, ``"rows"``, ``"filter index"``, ``"segments"``, ``"attachments"`` or
    ``"coarse index"``."""
    message: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What verifying a collection found."""

    rows: int
    """Rows that were checked."""
    vectors: int
    """Vectors that were checked, those of deleted rows included."""
    bytes: int
    """Bytes of vectors and database."""
    problems: tuple[Problem, ...] = ()
    """At most 100 of each part."""

    @property
    def ok(self) -> bool:
        """Whether everything is as it was written."""
        return not self.problems

    def raise_if_damaged(self) -> None:
        """Raise :class:`CorruptionError` with the first problem, if there is one."""
        if self.problems:
            more = f" (and {len(self.problems) - 1} problems more)" if len(self.problems) > 1 else ""
            raise CorruptionError(f"{self.problems[0].message}{more}")


class _Findings:
    """Collects problems, not too many of a kind."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def add(self, part: str, message: str) -> None:
        if sum(problem.part == part for problem in self.problems) < _MANY:
            self.problems.append(Problem(part, message))


def verify_snapshot(snapshot: Snapshot, connection: sqlite3.Connection) -> tuple[int, int, list[Problem]]:
    """Rows and vectors checked, and what is wrong with them."""
    findings = _Findings()
    for step in (_database, _lists, _vectors, _rows, _paths, _attachments):
        try:
            step(snapshot, connection, findings)
        except sqlite3.Error as error:
            findings.add("database", f"SQLite says {error}, expected to read all of it")
        except MRLError as error:
            findings.add("database", str(error))
    return snapshot.state.rows, snapshot.state.vectors - snapshot.state.first, findings.problems


def _database(snapshot: Snapshot, connection: sqlite3.Connection, findings: _Findings) -> None:
    snapshot.manifest()
    for (text,) in connection.execute("PRAGMA integrity_check(20)"):
        if text != "ok":
            findings.add("database", f"SQLite finds the database damaged ({text}), expected 'ok'")


def _lists(snapshot: Snapshot, connection: sqlite3.Connection, findings: _Findings) -> None:
    """The counters against the rows and tombstones; the batches against their checksums."""
    state = snapshot.state
    count, total, bare = connection.execute(
        "SELECT count(*), coalesce(sum(row), 0), coalesce(sum(row < 0), 0) FROM row"
    ).fetchone()
    expected = (state.rows, state.numbers, state.bare_rows) if snapshot.version > 1 else (state.rows, total, bare)
    if (count, total, bare) != expected:
        findings.add(
            "rows", f"count, sum of numbers and rows without vector are {(count, total, bare)}, expected {expected}"
        )
    mask = FilterQuery(connection, state, None).live()
    if snapshot.version == 1:
        end = 0
        for first, rows, crc in connection.execute("SELECT first, rows, crc32 FROM batch ORDER BY first"):
            if first != end:
                findings.add("segments", f"a batch of vectors begins at {first}, expected {end}")
            end = first + rows
            found = snapshot.fine.crc32(first, end)
            if found != crc:
                findings.add(
                    "segments", f"vectors {first} to {end - 1} have checksum {found:#010x}, expected {crc:#010x}"
                )
        if end != state.vectors:
            findings.add("segments", f"the batches hold {end} vectors, expected {state.vectors}")
        return
    if (found := numbers_sum(mask, state)) != state.numbers:
        findings.add("rows", f"the numbers of rows without a tombstone add up to {found}, expected {state.numbers}")
    for batch in connection.execute("SELECT first, rows, sums, lineage, crc32 FROM batch ORDER BY first"):
        check_batch(*batch)


def _vectors(snapshot: Snapshot, connection: sqlite3.Connection, findings: _Findings) -> None:
    state, fine = snapshot.state, snapshot.fine
    for records, number in fine.pieces(state.first, state.vectors):
        wrong = fine.wrong_in(records, number)
        for one in wrong[:_MANY]:
            findings.add("segments", f"vector {one} is not as it was written, expected what fits its checksum")
        for start in range(0, len(records), 8192):
            finite = fine.layout.finite(np.ascontiguousarray(records[start : start + 8192]))
            for one in set((np.flatnonzero(~finite) + number + start).tolist()) - set(wrong):
                findings.add("segments", f"vector {one} is not finite, expected finite numbers")


def _rows(snapshot: Snapshot, connection: sqlite3.Connection, findings: _Findings) -> None:
    """Each row against its checksums and its vector's, and the filter index against the metadata of all of them."""
    if snapshot.version == 1:
        _entries_1(connection, findings)
        return
    state, fine = snapshot.state, snapshot.fine
    assert fine.sums is not None
    sums = as_int64(fine.sums)
    digests: dict[str, int] = {}
    for row, problem, metadata in _sound_rows(connection):
        if problem is None and row >= 0 and not state.first <= row < state.vectors:
            problem = f"has a number beyond {state.first} to {state.vectors - 1}"
        if problem is not None:
            findings.add("rows", f"row {row} {problem}")
            continue
        head, found = metadata
        if row >= 0 and sums[row - fine.first] != head[3]:
            findings.add(
                "rows", f"row {row} (id {head[1][:80]!r}) has another vector, expected the one it was written with"
            )
        for name, kind, value in entries(found):
            digests[name] = entry_digest(digests.get(name, 0), entry_hash(kind, value), 1, row)
    names = 0
    for path, name, digest in connection.execute("SELECT path, name, digest FROM path").fetchall():
        names += path_crc(path, name)
        expected = digests.pop(name, 0)
        if not digest == expected == path_digest(connection, path):
            findings.add("filter index", f"the entries of {name!r} differ, expected what the rows' metadata say")
    for name in digests:
        findings.add("filter index", f"{name!r} is in the rows' metadata, expected in the index too")
    if names != state.paths:
        findings.add("filter index", f"the metadata paths have checksum {names}, expected {state.paths}")


def _sound_rows(connection: sqlite3.Connection) -> Iterator[tuple[int, str | None, Any]]:
    """Number, what is wrong with it, and else its head and decoded metadata, of every row."""
    for row, id, metadata, vector_sum, document_crc, crc, document in connection.execute(_ROWS):
        try:
            if row_crc(row, id, metadata, vector_sum, document_crc) != crc or text_crc(document) != document_crc:
                yield row, f"(id {str(id)[:80]!r}) is not as it was written, expected what fits its checksum", None
                continue
            if (row >= 0) != (vector_sum is not None):
                yield row, f"(id {id[:80]!r}) has a number of rows {'with' if row >= 0 else 'without'} a vector", None
                continue
            yield row, None, ((row, id, metadata, vector_sum), json.loads(metadata))
        except (AttributeError, TypeError, ValueError) as error:
            yield row, f"holds what is not text ({error}), expected what fits its checksum", None


def _entries_1(connection: sqlite3.Connection, findings: _Findings) -> None:
    """The filter index of format version 1, which has no checksums."""
    expected: dict[str, int] = {}
    for row, metadata in connection.execute("SELECT row, metadata FROM row"):
        for name, kind, value in entries(json.loads(metadata)):
            expected[name] = entry_digest(expected.get(name, 0), entry_hash(kind, value), 1, row)
    for path, name in connection.execute("SELECT path, name FROM path").fetchall():
        if path_digest(connection, path) != expected.pop(name, 0):
            findings.add("filter index", f"the entries of {name!r} differ, expected what the rows' metadata say")
    for name in expected:
        findings.add("filter index", f"{name!r} is in the rows' metadata, expected in the index too")


def _paths(snapshot: Snapshot, connection: sqlite3.Connection, findings: _Findings) -> None:
    """Every entry belongs to a path, and every id in the index of ids to its row."""
    (strays,) = connection.execute("SELECT count(*) FROM field WHERE path NOT IN (SELECT path FROM path)").fetchone()
    if strays:
        findings.add("filter index", f"{strays} entries belong to no metadata path, expected none")


def _attachments(snapshot: Snapshot, connection: sqlite3.Connection, findings: _Findings) -> None:
    for _, problem in attachments.unsound(connection):
        findings.add("attachments", problem)
