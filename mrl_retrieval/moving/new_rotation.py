"""The rotation of a collection that is embedded anew: the old one is of other vectors, so it is another, or none."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from .. import rotations
from ..backend import Backend
from ..encoder import Encoder
from ..errors import InvalidInput
from ..long_texts import OnLong, encode_long
from ..matryoshka import FloatArray
from ..rotation import Rotation
from ..rotation_fitting import PER_DIM, fit_rotation
from ..settings import NotGiven
from .measuring import Measurement, measured_on

__all__ = ["Asked", "NewRotation", "asked_for", "is_asked_for_another", "rotation_for"]

logger = logging.getLogger(__name__)

_SAMPLE = 5_000
"""Documents that a rotation is fitted and measured on, or ten for each dim if that is more: among few, prefixes of any
length find everything."""

Asked = Rotation | Literal["auto"] | None


@dataclass(frozen=True, slots=True)
class NewRotation:
    """What a generation is made with."""

    rotation: Rotation | None = None
    measurement: Measurement | None = None
    """None: a rotation was given, or none was wanted."""
    vectors: Mapping[str, FloatArray] = field(default_factory=dict)
    """Full vectors ``(D,)`` of the texts that it was fitted on, so that they are not encoded again."""
    long_texts: int = 0
    """How many of these are beyond the encoder's context."""

    @classmethod
    def begun(cls, target: Backend, asked: Asked | NotGiven) -> NewRotation:
        """That of a generation which an earlier run has begun.

        Raises:
            CollectionMismatchError: another one is asked for.
        """
        if isinstance(asked, Rotation):
            rotations.hold_to(asked, target, target.manifest)
        there = target.manifest.rotation
        return cls(None if there is None else rotations.load(target, target.manifest))

    @property
    def fingerprint(self) -> str | None:
        """Of the rotation."""
        return None if self.rotation is None else self.rotation.fingerprint

    def apply(self, vectors: FloatArray) -> FloatArray:
        """Full vectors (N, D) as they are stored."""
        return vectors if self.rotation is None else self.rotation.apply(vectors)


def is_asked_for_another(asked: Asked | NotGiven, there: str | None) -> bool:
    """Whether a collection whose rotation has the fingerprint ``there`` is to have another one, or none."""
    if isinstance(asked, Rotation):
        return asked.fingerprint != there
    return asked is None and there is not None


def asked_for(asked: Asked | NotGiven, current: Backend, encoder: Encoder, fine_dims: int) -> Asked:
    """What is wanted of the next generation; not given: what the current one has a rotation for.

    Raises:
        InvalidInput: it is no rotation.
        DimensionError, NotSupported: the next generation cannot have it.
    """
    if isinstance(asked, NotGiven):
        if current.manifest.rotation is None:
            return None
        if fine_dims == encoder.dim:
            return "auto"
        logger.warning(
            "%s has a rotation, and will have none: of the new vectors %d of %d components are stored",
            current.address,
            fine_dims,
            encoder.dim,
        )
        return None
    if isinstance(asked, Rotation):
        rotations.check_fits(asked, current, encoder.dim, fine_dims)
    elif isinstance(asked, str) and asked == "auto":
        rotations.check_possible(current, encoder.dim, fine_dims)
    elif asked is not None:
        raise InvalidInput(
            f"rotation is {type(asked).__name__}; pass what fit_rotation(encoder, texts) gives, 'auto', or None"
        )
    return asked


def rotation_for(
    wanted: Asked, current: Backend, encoder: Encoder, on_long: OnLong, coarse_dims: int, texts: int, size: int
) -> NewRotation:
    """What the next generation is made with; ``texts`` is the number of documents, ``size`` that of those encoded at a
    time.

    Raises:
        EncoderError: the encoder failed.
    """
    if not isinstance(wanted, str):
        return NewRotation(wanted)
    if coarse_dims >= encoder.dim or not rotations.is_for(encoder):
        logger.info("prefixes of %d of %d dims of this encoder need no rotation", coarse_dims, encoder.dim)
        return NewRotation()
    needed = PER_DIM * encoder.dim
    if texts < needed:
        logger.warning(
            "%s has %d documents, expected %d to fit a rotation of %d dims on: it will have none, until mrl rotate",
            current.address,
            texts,
            needed,
            encoder.dim,
        )
        return NewRotation()
    count = min(texts, max(needed, _SAMPLE))
    drawn, vectors, long = _drawn(current, texts // count, count), list[FloatArray](), 0
    for start in range(0, len(drawn), size):
        encoded, beyond = encode_long(encoder, drawn[start : start + size], on_long, queries=False)
        vectors.append(encoded)
        long += beyond
    sample = np.concatenate(vectors)
    measurement = measured_on(sample, sample, coarse_dims, texts)
    rotation = fit_rotation(None, sample, dims=[coarse_dims]) if measurement.helps else None
    logger.info(
        "%.4f of the true top 10 in 100 candidates, rotated %.4f, over %d documents",
        measurement.coverage,
        measurement.rotated_coverage,
        len(sample),
    )
    return NewRotation(rotation, measurement, dict(zip(drawn, sample, strict=True)), long)


def _drawn(current: Backend, every: int, count: int) -> list[str]:
    """So many documents, evenly from all."""
    drawn: list[str] = []
    seen = 0
    for batch in current.scan():
        for document in batch.documents:
            if document is not None:
                if seen % every == 0 and len(drawn) < count:
                    drawn.append(document)
                seen += 1
    return drawn
