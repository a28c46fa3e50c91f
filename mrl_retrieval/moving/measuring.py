"""Whether a rotation would help a collection: fitted on its vectors, and measured on a part of them, both ways."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ..backend import Backend
from ..diagnosis import diagnose_vectors
from ..errors import InvalidInput
from ..matryoshka import FloatArray
from ..rotation import Rotation
from ..rotation_fitting import PER_DIM, RotationFit

__all__ = ["Measurement", "fitted", "given", "measured", "measured_on"]

_MEASURED = 20_000
"""Vectors of the part that is measured, at most."""


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Measurement:
    """What prefixes find without and with a rotation; the manifest keeps it, so that it is not measured again."""

    coverage: float
    """Share of the true top 10 among 100 candidates at ``coarse_dims``, as the collection is, for documents that were
    taken out."""
    rotated_coverage: float
    """The same with a rotation that was fitted on the others."""
    vectors: int
    """That the collection had."""
    at: str = field(default_factory=_now)
    """When, in UTC, as ISO 8601."""

    @property
    def helps(self) -> bool:
        """Whether the rotation finds more."""
        return self.rotated_coverage > self.coverage

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def given(stored: FloatArray, rotation: Rotation | None) -> FloatArray:
    """Vectors (N, D) as they were given, from those that a collection with this rotation stores."""
    return stored if rotation is None else rotation.undo(stored)


def fitted(current: Backend, before: Rotation | None, size: int) -> Rotation:
    """The rotation of all vectors of a collection, which has the rotation ``before``; reads ``size`` at a time.

    Raises:
        InvalidInput: there are fewer than ten for each dim.
    """
    manifest = current.manifest
    fit = RotationFit(manifest.fine_dims, [manifest.coarse_dims, *manifest.funnel_dims])
    for batch in current.scan(vectors=True, documents=False, batch_size=size):
        if batch.vectors is not None:
            fit.add(given(batch.vectors[batch.has_vector], before))
    if fit.count < PER_DIM * fit.dim:
        raise InvalidInput(
            f"{current.address} has {fit.count:,} vectors, expected {PER_DIM * fit.dim:,} at least to fit a "
            f"rotation of {fit.dim} dims on: index more first, or pass one that was fitted on more texts of the kind"
        )
    return fit.rotation()


def measured(current: Backend, before: Rotation | None, size: int) -> Measurement:
    """Of a part of a collection: as it is stored, and with a rotation fitted on that part."""
    count, parts, seen = max(current.count(), 1), list[FloatArray](), 0
    every = -(-count // _MEASURED)
    for batch in current.scan(vectors=True, documents=False, batch_size=size):
        if batch.vectors is not None:
            places = np.flatnonzero(batch.has_vector)
            parts.append(batch.vectors[places[(seen + np.arange(len(places))) % every == 0]])
            seen += len(places)
    stored = np.concatenate(parts)
    return measured_on(stored, given(stored, before), current.manifest.coarse_dims, seen)


def measured_on(stored: FloatArray, plain: FloatArray, coarse_dims: int, vectors: int) -> Measurement:
    """Of vectors (N, D) as they would be stored without another rotation, and as they were given."""
    report = diagnose_vectors(plain, dims=[coarse_dims])
    as_it_is = report if stored is plain else diagnose_vectors(stored, dims=[coarse_dims])
    turned = report.at(coarse_dims, rotated=True).coverage
    return Measurement(as_it_is.at(coarse_dims).coverage, turned, vectors)
