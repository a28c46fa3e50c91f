"""Moving a collection from one database to another, vectors and all; no encoder is called.

A copy is made in passes. A pass reads the source batch by batch and writes what the target does not hold in the same
form; passes go on until one finds nothing to write and both sides hold as many rows. So the last pass is a check of
every row, a copy that was interrupted is taken up by running it again, and rows that were written to the source
meanwhile arrive too.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from .backend import Backend
from .documents import RowBatch
from .errors import ConflictError, InvalidInput
from .manifest import Manifest
from .matryoshka import FloatArray
from .progress import progress_report
from .retrying import repeated

__all__ = ["CopyReport", "copy_collection", "loss"]

logger = logging.getLogger(__name__)

_MOST_PASSES = 10

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
    progress: bool | Callable[[int, int | None], None] = False,
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
    manifest = source.manifest
    target.read_manifest()  # what is there already decides how it stores vectors
    lossy = loss(source, target)
    if lossy and not allow_lossy:
        raise InvalidInput(f"{lossy}; allow_lossy=True (--allow-lossy) copies all the same")
    started = _begin(source, target, manifest)
    total = source.count()
    tolerance = _PRECISION.get(target.capabilities.vector_dtype, _PRECISION["float32"])
    written = removed = 0
    for number in range(_MOST_PASSES):
        with progress_report(progress, range(total)) as report:
            n, rows, vectors = _write_differing(source, target, tolerance, batch_size, number > 0 or started, report)
        gone = _remove_others(source, target, batch_size) if target.count() != rows else 0
        written, removed = written + n, removed + gone
        if n == gone == 0 and target.count() == rows == source.count():
            _finish(target)
            return CopyReport(str(source.address), str(target.address), rows, vectors, written, removed, lossy)
    raise ConflictError(
        f"{source.address} was written to during each of {_MOST_PASSES} passes, so that {target.address} is still "
        "behind: stop the writers, and run the copy again; what is there is kept"
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
        made = replace(manifest, collection_id=str(uuid.uuid4()), origin=origin, plan=None)
        target.write_manifest(made, None)
        return False
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


def _finish(target: Backend) -> None:
    manifest = target.read_manifest()
    if manifest is not None and manifest.origin is not None:
        target.write_manifest(replace(manifest, origin=manifest.origin | {"complete": True}), manifest)
    target.flush()


def _write_differing(
    source: Backend,
    target: Backend,
    tolerance: float,
    batch_size: int,
    compare: bool,
    report: Callable[[int], None],
) -> tuple[int, int, int]:
    """One pass: rows written, rows seen, rows with a vector seen."""
    written = seen = vectors = 0
    for batch in _batches(source, batch_size):
        kept = _differing(batch, target, tolerance) if compare else list(range(len(batch)))
        if kept:
            part = _part(batch, kept)
            repeated(partial(target.upsert, part), f"writing {len(part)} rows to {target.address}")
        written, seen, vectors = written + len(kept), seen + len(batch), vectors + int(batch.has_vector.sum())
        report(seen)
    return written, seen, vectors


def _batches(source: Backend, size: int) -> Iterator[RowBatch]:
    for batch in source.scan(vectors=True, batch_size=size):
        if len(batch):
            yield batch


def _differing(batch: RowBatch, target: Backend, tolerance: float) -> list[int]:
    """Positions of the rows that the target does not hold as they are."""
    kept = []
    for i, (row, stored) in enumerate(zip(batch.rows(), target.get(batch.ids, vectors=True), strict=True)):
        same = (
            stored is not None
            and stored.document == row.document
            and _equal(stored.metadata, row.metadata)
            and _close(stored.vector, row.vector, tolerance)
        )
        if not same:
            kept.append(i)
    return kept


def _equal(a: Any, b: Any) -> bool:
    """Equal with their types: 1, 1.0 and True are three values."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


def _close(a: FloatArray | None, b: FloatArray | None, tolerance: float) -> bool:
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and float(np.abs(a - b).max(initial=0)) <= tolerance


def _part(batch: RowBatch, kept: list[int]) -> RowBatch:
    if len(kept) == len(batch):
        return batch
    return RowBatch(
        [batch.ids[i] for i in kept],
        [batch.documents[i] for i in kept],
        [batch.metadatas[i] for i in kept],
        None if batch.vectors is None else batch.vectors[kept],
        batch.has_vector[kept],
    )


def _remove_others(source: Backend, target: Backend, batch_size: int) -> int:
    """Delete from the target what the source does not have."""
    removed = 0
    listed = [id for batch in target.scan(documents=False, batch_size=batch_size) for id in batch.ids]
    for start in range(0, len(listed), batch_size):
        ids = listed[start : start + batch_size]
        others = [id for id, row in zip(ids, source.get(ids), strict=True) if row is None]
        removed += target.delete(others) if others else 0
    return removed
