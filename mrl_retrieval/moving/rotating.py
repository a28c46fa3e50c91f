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
from ..diagnosis import diagnose_vectors
from ..documents import RowBatch
from ..errors import InvalidInput
from ..generations import check_there, generation_name, generation_names
from ..manifest import Manifest
from ..matryoshka import FloatArray
from ..registry import open_backend
from ..rotation import PER_DIM, Rotation, SecondMoment
from ..settings import check_positive
from .passes import Mover, Progress, bring_over, equal_json
from .switching import Turn, clear_up, generations

__all__ = ["RotateReport", "rotate"]

logger = logging.getLogger(__name__)

_MEASURED = 20_000
"""Vectors of the part that is measured, at most."""
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
        ConflictError: a reindexing is under way, or it was written to all the time.
    """
    size = check_positive(batch_size, "batch_size")
    with generations(address, backend_options) as (base, current):
        check_there(current, base)
        clear_up(base, current, backend_options)
        old = current.manifest
        before = None if old.rotation is None else rotations.load(current, old)
        name, began = _target_name(base, current, backend_options)
        coverages: tuple[float, float] | None = None
        if began is not None and (rotation is None or rotation.fingerprint == began.fingerprint):
            rotation = began  # an interrupted run goes on with what it had found
        elif rotation is None:
            rotation = _fitted(current, before, size)
            coverages = _coverages(current, before, size)
            if coverages[1] <= coverages[0] and not force:
                held = None if before is None else before.fingerprint
                kept, previous, rows = current.address.collection, base.manifest.previous, current.count()
                return RotateReport(str(base.address), kept, previous, rows, 0, held, *coverages, untouched=True)
        rotations.check_fits(rotation, current, old.dim, old.fine_dims)
        with open_backend(base.address.with_collection(name), **(backend_options or {})) as target:
            started = began is not None and rotation.fingerprint == began.fingerprint
            if not started:
                target.drop()
                _make(base, current, target, rotation)
            turn = Turn(base, current, target)
            mover = _Turn(before, rotation, _PRECISION.get(target.capabilities.vector_dtype, 1e-6), turn)
            moved = bring_over(
                current, target, mover, batch_size=size, started=started, progress=progress, to_the_end=False
            )
            turn.freeze()
            last = bring_over(current, target, mover, batch_size=size, started=True, progress=False)
            target.flush()
            turn.switch()
            clear_up(base, target, backend_options)
        before_it, with_it = coverages or (None, None)
        written, previous = moved.written + last.written, current.address.collection
        return RotateReport(
            str(base.address), name, previous, last.rows, written, rotation.fingerprint, before_it, with_it
        )  # fmt: skip


class _Turn(Mover):
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
        return replace(batch, vectors=self._after.apply(_given(batch.vectors, self._before)))

    def _close(self, a: FloatArray | None, b: FloatArray | None) -> bool:
        if a is None or b is None:
            return a is b
        return float(np.abs(a - b).max(initial=0)) <= self._tolerance


def _given(vectors: FloatArray, before: Rotation | None) -> FloatArray:
    return vectors if before is None else before.undo(vectors)


def _fitted(current: Backend, before: Rotation | None, size: int) -> Rotation:
    moment = SecondMoment(current.manifest.fine_dims)
    for batch in current.scan(vectors=True, documents=False, batch_size=size):
        if batch.vectors is not None:
            moment.add(_given(batch.vectors[batch.has_vector], before))
    if moment.count < PER_DIM * moment.dim:
        raise InvalidInput(
            f"{current.address} has {moment.count:,} vectors, expected {PER_DIM * moment.dim:,} at least to fit a "
            f"rotation of {moment.dim} dims on: index more first, or pass one that was fitted on more texts of the kind"
        )
    return moment.rotation()


def _coverages(current: Backend, before: Rotation | None, size: int) -> tuple[float, float]:
    """At ``coarse_dims``, of a part of the collection: as it is stored, and with a rotation fitted on that part."""
    count, parts, seen = max(current.count(), 1), list[FloatArray](), 0
    every = -(-count // _MEASURED)
    for batch in current.scan(vectors=True, documents=False, batch_size=size):
        if batch.vectors is not None:
            places = np.flatnonzero(batch.has_vector)
            parts.append(batch.vectors[places[(seen + np.arange(len(places))) % every == 0]])
            seen += len(places)
    stored = np.concatenate(parts)
    coarse = current.manifest.coarse_dims
    as_it_is = diagnose_vectors(stored, dims=[coarse]).at(coarse)
    turned = diagnose_vectors(_given(stored, before), dims=[coarse]).at(coarse, rotated=True)
    return as_it_is.coverage, turned.coverage


def _target_name(base: Backend, current: Backend, options: Mapping[str, Any] | None) -> tuple[str, Rotation | None]:
    """Name of the generation to write to, and the rotation of one that an earlier run has begun."""
    known = generation_names(base.address.collection, base.collections())
    for name in reversed(known):
        with open_backend(base.address.with_collection(name), **(options or {})) as one:
            manifest = one.read_manifest()
            origin = (manifest.origin if manifest else None) or {}
            if (
                manifest is not None
                and manifest.rotation is not None
                and not origin.get("complete", True)
                and origin.get("rotating")
                and origin.get("source_id") == current.manifest.collection_id
                and one.read_attachment(rotations.ATTACHMENT) is not None
            ):
                return name, rotations.load(one, manifest)
    number = 1 + max((int(name.rpartition(".g")[2]) for name in known), default=0)
    return generation_name(base.address.collection, number), None


def _make(base: Backend, current: Backend, target: Backend, rotation: Rotation) -> None:
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
        origin=origin,
        created_with=__version__,
    )
    target.write_manifest(made, None)
    rotations.save(target, rotation)
