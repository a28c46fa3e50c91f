"""The coarse index of the ``faiss`` backend: FAISS over prefixes, following a store, and its cache file.

The index holds the renormalised prefix of every vector at the vector's own position. Positions never move, so what
is in the index stays right for ever; what was deleted stays in it too, behind a selector. The cache file saves adding
everything again; it is believed only if its checksum and its history fit the store.
"""

from __future__ import annotations

import contextlib
import json
import logging
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.errors import BackendError, MissingExtra
from mrl_retrieval.matryoshka import FloatArray, prefix
from mrl_retrieval.storage import CollectionFiles, Snapshot
from mrl_retrieval.storage.files import os_errors, publish, temporary, write_atomically

try:
    import faiss
except ImportError as error:
    raise MissingExtra("the faiss backend", "faiss") from error

__all__ = ["CoarseIndex", "after_fork", "rows_in_cache"]

logger = logging.getLogger(__name__)

Mask = npt.NDArray[np.bool_]
Found = tuple[FloatArray, npt.NDArray[np.int64]]

# FAISS's Python layer takes arrays and keywords that the declarations of its C++ classes do not know.
_untyped: Any = faiss

_BLOCK = 8192
_VERSION = 1


@dataclass(frozen=True, slots=True)
class CoarseIndex:
    """The index as it stands for one generation of a store."""

    index: Any
    """A FAISS index, shared with the objects for later generations: only add to it while nobody searches."""
    collection_id: str
    generation: int
    live: Mask
    """(vectors,): whether the row at this position is there."""
    bits: npt.NDArray[np.uint8]
    """``live`` as a FAISS bitmap."""
    alive: int
    cache_is_bad: bool = False
    """Whether a cache file was found that could not be used."""

    @property
    def dims(self) -> int:
        """Length of the prefixes."""
        return int(self.index.d)

    def fits(self, snapshot: Snapshot) -> bool:
        """Whether it stands for exactly this snapshot."""
        state = snapshot.state
        return self.generation == state.generation and self.collection_id == state.collection_id

    def search(self, queries: FloatArray, limit: int, allowed: Mask | None) -> Found:
        """Scores and positions of the best ``limit`` prefixes of each query (Q, dims), best first.

        Args:
            queries: unit or zero rows.
            limit: at least 1; fewer come back where there are not so many.
            allowed: (vectors,) which positions take part, live ones only; None: all live ones.
        """
        bits, count = self.bits, self.alive
        if allowed is not None:
            bits, count = np.packbits(allowed, bitorder="little"), int(np.count_nonzero(allowed))
        limit = min(limit, count)
        if not limit or not len(queries):
            return np.empty((len(queries), 0), dtype=np.float32), np.empty((len(queries), 0), dtype=np.int64)
        params = None
        if count < self.index.ntotal:
            # FAISS reads `bits` where it lies; this frame keeps it there until the search is over.
            params = _untyped.SearchParameters(sel=_untyped.IDSelectorBitmap(bits))
        with _faiss_errors("searching"):
            scores, positions = self.index.search(queries, limit, params=params)
        return scores, positions

    @staticmethod
    def follow(snapshot: Snapshot, before: CoarseIndex | None, files: CollectionFiles) -> CoarseIndex:
        """The index for a snapshot: made from an earlier one, or from the cache file, or from nothing.

        Nobody may be searching ``before`` meanwhile.
        """
        state = snapshot.state
        if before is None or (before.collection_id, before.dims) != (state.collection_id, state.coarse_dims):
            index = _load(snapshot, files)
            bad = index is None and files.sidecar.exists()
            if index is None:
                index = faiss.IndexFlatIP(state.coarse_dims)
            known, generation = np.empty(0, dtype=np.bool_), -1
        else:
            index, known, generation, bad = before.index, before.live, before.generation, before.cache_is_bad
        for start in range(index.ntotal, state.vectors, _BLOCK):
            vectors = snapshot.fine.read(start, min(start + _BLOCK, state.vectors))
            with _faiss_errors("adding vectors"):
                index.add(prefix(vectors, state.coarse_dims))
        live = np.ones(state.vectors, dtype=np.bool_)
        live[: len(known)] = known
        live[snapshot.tombstones(generation)] = False
        bits = np.packbits(live, bitorder="little")
        alive = int(np.count_nonzero(live))
        return CoarseIndex(index, state.collection_id, state.generation, live, bits, alive, bad)

    def save(self, snapshot: Snapshot, files: CollectionFiles) -> None:
        """Write the cache file, then what it must look like. The caller holds the writer lock and the snapshot fits."""
        with os_errors(f"writing {files.index}"):
            written = temporary(files.index)
            try:
                with _faiss_errors("writing the index"):
                    faiss.write_index(self.index, str(written))
                content = _mapped(written)
                sidecar = {
                    "format": "mrl-coarse",
                    "version": _VERSION,
                    "collection_id": self.collection_id,
                    "coarse_dims": self.dims,
                    "rows": int(self.index.ntotal),
                    "lineage": snapshot.lineage(self.index.ntotal),
                    "bytes": len(content),
                    "crc32": zlib.crc32(content.data),
                }
                publish(written, files.index)
                write_atomically(files.sidecar, (json.dumps(sidecar) + "\n").encode())
            finally:
                written.unlink(missing_ok=True)


