"""Where the files of a store lie, and how they are made so that a power cut leaves either the old or the new one.

A store is a folder with a marker file and one folder a collection. Nothing here reads a database.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mrl_retrieval.address import check_collection_name
from mrl_retrieval.errors import AddressError, BackendError, MRLError, NewerFormatError, NotACollection

from .access import is_refusal, not_allowed

__all__ = [
    "FORMAT_VERSION",
    "CollectionFiles",
    "check_place",
    "collection_names",
    "os_errors",
    "segment_name",
    "sync_folder",
    "write_atomically",
]

FORMAT_VERSION = 1
MARKER = "mrl-store.json"
DATABASE = "store.sqlite"
SEGMENTS = "segments"
LOCK = "write.lock"
INDEX = "coarse.faiss"
SIDECAR = "coarse.json"
EXACT_CODES = "exact.codes"
EXACT_SIDECAR = "exact.json"
ROW_COPY = "rows.copy"
COPY = "collection.json"
COMMITTED = "last-commit"
QUARANTINE = "quarantine"
_TEMPORARY = ".tmp-"
_DROPPED = ".dropped-"
_OURS = frozenset({DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", SEGMENTS, LOCK, INDEX, SIDECAR}) | {
    COPY,
    COMMITTED,
    QUARANTINE,
    EXACT_CODES,
    EXACT_SIDECAR,
    ROW_COPY,
}


@dataclass(frozen=True, slots=True)
class CollectionFiles:
    """The paths of one collection."""

    store: Path
    name: str

    @property
    def folder(self) -> Path:
        """Everything of the collection."""
        return self.store / self.name

    @property
    def database(self) -> Path:
        """Documents, metadata, ids and the journal."""
        return self.folder / DATABASE

    @property
    def segments(self) -> Path:
        """The folder of the fine vectors."""
        return self.folder / SEGMENTS

    @property
    def lock(self) -> Path:
        """Held by the one who writes."""
        return self.folder / LOCK

    @property
    def index(self) -> Path:
        """A cache of the coarse index."""
        return self.folder / INDEX

    @property
    def sidecar(self) -> Path:
        """What the cache file must look like to be trusted."""
        return self.folder / SIDECAR

    @property
    def exact_codes(self) -> Path:
        """A cache of the vectors in codes, for exact searches."""
        return self.folder / EXACT_CODES

    @property
    def exact_sidecar(self) -> Path:
        """What the codes must look like to be trusted."""
        return self.folder / EXACT_SIDECAR

    @property
    def row_copy(self) -> Path:
        """A cache of the rows, where searches find them faster."""
        return self.folder / ROW_COPY

    @property
    def copy(self) -> Path:
        """A second copy of what the collection is, for the day the database loses it."""
        return self.folder / COPY

    @property
    def committed(self) -> Path:
        """Which commit was the last: the database must not be older."""
        return self.folder / COMMITTED

    @property
    def quarantine(self) -> Path:
        """Where a repair puts what it could not use."""
        return self.folder / QUARANTINE

    def has_segments(self) -> bool:
        """Whether there is any fine vector file."""
        with os_errors(f"reading {self.segments}"):
            try:
                return any(entry.name.endswith(".seg") for entry in self.segments.iterdir())
            except FileNotFoundError:
                return False

    def create(self) -> None:
        """Make the store's folder and marker and the collection's folder, durably. Nothing happens where they exist."""
        with os_errors(f"creating {self.folder}"):
            if self.folder.is_dir() and check_place(self.store):
                return
        self.create_store()
        with os_errors(f"creating {self.folder}"):
            self.folder.mkdir(exist_ok=True)
            sync_folder(self.store)

    def create_store(self) -> None:
        """Make the store's folder and marker, durably. Nothing happens where they exist."""
        with os_errors(f"creating {self.store}"):
            for folder in (*reversed(self.store.parents), self.store):
                if not folder.is_dir():
                    folder.mkdir(exist_ok=True)
                    sync_folder(folder.parent)
            if not check_place(self.store):
                marker = json.dumps({"format": "mrl-store", "version": FORMAT_VERSION}) + "\n"
                write_atomically(self.store / MARKER, marker.encode())

    def strangers(self) -> list[str]:
        """Names in the collection's folder that this library did not put there."""
        with os_errors(f"reading {self.folder}"):
            names = {entry.name for entry in self.folder.iterdir() if not entry.name.startswith(_TEMPORARY)} - _OURS
            if self.segments.is_dir():
                names |= {f"{SEGMENTS}/{e.name}" for e in self.segments.iterdir() if not e.name.endswith(".seg")}
        return sorted(names)

    def remove(self) -> None:
        """Take the folder away in one step (a rename), then delete what was in it.

        Raises:
            NotACollection: it holds files that this library did not make; nothing is removed.
        """
        with os_errors(f"dropping {self.folder}"):
            if not self.folder.is_dir():
                return
        if found := self.strangers():
            raise NotACollection(
                f"{self.folder} holds {', '.join(found[:3])}{' …' if len(found) > 3 else ''}, expected nothing but a "
                "collection's own files: move these elsewhere, then drop again"
            )
        with os_errors(f"dropping {self.folder}"):
            dropped = self.store / f"{_DROPPED}{uuid.uuid4().hex}"
            self.folder.rename(dropped)
            sync_folder(self.store)
            with contextlib.suppress(OSError):
                os.truncate(dropped / COMMITTED, 0)  # whoever has it open sees that the collection is gone
            for left in self.store.iterdir():
                if left.name.startswith(_DROPPED):
                    shutil.rmtree(left, ignore_errors=True)


