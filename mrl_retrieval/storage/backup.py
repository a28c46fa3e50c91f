"""A collection in one file, and back: an uncompressed tar of the database and the vectors, with a SHA-256 of each.

The last member, ``mrl-backup.json``, lists the others; an archive without it, or with anything else, is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sqlite3
import tarfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO, RawIOBase
from pathlib import Path
from typing import IO, Any

import numpy as np

from mrl_retrieval._version import __version__
from mrl_retrieval.errors import BackendError, ConflictError, CorruptionError, NewerFormatError, NotACollection

from .database import sqlite_errors
from .files import DATABASE, SEGMENTS, CollectionFiles, os_errors, publish, segment_name, sync_folder, temporary
from .records import SegmentFormat
from .segments import Part
from .snapshot import Snapshot

__all__ = ["BackupReport", "RestoreReport", "new_backup", "unpack", "write_backup"]

_MANIFEST = "mrl-backup.json"
_VERSION = 1
_NAME = re.compile(rf"{re.escape(DATABASE)}|{SEGMENTS}/[0-9]{{6,12}}\.seg|{re.escape(_MANIFEST)}")
_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What :meth:`Store.backup` wrote."""

    path: Path
    bytes: int
    rows: int
    vectors: int
    """Vectors of these rows."""
    generation: int
    """The commit that the backup shows."""


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What :func:`restore` made."""

    path: Path
    """The collection's folder."""
    bytes: int
    rows: int
    vectors: int


class _Hashed(RawIOBase):
    """Reads one or several pieces of memory, or a file, as one stream, and hashes what was read."""

    def __init__(self, source: IO[bytes]) -> None:
        super().__init__()
        self._source = source
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        found = self._source.read(size)
        self.sha256.update(found)
        return found


class _PartFile:
    """A mapped segment as the file it is, up to the vectors that count."""

    def __init__(self, part: Part, layout: SegmentFormat) -> None:
        self._pieces = [memoryview(layout.header(part.span)), np.ascontiguousarray(part.records).data.cast("B")]
        self.size = sum(len(piece) for piece in self._pieces)

    def read(self, size: int) -> bytes:
        out = b""
        while self._pieces and len(out) < size:
            taken = self._pieces[0][: size - len(out)]
            out += bytes(taken)
            self._pieces[0] = self._pieces[0][len(taken) :]
            if not self._pieces[0]:
                self._pieces.pop(0)
        return out


