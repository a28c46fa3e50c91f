"""Which files to read, and what each is called in the collection."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from mrl_retrieval.errors import InvalidInput

__all__ = ["TEXT_GLOBS", "FileSource", "Scope", "find_files", "kind_of"]

TEXT_GLOBS = ("*.txt", "*.text", "*.md", "*.markdown", "*.rst")
"""What is taken from a folder unless other patterns are given."""

_KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}


@dataclass(frozen=True, slots=True)
class FileSource:
    """One file to read."""

    path: Path
    name: str
    """What it is called in the collection: its absolute path, or its path below ``relative_to``; with ``/``."""
    kind: str
    """``"jsonl"``, ``"csv"``, ``"tsv"`` or ``"text"``."""
    size: int
    """Bytes on disk."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which names a run answers for: what is in its scope and not among its files has vanished."""

    files: frozenset[str]
    folders: tuple[str, ...]
    globs: tuple[str, ...]

    def __contains__(self, name: str) -> bool:
        if name in self.files:
            return True
        below = any(_is_below(name, folder) for folder in self.folders)
        return below and _matches(name.rpartition("/")[2], self.globs)


def find_files(
    paths: Sequence[str | Path], *, globs: Sequence[str] = TEXT_GLOBS, relative_to: Path | None = None
) -> tuple[list[FileSource], Scope]:
    """Files as they are, and the files in folders, recursively, in the order of their names.

    Hidden files and folders are skipped, links to folders not followed; a file that is named twice is read once.

    Raises:
        InvalidInput: a path is not there, is neither a file nor a folder, or lies outside ``relative_to``.
    """
    base = None if relative_to is None else relative_to.expanduser().resolve()
    found: dict[str, FileSource] = {}
    files, folders = set[str](), list[str]()
    for given in paths:
        path = Path(given).expanduser()
        if path.is_dir():
            folders.append(_name(path.resolve(), base))
            for file in _walk(path.resolve(), tuple(globs)):
                source = _source(file, base)
                found.setdefault(source.name, source)
        elif path.is_file():
            source = _source(path.resolve(), base)
            files.add(source.name)
            found.setdefault(source.name, source)
        elif path.exists():
            raise InvalidInput(f"{given} is neither a file nor a folder")
        else:
            raise InvalidInput(f"{given}: no such file or folder")
    return list(found.values()), Scope(frozenset(files), tuple(folders), tuple(globs))


def kind_of(path: Path) -> str:
    """How a file is read, from its suffix; ``.gz`` does not count, and what is unknown is text."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return _KINDS.get(suffixes[-1], "text") if suffixes else "text"


def _walk(folder: Path, globs: tuple[str, ...]) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            if not name.startswith(".") and _matches(name, globs) and path.is_file():
                yield path


def _source(path: Path, base: Path | None) -> FileSource:
    return FileSource(path, _name(path, base), kind_of(path), path.stat().st_size)


def _name(path: Path, base: Path | None) -> str:
    if base is not None:
        if not path.is_relative_to(base):
            raise InvalidInput(f"{path} is not below {base}; --relative-to must be a folder above every PATH")
        path = path.relative_to(base)
    name = path.as_posix()
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the file name {name!r} is not valid UTF-8; rename the file") from error
    return name


def _is_below(name: str, folder: str) -> bool:
    if folder == ".":
        return not name.startswith("/")
    return name.startswith(folder.rstrip("/") + "/")


def _matches(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) or fnmatch(name, pattern + ".gz") for pattern in globs)
