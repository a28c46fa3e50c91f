"""STS and pair analysis by dimension. Needs SciPy (the extra ``evaluate``)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from ..errors import MissingExtra
from ..matryoshka import FloatArray
from .bootstrap import Draws, FloatVector, IndexMatrix
from .measured import Drawn, Measured, mean_of
from .texts import Form

try:
    from scipy.stats import ConstantInputWarning, NearConstantInputWarning, pearsonr, rankdata, spearmanr
except ImportError as error:
    raise MissingExtra("evaluation", "evaluate") from error

__all__ = ["cosines", "measure_pairs", "measure_sts", "pearsons"]


def cosines(first: FloatArray, second: FloatArray) -> FloatVector:
    """Cosine of each of ``(N, d)`` unit rows with the one beside it: ``(N,)``; 0 where one is a zero row."""
    found: FloatVector = np.einsum("nd,nd->n", first.astype(np.float64), second.astype(np.float64))
    return found


def measure_sts(forms: Sequence[Form], first: FloatArray, second: FloatArray, scores: FloatVector) -> list[Measured]:
    """Spearman's and Pearson's correlation of the cosines with people's scores; 0 where all cosines are the same."""
    draws = Draws(len(scores))
    found = []
    for form in forms:
        alike = cosines(form.of(first), form.of(second))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConstantInputWarning)
            warnings.simplefilter("ignore", NearConstantInputWarning)
            values = [float(np.nan_to_num(each(alike, scores).statistic)) for each in (spearmanr, pearsonr)]
        spearman, pearson = (draws.of(partial(each, alike, scores)) for each in (_spearmans, _pearsons))
        found.append(Measured(form, {"spearman": Drawn(values[0], spearman), "pearson": Drawn(values[1], pearson)}))
    return found


def measure_pairs(
    forms: Sequence[Form], first: FloatArray, second: FloatArray, alike: npt.NDArray[np.bool_] | None
) -> list[Measured]:
    """The average cosine of pairs that belong together; where others are given, theirs and the gap between the two."""
    found = []
    for form in forms:
        all_cosines = cosines(form.of(first), form.of(second))
        together = all_cosines if alike is None else all_cosines[alike]
        metrics = {"similarity": mean_of(together, Draws(len(together)))}
        if alike is not None:
            apart = all_cosines[~alike]
            others = mean_of(apart, Draws(len(apart), seed=1))  # drawn apart from those that belong together
            ours = metrics["similarity"]
            gap = Drawn(ours.value - others.value, ours.draws - others.draws)
            metrics |= {"similarity-of-others": others, "gap": gap}
        found.append(Measured(form, metrics))
    return found


def pearsons(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> FloatVector:
    """Pearson's correlation of each row of ``(b, N)`` with the one beside it: ``(b,)``; 0 where a row is constant.

    >>> pearsons(np.array([[1.0, 2.0, 3.0]]), np.array([[2.0, 4.0, 6.0]])).round(12).tolist()
    [1.0]
    """
    a, b = (side - side.mean(axis=1, keepdims=True) for side in (one, other))
    both = np.sqrt(np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b))
    dots = np.einsum("ij,ij->i", a, b)
    found: FloatVector = np.divide(dots, both, out=np.zeros(len(dots)), where=both > 0)
    return found


def _pearsons(alike: FloatVector, scores: FloatVector, drawn: IndexMatrix) -> FloatVector:
    return pearsons(alike[drawn], scores[drawn])


def _spearmans(alike: FloatVector, scores: FloatVector, drawn: IndexMatrix) -> FloatVector:
    return pearsons(rankdata(alike[drawn], axis=1), rankdata(scores[drawn], axis=1))
