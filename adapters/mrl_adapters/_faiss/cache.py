"""The cache file of the coarse index, and its sidecar, which says what the file must look like to be believed.

It saves making the index again. It is used only if its checksum is right and its history fits the store; what is wrong
with it is logged, and the index made again from the stored vectors.
"""

from __future__ import annotations

import json
import logging
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.matryoshka import prefix
from mrl_retrieval.storage import CollectionFiles, Snapshot
from mrl_retrieval.storage.files import os_errors, publish, temporary, write_atomically
from mrl_retrieval.storage.state import State

from .coded import CodedStructure
from .flat import FlatStructure
from .gpu import GPUStructure
from .graph import GraphStructure
from .hnsw import HNSWStructure
from .structure import Structure

__all__ = ["Cached", "cache_problem", "described", "load", "rows_in_cache", "save"]

logger = logging.getLogger(__name__)

_FORMAT = "mrl-coarse"
_VERSION = 3
_STRUCTURES: dict[str, type[Structure]] = {
    structure.kind: structure
    for structure in (FlatStructure, CodedStructure, HNSWStructure, GraphStructure, GPUStructure)
}
_BLOCK = 8192


@dataclass(frozen=True, slots=True)
class Cached:
    """What was in the cache file."""

    structure: Structure
    first: int
    """Number of the vector whose prefix is in the first place."""
    chosen: dict[str, Any]
    """How the structure was chosen; see :class:`~.choosing.Choice`."""


def save(structure: Structure, first: int, chosen: dict[str, Any], snapshot: Snapshot, files: CollectionFiles) -> None:
    """Write the cache file, then what it must look like. The caller holds the writer lock, and the snapshot fits."""
    with os_errors(f"writing {files.index}"):
        written = temporary(files.index)
        try:
            structure.write(written)
            content = _mapped(written)
            sidecar = {
                "format": _FORMAT,
                "version": _VERSION,
                "collection_id": snapshot.state.collection_id,
                "coarse_dims": structure.dims,
                "kind": structure.kind,
                "first": first,
                "rows": structure.count,
                "lineage": snapshot.lineage(first + structure.count),
                "bytes": len(content),
                "crc32": zlib.crc32(content.data),
                "chosen": chosen,
                "details": dict(structure.details()),
                "memory_bytes": structure.nbytes,
            }
            # Killed between the two, there is an index without a sidecar, which is none: nothing looks damaged.
            files.sidecar.unlink(missing_ok=True)
            publish(written, files.index)
            write_atomically(files.sidecar, (json.dumps(sidecar) + "\n").encode())
        finally:
            written.unlink(missing_ok=True)


def cache_problem(snapshot: Snapshot, files: CollectionFiles) -> str | None:
    """What is wrong with the cache file: checked against its sidecar, and against the stored vectors themselves. None:
    nothing, or there is no such file."""
    found = _sidecar(files)
    if not files.sidecar.exists() or (found is not None and _is_outdated(found, snapshot.state)):
        return None
    loaded = load(snapshot, files)
    if loaded is None:
        return f"{files.index} does not fit the store, expected an index of its vectors"
    structure, first = loaded.structure, loaded.first
    # Below snapshot.state.first the vectors are gone, and so are the rows.
    for start in range(snapshot.state.first, first + structure.count, _BLOCK):
        stop = min(start + _BLOCK, first + structure.count)
        if structure.differing(start - first, prefix(snapshot.fine.read(start, stop), structure.dims)):
            return f"{files.index} holds other prefixes than those of the vectors {start} to {stop - 1}"
    return None


def described(files: CollectionFiles) -> tuple[dict[str, Any], int | None]:
    """What the sidecar tells of the index, for people to read: its details, and its bytes in memory."""
    found = _sidecar(files) or {}
    details, bytes_ = found.get("details"), found.get("memory_bytes")
    return details if isinstance(details, dict) else {}, bytes_ if isinstance(bytes_, int) else None


def rows_in_cache(files: CollectionFiles, collection_id: str) -> int:
    """Up to which number the cache file claims to cover the vectors of this collection; 0 where it cannot be told."""
    found = _sidecar(files)
    return int(found["first"] + found["rows"]) if found and found.get("collection_id") == collection_id else 0


def load(snapshot: Snapshot, files: CollectionFiles) -> Cached | None:
    """What the cache file holds. None where it is missing, damaged, or does not belong to the store."""
    if not files.sidecar.exists():
        return None
    state, found = snapshot.state, _sidecar(files)
    if found is None:
        return _distrusted(files, "its sidecar cannot be read")
    expected = {
        "format": _FORMAT,
        "version": found["version"] if found.get("version") in (1, 2) else _VERSION,
        "collection_id": state.collection_id,
        "coarse_dims": state.coarse_dims,
    }
    for name, value in expected.items():
        if found.get(name) != value:
            return _distrusted(files, f"its {name} is {found.get(name)!r}, expected {value!r}")
    kind = _STRUCTURES.get(found["kind"])
    if kind is None:
        return _distrusted(files, f"its kind is {found['kind']!r}, expected one of {sorted(_STRUCTURES)}")
    first, rows = found["first"], found["rows"]
    end = first + rows
    if _is_outdated(found, state):
        logger.info("%s is not used: all that it covers was compacted away", files.index)
        return None
    if not 0 <= first <= state.first or not state.first <= end <= state.vectors or rows < 1:
        return _distrusted(
            files, f"it covers the vectors {first} to {end}, stored are {state.first} to {state.vectors}"
        )
    if found.get("lineage") != snapshot.lineage(end):
        return _distrusted(files, f"the vectors {first} to {end} that it covers have another history than those stored")
    try:
        content = _mapped(files.index)
    except (OSError, ValueError) as error:
        return _distrusted(files, f"it cannot be read: {error}")
    if (len(content), zlib.crc32(content.data)) != (found["bytes"], found.get("crc32")):
        return _distrusted(files, "its checksum is wrong")
    try:
        # From the very bytes that were checked: what is read must never be others.
        structure = kind.read(content)
    except ValueError as error:
        return _distrusted(files, str(error))
    if (structure.dims, structure.count) != (state.coarse_dims, rows):
        return _distrusted(files, f"it is of {structure.count} vectors of {structure.dims} dims")
    return Cached(structure, first, found["chosen"])


def _sidecar(files: CollectionFiles) -> dict[str, Any] | None:
    try:
        found = json.loads(files.sidecar.read_bytes())
    except (OSError, ValueError):
        return None
    if isinstance(found, dict):
        found.setdefault("first", 0)  # sidecars of version 1 have none
        found.setdefault("kind", FlatStructure.kind)  # those of version 2 neither this
        found.setdefault("chosen", {})
        sizes = all(type(found.get(name)) is int for name in ("first", "rows", "bytes"))
        if sizes and isinstance(found["kind"], str) and isinstance(found["chosen"], dict):
            return found
    return None


def _is_outdated(sidecar: dict[str, Any], state: State) -> bool:
    """Whether a cache file covers no vector that is left: nothing is the matter with it, it is of no use."""
    return sidecar.get("collection_id") == state.collection_id and sidecar["first"] + sidecar["rows"] <= state.first


def _distrusted(files: CollectionFiles, why: str) -> Cached | None:
    logger.warning("%s is not used, %s; the index is made again from the stored vectors", files.index, why)
    return None


def _mapped(path: Path) -> npt.NDArray[np.uint8]:
    """The bytes of a file; what is changed in them stays in this process."""
    return np.memmap(path, dtype=np.uint8, mode="c").view(np.ndarray)
