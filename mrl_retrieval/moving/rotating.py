"""Storing a collection anew with a rotation that is fitted on its own vectors; no encoder is called.

As with reindexing, the new generation is a collection beside the old one, which serves searches until the new one is
whole, and stays for a rollback. Before anything is written, a part of the collection is measured both ways.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import rotations
from .._version import __version__
from ..backend import Backend
from ..documents import RowBatch
from ..errors import ConflictError
from ..generations import check_there, generation_names, next_generation_name
from ..manifest import Manifest
from ..matryoshka import FloatArray
from ..registry import open_backend
from ..rotation import Rotation
from ..settings import check_positive
from .measuring import Measurement, fitted, given, measured
from .passes import Mover, Progress, equal_json
from .switching import Turn, clear_up, generations, move_over, replace_manifest

__all__ = ["RotateReport", "rotate"]

logger = logging.getLogger(__name__)

_PRECISION = {"float32": 1e-6, "float16": 1e-3, "int8": 2e-2}
"""How far a component may be from what was written, by the dtype it is stored in: rounded twice."""


@dataclass(frozen=True, slots=True)
class RotateReport:
    """What a rotating did."""

    address: str
    generation: str
    """Name of the collection that holds the rows now."""
    previous: str | None
    """Name of the one that held them, and still does: a rollback goes back to it. None: there is none."""
    rows: int
    written: int
    """Rows written by this call."""
    fingerprint: str | None
    """Of the rotation that the collection has now; None: it has none."""
    coverage: float | None
    """Share of the true top 10 among 100 candidates at ``coarse_dims``, before, for documents that were taken out.
    None: not measured, since the rotation was given, or an interrupted run was taken up."""
    rotated_coverage: float | None
    """The same with the new rotation."""
    untouched: bool = False
    """Whether nothing was done, since prefixes would not have found more."""


def rotate(
    address: str,
    rotation: Rotation | None = None,
    *,
    force: bool = False,
    batch_size: int = 1000,
    progress: Progress = False,
    backend_options: Mapping[str, Any] | None = None,
) -> RotateReport:
    """Store a collection anew with a rotation, where its prefixes then find more, and switch to the result at once.

    Scores of full vectors stay, as exactly as vectors are stored. Searches go on meanwhile, and writes until the last
    pass; retrievers that are open keep the old generation until they are opened again. An interrupted call is taken up
    by repeating it.

    Args:
        address: of the collection; a place that can be opened twice, so not an unnamed one in memory.
        rotation: None: fitted on all vectors of the collection, of which there have to be ten for each dim.
        force: rotate even where it was not measured to help.
        batch_size: rows read and written at a time.
        progress: True draws a bar on stderr; a function is called with rows done and their total.
        backend_options: of the backend at ``address``.

    Raises:
        CollectionNotFound: there is none.
        InvalidInput: there are too few vectors to fit a rotation on, or they are not stored whole.
        NotSupported: the backend cannot keep a rotation.
        ConflictError: a reindexing is not finished, another rotating was faster, or it was written to all the time.
    """
    size = check_positive(batch_size, "batch_size")
    with generations(address, backend_options) as (base, current):
        check_there(current, base)
        clear_up(base, current, backend_options)
        old = current.manifest
        rotations.check_possible(current, old.dim, old.fine_dims)
        before = None if old.rotation is None else rotations.load(current, old)
        begun = _begun(base, current, backend_options)
        measurement: Measurement | None = None
        if begun is not None and (rotation is None or rotation.fingerprint == begun[1].fingerprint):
            rotation = begun[1]  # an interrupted run goes on with what it had found
        else:
            begun = None
            if rotation is None:
                rotation = fitted(current, before, size)
                measurement = measured(current, before, size)
                if not measurement.helps and not force:
                    _note(current, measurement)
                    return _untouched(base, current, before, measurement)
        rotations.check_fits(rotation, current, old.dim, old.fine_dims)
        # A new name, whatever was begun with another rotation: whoever began it may be about to finish it.
        name = next_generation_name(base.address.collection, base.collections()) if begun is None else begun[0]
        with open_backend(base.address.with_collection(name), **(backend_options or {})) as target:
            if begun is None:
                _make(base, current, target, rotation, measurement)
            tolerance = _PRECISION.get(target.capabilities.vector_dtype, 1e-6)
            moved = move_over(
                base,
                current,
                target,
                lambda turn: _Rotate(before, rotation, tolerance, turn),
                batch_size=size,
                started=begun is not None,
                progress=progress,
                options=backend_options,
            )
        return RotateReport(
            address=str(base.address),
            generation=name,
            previous=current.address.collection,
            rows=moved.rows,
            written=moved.written,
            fingerprint=rotation.fingerprint,
            coverage=None if measurement is None else measurement.coverage,
            rotated_coverage=None if measurement is None else measurement.rotated_coverage,
        )


def _note(current: Backend, measurement: Measurement) -> None:
    """Have the collection remember that a rotation did not help."""
    try:
        replace_manifest(current, rotation_measured=measurement.to_json())
    except ConflictError:  # somebody else changed the manifest just now: it is measured again some time
        logger.info("%s was changed meanwhile, and does not remember what was measured", current.address)


def _untouched(base: Backend, current: Backend, before: Rotation | None, measurement: Measurement) -> RotateReport:
    return RotateReport(
        address=str(base.address),
        generation=current.address.collection,
        previous=base.manifest.previous,
        rows=current.count(),
        written=0,
        fingerprint=None if before is None else before.fingerprint,
        coverage=measurement.coverage,
        rotated_coverage=measurement.rotated_coverage,
        untouched=True,
    )


class _Rotate(Mover):
    """Rows with their vectors rotated."""

    vectors = True

    def __init__(self, before: Rotation | None, after: Rotation, tolerance: float, turn: Turn) -> None:
        self._before, self._after, self._tolerance, self._turn = before, after, tolerance, turn

    def check(self, target: Backend) -> None:
        self._turn.check()

    def missing(self, batch: RowBatch, target: Backend) -> list[int]:
        wanted = self.converted(batch).rows()
        return [
            i
            for i, (row, other) in enumerate(zip(wanted, target.get(batch.ids, vectors=True), strict=True))
            if other is None
            or other.document != row.document
            or not equal_json(other.metadata, row.metadata)
            or not self._close(other.vector, row.vector)
        ]

    def converted(self, batch: RowBatch) -> RowBatch:
        assert batch.vectors is not None
        return replace(batch, vectors=self._after.apply(given(batch.vectors, self._before)))

    def _close(self, a: FloatArray | None, b: FloatArray | None) -> bool:
        if a is None or b is None:
            return a is b
        return float(np.abs(a - b).max(initial=0)) <= self._tolerance


def _begun(base: Backend, current: Backend, options: Mapping[str, Any] | None) -> tuple[str, Rotation] | None:
    """Name and rotation of the generation that an earlier run has begun.

    Raises:
        ConflictError: a reindexing is not finished.
    """
    for name in reversed(generation_names(base.address.collection, base.collections())):
        with open_backend(base.address.with_collection(name), **(options or {})) as one:
            manifest = one.read_manifest()
            origin = (manifest.origin if manifest else None) or {}
            if (
                manifest is None
                or origin.get("complete", True)
                or origin.get("source_id") != current.manifest.collection_id
            ):
                continue
            if not origin.get("rotating"):
                if base.manifest.reindexing is None:
                    continue  # it was called off
                raise ConflictError(
                    f"a reindexing of {base.address} is not finished: run it again first, or call it off with "
                    "rollback() (mrl reindex --rollback)"
                )
            if manifest.rotation is not None and one.read_attachment(rotations.ATTACHMENT) is not None:
                return name, rotations.load(one, manifest)
    return None


def _make(
    base: Backend, current: Backend, target: Backend, rotation: Rotation, measurement: Measurement | None
) -> None:
    old = current.manifest
    origin = {
        "base": base.address.collection,
        "source": str(current.address),
        "source_id": old.collection_id,
        "complete": False,
        "rotating": True,
    }
    made = Manifest(
        dim=old.dim,
        coarse_dims=old.coarse_dims,
        fine_dims=old.fine_dims,
        funnel_dims=old.funnel_dims,
        encoder=old.encoder,
        canaries=old.canaries,
        metric=old.metric,
        rotation=rotations.told(rotation),
        rotation_measured=None if measurement is None else measurement.to_json(),
        origin=origin,
        created_with=__version__,
    )
    target.write_manifest(made, None)
    rotations.save(target, rotation)