@contextlib.contextmanager
def new_backup(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A file to write the backup to; it takes the place of ``target`` at the end, if nothing was raised until then.

    Raises:
        ConflictError: ``target`` exists.
        BackendError: it cannot be written.
    """
    if target.exists() and not overwrite:
        raise ConflictError(f"{target} exists, expected a new name: choose another one, or say overwrite=True")
    written = temporary(target)
    with os_errors(f"writing the backup {target}"):
        try:
            yield written
            publish(written, target)
        finally:
            written.unlink(missing_ok=True)


def write_backup(snapshot: Snapshot, connection: sqlite3.Connection, written: Path, target: Path) -> BackupReport:
    """Write a snapshot to ``written``, on its way to ``target``. Writers are not held up.

    Raises:
        BackendError: it cannot be written.
    """
    copy = temporary(target.with_name("store.sqlite"))
    listed: dict[str, dict[str, Any]] = {}
    state = snapshot.state
    with os_errors(f"writing the backup {target}"):
        try:
            _copy_database(connection, copy)
            with tarfile.open(written, "w", format=tarfile.GNU_FORMAT) as archive:
                with copy.open("rb") as file:
                    _add(archive, listed, DATABASE, copy.stat().st_size, file)
                for part in snapshot.fine.parts:
                    source = _PartFile(part, snapshot.fine.layout)
                    _add(archive, listed, f"{SEGMENTS}/{segment_name(part.span.number)}", source.size, source)
                about = {
                    "format": "mrl-backup",
                    "version": _VERSION,
                    "made_with": __version__,
                    "collection_id": state.collection_id,
                    "generation": state.generation,
                    "files": listed,
                }
                text = json.dumps(about, indent=1).encode()
                _add(archive, {}, _MANIFEST, len(text), BytesIO(text))
        except tarfile.TarError as error:
            raise BackendError(f"writing the backup {target} failed: {error}") from error
        finally:
            for path in (copy, copy.with_name(f"{copy.name}-journal")):
                path.unlink(missing_ok=True)
    vectors = int(np.count_nonzero(snapshot.vector_mask(None)))
    return BackupReport(target, written.stat().st_size, state.rows, vectors, state.generation)


def _copy_database(connection: sqlite3.Connection, copy: Path) -> None:
    """The database as the connection's transaction sees it, in one file of its own."""
    with sqlite_errors(copy), contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as other:
        connection.backup(other)
        other.execute("PRAGMA journal_mode = DELETE").fetchall()


def _add(archive: tarfile.TarFile, listed: dict[str, dict[str, Any]], name: str, size: int, source: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    hashed = _Hashed(source)
    archive.addfile(info, hashed)
    listed[name] = {"bytes": size, "sha256": hashed.sha256.hexdigest()}


@contextlib.contextmanager
def unpack(archive: Path, files: CollectionFiles) -> Iterator[Path]:
    """Unpack a backup into a new folder beside where the collection will be; at the end of the ``with`` the folder
    takes the collection's name, or is gone if there was an error.

    Raises:
        ConflictError: the collection exists.
        NotACollection: the file is no backup.
        CorruptionError: it is damaged or cut short.
        NewerFormatError: a newer version of this library made it.
    """
    _refuse_existing(files)
    if not archive.is_file():
        raise NotACollection(f"{archive} is not there, or no file, expected a backup")
    files.create_store()
    folder = temporary(files.store / f"restore-{uuid.uuid4().hex[:8]}")
    with os_errors(f"restoring {archive} to {files.folder}"):
        try:
            (folder / SEGMENTS).mkdir(parents=True)
            _extract(archive, folder)
            with sqlite_errors(folder / DATABASE), contextlib.closing(sqlite3.connect(folder / DATABASE)) as database:
                database.execute("PRAGMA journal_mode = WAL").fetchall()
            yield folder
            for path in (folder / SEGMENTS, folder):
                sync_folder(path)
            _refuse_existing(files)
            folder.rename(files.folder)
            sync_folder(files.store)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _refuse_existing(files: CollectionFiles) -> None:
    if files.folder.exists() and any(files.folder.iterdir()):
        raise ConflictError(
            f"there is a collection at {files.folder}, expected none: restore to another place, or drop it first"
        )


def _extract(archive: Path, folder: Path) -> None:
    found: dict[str, dict[str, Any]] = {}
    about: Any = None
    try:
        with tarfile.open(archive, "r:") as opened:
            for member in opened:
                # Names are matched, never joined as they come: nothing is written outside the folder.
                if not member.isreg() or not _NAME.fullmatch(member.name) or member.name in found or about is not None:
                    raise NotACollection(
                        f"{archive} holds {member.name[:80]!r}, expected a backup and nothing else in it"
                    )
                source = opened.extractfile(member)
                assert source is not None
                hashed = _Hashed(source)
                if member.name == _MANIFEST:
                    about = json.loads(hashed.read(_CHUNK * 64))
                    continue
                with (folder / member.name).open("xb") as file:
                    shutil.copyfileobj(hashed, file, _CHUNK)
                    file.flush()
                    os.fsync(file.fileno())
                found[member.name] = {"bytes": member.size, "sha256": hashed.sha256.hexdigest()}
    except (tarfile.TarError, ValueError, EOFError) as error:
        if not found:
            raise NotACollection(f"{archive} is no backup ({error}), expected what `backup` wrote") from error
        raise CorruptionError(f"{archive} is damaged ({error}), expected a whole backup: take another one") from error
    if not isinstance(about, dict) or about.get("format") != "mrl-backup":
        raise CorruptionError(f"{archive} ends without {_MANIFEST}, expected a whole backup: it was cut short")
    version = about.get("version")
    if isinstance(version, int) and version > _VERSION:
        raise NewerFormatError(
            f"{archive} has backup version {version}, this library reads up to {_VERSION}: upgrade mrl-retrieval"
        )
    listed = about.get("files")
    if not isinstance(listed, dict) or found != listed:
        names = found.keys() | (listed.keys() if isinstance(listed, dict) else set())
        wrong = sorted(name for name in names if not isinstance(listed, dict) or found.get(name) != listed.get(name))
        raise CorruptionError(
            f"{', '.join(wrong[:3])} in {archive}: not what the backup lists, expected the same size and SHA-256: take "
            "another backup"
        )
