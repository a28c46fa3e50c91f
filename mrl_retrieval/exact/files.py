"""The file of an exact copy: written so that a power cut leaves the old one or none, believed only if it fits.

``exact.codes`` holds the parameters of the code (mean and spread as float32, order as int32, little-endian, zeros up to
a multiple of 4096 bytes) and then full chunks; ``exact.json`` says what they are, with a checksum of each. The file
only grows, beyond what the other one tells of, or is replaced as a whole; what was mapped stays as it is.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mrl_retrieval.storage import CollectionFiles, Snapshot
from mrl_retrieval.storage.files import os_errors, publish, temporary, write_atomically

from .codes import ByteArray, Coder, parts
from .layout import CHUNK, Layout

__all__ = ["Reach", "SavedCopy", "load", "save", "write"]

logger = logging.getLogger(__name__)

_FORMAT, _VERSION = "mrl-exact", 1
_PAGE = 4096

Reach = tuple[float, float]
"""See :class:`~.codes.Codes`."""


@dataclass(frozen=True, slots=True)
class SavedCopy:
    """What a file of codes holds."""

    coder: Coder
    fitted: int
    """How many vectors there were when the coder was made."""
    first: int
    """Number of the first vector that is covered."""
    reach: Reach
    chunks: tuple[ByteArray, ...]
    """(chunk_bytes,) each; full."""
    sums: tuple[int, ...]
    """CRC-32 of each."""


def load(snapshot: Snapshot, files: CollectionFiles) -> SavedCopy | None:
    """The codes in the file. None where it is missing, damaged, or does not belong to the store."""
    sidecar = files.exact_sidecar
    if not sidecar.exists():
        return None
    found = _sidecar(sidecar)
    wrong = "its sidecar cannot be read" if found is None else _misfit(found, snapshot)
    if found is None or wrong is not None:
        _warn(files, wrong or "")
        return None
    if found["first"] + found["rows"] <= snapshot.state.first:
        logger.info("%s is not used: all that it covers was compacted away", files.exact_codes)
        return None
    layout = _layout(found["dims"])
    start = _start(found["dims"])
    try:
        content = _mapped(files.exact_codes, start + found["rows"] // CHUNK * layout.chunk_bytes)
    except (OSError, ValueError) as error:
        _warn(files, f"it cannot be read: {error}")
        return None
    if zlib.crc32(content[:start].data) != found["parameters"]:
        _warn(files, "the checksum of its parameters is wrong")
        return None
    chunks = _cut(content, found["dims"])
    for i, (chunk, crc) in enumerate(zip(chunks, found["chunks"], strict=True)):
        if zlib.crc32(chunk.data) != crc:
            _warn(files, f"the checksum of chunk {i} is wrong")
            return None
    coder = _coder(content[:start], found["dims"])
    return SavedCopy(coder, found["fitted"], found["first"], tuple(found["reach"]), chunks, tuple(found["chunks"]))


def save(snapshot: Snapshot, files: CollectionFiles, copy: SavedCopy) -> SavedCopy:
    """Make the file hold the chunks of ``copy``; what it has of them already stays. ``copy.sums`` are not needed.

    The caller holds the writer lock, and the snapshot has all that is in ``copy``.

    Returns:
        The same, mapped from the file.

    Raises:
        BackendError: the disk is full, or fails; the file is as it was, or gone.
    """
    path, size = files.exact_codes, _layout(copy.coder.dims).chunk_bytes
    sums = tuple(zlib.crc32(chunk.data) for chunk in copy.chunks)
    copy = replace(copy, sums=sums)
    with os_errors(f"writing {path}"):
        kept = _kept(files, snapshot, copy)
        if kept is None:
            return write(snapshot, files, copy, ((chunk, copy.reach) for chunk in copy.chunks))
        if kept < len(sums):
            end = _start(copy.coder.dims) + kept * size
            try:
                with path.open("r+b") as file:
                    file.seek(end)
                    for chunk in copy.chunks[kept:]:
                        file.write(chunk.data)
                    file.truncate()
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                os.truncate(path, end)  # what is there would be ignored, but take room
                raise
            _tell(snapshot, files, copy)
        return _again(files, copy)


def write(
    snapshot: Snapshot, files: CollectionFiles, copy: SavedCopy, chunks: Iterable[tuple[ByteArray, Reach]]
) -> SavedCopy:
    """A new file of ``chunks`` in place of those of ``copy``; errors and result as of :func:`save`.

    Only one of them at a time has to be there; with each comes the reach of all up to it.
    """
    path, sums, reach = files.exact_codes, [], copy.reach
    with os_errors(f"writing {path}"):
        written = temporary(path)
        try:
            with written.open("xb") as file:
                file.write(_parameters(copy.coder))
                for chunk, covered in chunks:
                    reach = covered
                    file.write(chunk.data)
                    sums.append(zlib.crc32(chunk.data))
            # Killed between the two, there are codes without a sidecar, which are none: nothing looks damaged.
            files.exact_sidecar.unlink(missing_ok=True)
            publish(written, path)
        finally:
            written.unlink(missing_ok=True)
        copy = replace(copy, sums=tuple(sums), reach=reach)
        _tell(snapshot, files, copy)
        return _again(files, copy)


def _kept(files: CollectionFiles, snapshot: Snapshot, copy: SavedCopy) -> int | None:
    """How many of the chunks are in the file already, every byte of it checked; None: it has to be replaced."""
    old = load(snapshot, files)
    if old is None or (_parameters(old.coder), old.first) != (_parameters(copy.coder), copy.first):
        return None
    shared = min(len(old.sums), len(copy.sums))
    return len(old.sums) if old.sums[:shared] == copy.sums[:shared] else None


def _tell(snapshot: Snapshot, files: CollectionFiles, copy: SavedCopy) -> None:
    vectors = snapshot.state.vectors
    told = {
        "format": _FORMAT,
        "version": _VERSION,
        "collection_id": snapshot.state.collection_id,
        "dims": copy.coder.dims,
        "fitted": copy.fitted,
        "first": copy.first,
        "rows": len(copy.sums) * CHUNK,
        "reach": list(copy.reach),
        "seen": vectors,
        "lineage": snapshot.lineage(vectors),
        "parameters": zlib.crc32(_parameters(copy.coder)),
        "chunks": list(copy.sums),
    }
    write_atomically(files.exact_sidecar, (json.dumps(told) + "\n").encode())


def _again(files: CollectionFiles, copy: SavedCopy) -> SavedCopy:
    dims, count = copy.coder.dims, len(copy.sums)
    content = _mapped(files.exact_codes, _start(dims) + count * _layout(dims).chunk_bytes)
    return replace(copy, chunks=_cut(content, dims))


def _sidecar(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    numbers = ("dims", "fitted", "first", "rows", "seen", "parameters")
    sound = all(type(found.get(name)) is int for name in numbers) and found["dims"] > 0
    reach, chunks = found.get("reach"), found.get("chunks")
    sound = sound and isinstance(reach, list) and [type(r) for r in reach] == [float, float]
    sound = sound and isinstance(chunks, list) and all(type(crc) is int for crc in chunks)
    return found if sound and len(chunks or ()) * CHUNK == found["rows"] else None


def _misfit(found: dict[str, Any], snapshot: Snapshot) -> str | None:
    """Why a sidecar does not belong to the store; None: it does."""
    state = snapshot.state
    expected = {
        "format": _FORMAT,
        "version": _VERSION,
        "collection_id": state.collection_id,
        "dims": snapshot.fine.layout.dims,
    }
    for name, value in expected.items():
        if found.get(name) != value:
            return f"its {name} is {found.get(name)!r}, expected {value!r}"
    end = found["first"] + found["rows"]
    if end <= state.first:
        return None
    if not 0 <= found["first"] <= state.first or not end <= found["seen"] <= state.vectors:
        return f"it covers the vectors {found['first']} to {end}, stored are {state.first} to {state.vectors}"
    if found.get("lineage") is None or found["lineage"] != snapshot.lineage(found["seen"]):
        return f"the vectors up to {found['seen']} had another history than those stored"
    return None


def _warn(files: CollectionFiles, why: str) -> None:
    logger.warning("%s is not used, %s; it is made again from the stored vectors", files.exact_codes, why)


def _layout(dims: int) -> Layout:
    return Layout(*parts(dims))


def _start(dims: int) -> int:
    """Where the first chunk begins."""
    return 12 * dims + -12 * dims % _PAGE


def _parameters(coder: Coder) -> bytes:
    values = (coder.mean.astype("<f4"), coder.spread.astype("<f4"), coder.order.astype("<i4"))
    return b"".join(value.tobytes() for value in values).ljust(_start(coder.dims), b"\0")


def _coder(content: ByteArray, dims: int) -> Coder:
    mean, spread, order = content[: 12 * dims].reshape(3, 4 * dims).copy()
    return Coder(mean.view("<f4"), spread.view("<f4"), order.view("<i4"))


def _mapped(path: Path, size: int) -> ByteArray:
    """The first ``size`` bytes of a file. A file of fewer is refused: touching what is not there kills the process."""
    with path.open("rb") as file:
        if (there := os.fstat(file.fileno()).st_size) < size:
            raise ValueError(f"it has {there} bytes, expected {size}")
        return np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), dtype=np.uint8)


def _cut(content: ByteArray, dims: int) -> tuple[ByteArray, ...]:
    return tuple(content[_start(dims) :].reshape(-1, _layout(dims).chunk_bytes))
