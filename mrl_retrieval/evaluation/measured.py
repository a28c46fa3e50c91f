"""Values on their way to a report: each with its bootstrap draws, until the full length to compare with is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .bootstrap import Draws, FloatVector, means, measure
from .report import Row
from .texts import Form

__all__ = ["Drawn", "Measured", "mean_of", "rows"]

_BYTES = 2
"""Of a component in float16."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A metric's value, and its values in the draws."""

    value: float
    draws: FloatVector


@dataclass(frozen=True, slots=True)
class Measured:
    """The metrics of one form and stage."""

    form: Form
    metrics: Mapping[str, Drawn]
    two_stages: bool = False
    search_ms: float | None = None


def mean_of(values: FloatVector, draws: Draws) -> Drawn:
    """The mean of one value for each query."""
    return Drawn(float(np.mean(values)), means(values, draws))


def rows(found: Sequence[Measured], full: int) -> tuple[Row, ...]:
    """Rows of a report; the last of ``found`` is the full length."""
    whole = found[-1].metrics
    return tuple(
        Row(
            dims=one.form.dims,
            rotated=one.form.rotation is not None,
            stage="two-stage" if one.two_stages else "prefix",
            bytes=_BYTES * (one.form.dims + (full if one.two_stages else 0)),
            search_ms=one.search_ms,
            metrics={
                name: measure(metric.value, metric.draws, whole[name].value, whole[name].draws)
                for name, metric in one.metrics.items()
            },
        )
        for one in found
    )