def rows_in_cache(files: CollectionFiles, collection_id: str) -> int:
    """How many vectors the cache file claims to cover for this collection; 0 where it cannot be told."""
    found = _sidecar(files)
    return int(found["rows"]) if found and found.get("collection_id") == collection_id else 0


def _sidecar(files: CollectionFiles) -> dict[str, Any] | None:
    try:
        found = json.loads(files.sidecar.read_bytes())
    except (OSError, ValueError):
        return None
    if isinstance(found, dict) and type(found.get("rows")) is int and type(found.get("bytes")) is int:
        return found
    return None


def _load(snapshot: Snapshot, files: CollectionFiles) -> Any | None:
    """The index in the cache file, or None where it is not there, damaged, or does not belong to the store."""
    if not files.sidecar.exists():
        return None
    state, found = snapshot.state, _sidecar(files)
    if found is None:
        _distrust(files, "its sidecar cannot be read")
        return None
    expected = {
        "format": "mrl-coarse",
        "version": _VERSION,
        "collection_id": state.collection_id,
        "coarse_dims": state.coarse_dims,
    }
    for name, value in expected.items():
        if found.get(name) != value:
            _distrust(files, f"its {name} is {found.get(name)!r}, expected {value!r}")
            return None
    rows = found["rows"]
    if not 0 < rows <= state.vectors or found.get("lineage") != snapshot.lineage(rows):
        _distrust(files, f"it covers {rows} vectors of another history than the {state.vectors} stored ones")
        return None
    try:
        content = _mapped(files.index)
    except (OSError, ValueError) as error:
        _distrust(files, f"it cannot be read: {error}")
        return None
    if (len(content), zlib.crc32(content.data)) != (found["bytes"], found.get("crc32")):
        _distrust(files, "its checksum is wrong")
        return None
    try:
        # From the very bytes that were checked: FAISS must never see others.
        index = faiss.deserialize_index(content)
    except RuntimeError as error:
        _distrust(files, f"FAISS refuses it: {error}")
        return None
    if not isinstance(index, faiss.IndexFlatIP) or (index.d, index.ntotal) != (state.coarse_dims, rows):
        _distrust(files, f"it is a {type(index).__name__} of {index.ntotal} vectors of {index.d} dims")
        return None
    return index


def _distrust(files: CollectionFiles, why: str) -> None:
    logger.warning("%s is not used, %s; the index is made again from the stored vectors", files.index, why)


def _mapped(path: Path) -> npt.NDArray[np.uint8]:
    return np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)


def after_fork() -> None:
    """Keep FAISS usable in a forked child: the threads that OpenMP keeps for the forking thread are not there, and a
    search that counts on them would wait for ever. Other threads of the child make their own."""
    faiss.omp_set_num_threads(1)


@contextlib.contextmanager
def _faiss_errors(doing: str) -> Iterator[None]:
    """Turn FAISS's errors into ours: the one place where that happens."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        raise BackendError(f"{doing} failed, FAISS says: {error}") from error
