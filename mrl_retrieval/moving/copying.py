"""A copy of a collection in another database, vectors and all; no encoder is called."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace

import numpy as np

from ..backend import Backend
from ..documents import RowBatch
from ..errors import ConflictError, InvalidInput
from ..generations import check_stays
from ..manifest import Manifest
from ..matryoshka import FloatArray
from ..rotations import check_fits, load, save
from .passes import Mover, Progress, bring_over, equal_json

__all__ = ["CopyReport", "copy_collection", "loss"]

_PRECISION = {"float32": 1e-6, "float16": 5e-4, "int8": 8e-3}
"""How far a component of a unit vector may be from what was written, by the dtype it is stored in."""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What a copy did."""

    source: str
    target: str
    rows: int
    """Rows in the source, and now in the target; every one was read back and compared."""
    vectors: int
    """Rows that have a vector."""
    written: int
    """Rows written by this call; fewer than ``rows`` where an earlier one was interrupted."""
    removed: int
    """Rows removed from the target because the source no longer has them."""
    loss: str | None
    """What the stored vectors lost of their precision, or None."""


def copy_collection(
    source: Backend,
    target: Backend,
    *,
    allow_lossy: bool = False,
    batch_size: int = 1000,
    progress: Progress = False,
) -> CopyReport:
    """Make ``target`` a collection with the rows, vectors, dims and encoder of ``source``.

    Args:
        source: open, and not changed.
        target: open; there is no collection in it yet, or an unfinished or earlier copy of the same source.
        allow_lossy: copy even where one side stores vectors with less precision than the other.
        batch_size: rows read and written at a time.
        progress: True draws a bar on stderr; a function is called with rows done and their total.

    Raises:
        CollectionNotFound: the source is empty of any collection.
        ConflictError: the target holds something else, or the source was written to during every pass.
        InvalidInput: both are the same collection, or precision would be lost and ``allow_lossy`` is False.
    """
    manifest = source.read_manifest() or source.manifest  # the latter says what is missing
    if manifest.moved_to is not None:
        check_stays(manifest, str(source.address))
    if not (manifest.origin or {}).get("complete", True):
        raise ConflictError(
            f"{source.address} is not finished itself: rows of {(manifest.origin or {}).get('source')} are "
            "missing; run the command that makes it again"
        )
    target.read_manifest()  # what is there already decides how it stores vectors
    lossy = loss(source, target)
    if lossy and not allow_lossy:
        raise InvalidInput(f"{lossy}; allow_lossy=True (--allow-lossy) copies all the same")
    if manifest.rotation is not None:
        check_fits(load(source, manifest), target, manifest.dim, manifest.fine_dims)
    started = _begin(source, target, manifest)
    if manifest.rotation is not None:
        save(target, load(source, manifest))
    mover = _Copy(_PRECISION.get(target.capabilities.vector_dtype, _PRECISION["float32"]))
    moved = bring_over(source, target, mover, batch_size=batch_size, started=started, progress=progress)
    made = target.read_manifest()
    if made is not None and made.origin is not None:
        target.write_manifest(replace(made, origin=made.origin | {"complete": True}), made)
    target.flush()
    return CopyReport(
        str(source.address), str(target.address), moved.rows, moved.vectors, moved.written, moved.removed, lossy
    )


def loss(source: Backend, target: Backend) -> str | None:
    """What a copy between the two loses, or has lost already, in words; None: nothing."""
    ours, theirs = source.capabilities.vector_dtype, target.capabilities.vector_dtype
    if ours == theirs:
        return None
    if theirs != "float32":
        return (
            f"{target.address} stores vectors as {theirs}, {source.address} as {ours}: they would be rounded. A target "
            f"that stores {ours} takes them as they are"
        )
    return f"{source.address} stores vectors as {ours}: {target.address} would hold these rounded ones as {theirs}"


def _begin(source: Backend, target: Backend, manifest: Manifest) -> bool:
    """Make the target's manifest. Whether there was a copy of this source already."""
    found = target.read_manifest()
    if found is None:
        origin = {"source": str(source.address), "source_id": manifest.collection_id, "complete": False}
        made = replace(
            manifest,
            collection_id=str(uuid.uuid4()),
            origin=origin,
            plan=None,
            previous=None,
            frozen=None,
            reindexing=None,
        )
        target.write_manifest(made, None)
        return False
    check_stays(found, str(target.address))
    if found.collection_id == manifest.collection_id:
        raise InvalidInput(f"{source.address} and {target.address} are the same collection: give another target")
    origin = found.origin or {}
    if origin.get("source_id") != manifest.collection_id:
        raise ConflictError(
            f"{target.address} holds another collection already, which is no copy of {source.address}: copy to "
            "another address, or drop it first"
        )
    if origin.get("complete"):
        target.write_manifest(replace(found, origin=origin | {"complete": False}), found)
    return True


class _Copy(Mover):
    """Rows as they are."""

    vectors = True

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance

    def missing(self, batch: RowBatch, target: Backend) -> list[int]:
        stored = target.get(batch.ids, vectors=True)
        return [
            i
            for i, (row, other) in enumerate(zip(batch.rows(), stored, strict=True))
            if other is None
            or other.document != row.document
            or not equal_json(other.metadata, row.metadata)
            or not self._close(other.vector, row.vector)
        ]

    def converted(self, batch: RowBatch) -> RowBatch:
        return batch

    def _close(self, a: FloatArray | None, b: FloatArray | None) -> bool:
        if a is None or b is None:
            return a is b
        return a.shape == b.shape and float(np.abs(a - b).max(initial=0)) <= self._tolerance
