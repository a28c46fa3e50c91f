"""Percentile bootstrap: between what a statistic would be, had other queries of the same kind been drawn.

Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. The draws depend on the seed and the number
of queries alone, so that two lengths are compared on the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from .report import Measure

__all__ = ["DRAWS", "Draws", "FloatVector", "IndexMatrix", "means", "measure"]

FloatVector = npt.NDArray[np.float64]
IndexMatrix = npt.NDArray[np.intp]

DRAWS = 1000
SEED = 0
_TAIL = 0.025
_ELEMENTS_AT_ONCE = 2**20


class Draws:
    """Samples of ``0..count - 1`` with replacement, each as large as that.

    Args:
        count: how many queries there are.
        times: how many samples.
        seed: of the random numbers.
    """

    def __init__(self, count: int, times: int = DRAWS, seed: int = SEED) -> None:
        self.count, self.times, self.seed = count, times, seed

    def of(self, statistic: Callable[[IndexMatrix], FloatVector], width: int = 1) -> FloatVector:
        """The statistic of every sample: ``(times,)``.

        Args:
            statistic: of samples ``(b, count)``, one number each: ``(b,)``.
            width: numbers that it needs for each sample at once, if more than ``count``.
        """
        return np.concatenate([statistic(block) for block in self._blocks(max(width, self.count))])

    def _blocks(self, width: int) -> Iterator[IndexMatrix]:
        draw = np.random.default_rng(self.seed)
        size = max(_ELEMENTS_AT_ONCE // max(width, 1), 1)
        for start in range(0, self.times, size):
            yield draw.integers(0, self.count, (min(size, self.times - start), self.count))


def means(values: FloatVector, draws: Draws) -> FloatVector:
    """The mean of ``(count,)`` values in every sample.

    >>> bool(abs(means(np.array([0.0, 1.0]), Draws(2)).mean() - 0.5) < 0.05)
    True
    """
    return draws.of(lambda drawn: values[drawn].mean(axis=1))


def measure(value: float, drawn: FloatVector, full: float, full_drawn: FloatVector) -> Measure:
    """A value and its draws beside those at full dims, which are of the same samples."""
    low, high = _between(drawn)
    if full <= 0:
        return Measure(value, low, high, None, None, None)
    sound = full_drawn > 0  # a draw of queries on which even the full length finds nothing says nothing of shares
    kept_low, kept_high = _between(drawn[sound] / full_drawn[sound]) if sound.any() else (None, None)
    return Measure(value, low, high, value / full, kept_low, kept_high)


def _between(drawn: FloatVector) -> tuple[float, float]:
    low, high = np.quantile(drawn, [_TAIL, 1 - _TAIL]).tolist()
    return low, high