def check_place(store: Path) -> bool:
    """Whether ``store`` is a store. False: nothing is there yet, or an empty folder.

    Raises:
        NotACollection: something else is there.
        NewerFormatError: a newer version of this library made it.
        BackendError: this process may not look.
    """
    marker = store / MARKER
    try:
        text = marker.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if _check_free(store):
            return False
        return check_place(store)
    except PermissionError as error:
        raise not_allowed(f"reading {marker}", marker) from error
    except OSError as error:
        raise NotACollection(f"{marker} cannot be read ({error}); expected the marker file of a store") from error
    try:
        found = json.loads(text)
        version = found["version"] if found["format"] == "mrl-store" else None
    except (ValueError, KeyError, TypeError) as error:
        raise NotACollection(
            f"{marker} holds {text[:60]!r}, expected the marker of a store, such as "
            f'{{"format": "mrl-store", "version": {FORMAT_VERSION}}}: restore it, or choose another folder'
        ) from error
    if type(version) is not int:
        raise NotACollection(
            f"{marker} holds {text[:60]!r}, expected format 'mrl-store' with a version number: choose another folder"
        )
    if version > FORMAT_VERSION:
        raise NewerFormatError(
            f"{store} has store version {version}, this library reads up to {FORMAT_VERSION}: upgrade mrl-retrieval"
        )
    return True


def _check_free(store: Path) -> bool:
    """Whether nothing is there. False: somebody made a store of it since its marker was looked for."""
    try:
        names = [entry.name for entry in store.iterdir() if not entry.name.startswith(_TEMPORARY)]
    except FileNotFoundError:
        return True
    except NotADirectoryError as error:
        raise NotACollection(
            f"{store} is a file, or lies below one, expected a folder: give the path of a folder that is new, empty, "
            "or made by this backend"
        ) from error
    except PermissionError as error:
        raise not_allowed(f"reading {store}", store) from error
    except OSError as error:
        raise NotACollection(f"{store} cannot be read ({error}), expected a folder: check the disk") from error
    if names and (store / MARKER).exists():
        return False
    if names:
        raise NotACollection(
            f"{store} holds {sorted(names)[0]!r} and {len(names) - 1} more, but no {MARKER}, so this library did not "
            "make it: give the path of a folder that is new, empty, or made by this backend"
        )
    return True


def collection_names(store: Path) -> list[str]:
    """Names of the folders in a store that hold a database, sorted; ``[]`` where there is no store yet."""
    if not check_place(store):
        return []
    with os_errors(f"listing {store}"):
        return sorted(entry.name for entry in store.iterdir() if _has_database(entry) and _is_name(entry.name))


def _has_database(folder: Path) -> bool:
    try:
        return (folder / DATABASE).is_file()
    except PermissionError:
        return False  # somebody else's, which is nothing to us


def _is_name(name: str) -> bool:
    try:
        check_collection_name(name)
    except AddressError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a new file is not there after a power cut without this."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def segment_name(number: int) -> str:
    """The name of a segment's file."""
    return f"{number:06d}.seg"


def temporary(path: Path) -> Path:
    """A new name beside ``path``, recognised and ignored when a killed process leaves it behind."""
    return path.with_name(f"{_TEMPORARY}{path.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def publish(written: Path, path: Path) -> None:
    """Put a finished temporary file in the place of ``path``: whole or not at all."""
    fd = os.open(written, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    written.replace(path)
    sync_folder(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a power cut, sees the old or the new content and nothing between."""
    written = temporary(path)
    try:
        written.write_bytes(content)
        publish(written, path)
    finally:
        written.unlink(missing_ok=True)


def sweep_temporaries(folder: Path) -> None:
    """Remove what killed writers left half written. Only the holder of the writer lock may call it."""
    for entry in folder.iterdir():
        if entry.name.startswith(_TEMPORARY) and not entry.is_dir() and not _is_being_written(entry.name):
            entry.unlink(missing_ok=True)


def _is_being_written(name: str) -> bool:
    """Whether it is a copy of the rows, which is written without the lock, by a process that is alive."""
    pid = name.removeprefix(f"{_TEMPORARY}{ROW_COPY}-").partition("-")[0]
    if not name.startswith(f"{_TEMPORARY}{ROW_COPY}-") or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # somebody else's
    return True


@contextlib.contextmanager
def os_errors(doing: str) -> Iterator[None]:
    """Turn the operating system's errors into ours."""
    try:
        yield
    except MRLError:
        raise
    except OSError as error:
        if is_refusal(error) and isinstance(error.filename, (str, bytes)):
            raise not_allowed(doing, Path(os.fsdecode(error.filename))) from error
        raise BackendError(f"{doing} failed: {error}; check the disk's space and the folder's permissions") from error
