"""Bounds of a mean that are promises: valid for shares between 0 and 1 of any distribution, at every sample size.

Who bets that the mean is above m stakes a fixed fraction of the capital on each value. Is the mean m, no way of
betting is expected to gain, so the chance that the capital ever becomes 1/α times what it was is at most α (Ville
1939). All m at which it has become so are refuted; the least that is not is the bound (Waudby-Smith & Ramdas 2024,
"Estimating means of bounded random variables by betting"). The capital is spread over bets of several sizes, so that
none has to be chosen by looking at the data, the order of the values does not matter, and one may look after every
value.

These are much tighter than Hoeffding's where the values hardly vary, as recalls near 1 do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from .errors import InvalidInput

__all__ = ["Shares", "check_confidence"]

_Array = npt.NDArray[np.float64]

_BETS: _Array = np.concatenate([np.geomspace(0.002, 0.5, 20), 1 - np.geomspace(0.5, 0.0005, 21)[1:]])
"""Fractions of the capital that may be lost on one value, in 0..1."""

_STEPS = 60
"""Halvings of the interval in which a bound is looked for: more than a float's precision."""


def check_confidence(confidence: float) -> float:
    """A probability that a promise is to be kept with.

    Raises:
        InvalidInput: it is not between 0 and 1, both excluded.
    """
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float)) or not 0 < confidence < 1:
        raise InvalidInput(f"confidence={confidence!r}: expected a number between 0 and 1, such as 0.95")
    return float(confidence)


class Shares:
    """Values between 0 and 1, such as the recalls of queries, and what they say of their mean.

    Kept as counts of distinct values, so that memory is bounded by how many of those there are.

    >>> recalls = Shares([1.0] * 300 + [0.9] * 10)
    >>> recalls.mean.__round__(4), recalls.lower(0.95).__round__(4), recalls.upper(0.95).__round__(4)
    (0.9968, 0.9844, 0.9991)
    """

    def __init__(self, values: Iterable[float] = ()) -> None:
        self._counts: Counter[float] = Counter()
        self._sum = 0.0
        for value in values:
            self.add(value)

    def add(self, value: float, times: int = 1) -> None:
        """Take in a value.

        Raises:
            InvalidInput: it is not between 0 and 1.
        """
        if not 0 <= value <= 1:  # NaN neither
            raise InvalidInput(f"{value!r} is no share: expected a number between 0 and 1")
        self._counts[float(value)] += times
        self._sum += times * float(value)

    @property
    def count(self) -> int:
        """How many there are."""
        return self._counts.total()

    @property
    def mean(self) -> float:
        """Their mean; 0 if there are none."""
        return self._sum / self.count if self._counts else 0.0

    def lower(self, confidence: float) -> float:
        """Below the mean of what these were drawn from, with this confidence, however often one has looked."""
        return _lower(*self._arrays(), check_confidence(confidence))

    def upper(self, confidence: float) -> float:
        """Above it, with this confidence."""
        values, counts = self._arrays()
        return 1 - _lower(1 - values, counts, check_confidence(confidence))

    def reaches(self, target: float, confidence: float) -> bool:
        """Whether the lower bound is ``target`` at least."""
        return _log_capital(*self._arrays(), target) >= -math.log(1 - check_confidence(confidence))

    def needed(self, target: float, confidence: float) -> int | None:
        """How many such values would prove ``target``, were they distributed as these; None: no number would."""
        wanted = -math.log(1 - check_confidence(confidence))
        values, counts = self._arrays()
        if not len(values) or not 0 < target < 1:
            return 0 if target <= 0 else None
        growth = _growth(values, counts, target) / self.count
        if growth.max() <= 0:
            return None
        # The best bet alone gives the order of magnitude; all of them together need a little less.
        most = math.ceil((wanted + math.log(len(_BETS))) / float(growth.max()))
        least = 0
        while most - least > 1:
            middle = (most + least) // 2
            least, most = (least, middle) if _mixed(growth * middle) >= wanted else (middle, most)
        return most

    def _arrays(self) -> tuple[_Array, _Array]:
        return np.fromiter(self._counts, float), np.fromiter(self._counts.values(), float)


def _growth(values: _Array, counts: _Array, mean: float) -> _Array:
    """Logarithm of what each bet makes of its capital when betting that the mean is above this one."""
    odds = values / mean - 1
    growth: _Array = np.log1p(_BETS[:, None] * odds) @ counts
    return growth


def _mixed(growth: _Array) -> float:
    """Logarithm of the mean capital of the bets."""
    most = float(growth.max())
    return most + math.log(float(np.exp(growth - most).mean()))


def _log_capital(values: _Array, counts: _Array, mean: float) -> float:
    if not len(values):
        return 0.0
    return _mixed(_growth(values, counts, mean)) if mean > 0 else math.inf


def _lower(values: _Array, counts: _Array, confidence: float) -> float:
    # The higher the mean that is bet against, the less is gained: there is one m at which the bet is just won.
    wanted, least, most = -math.log(1 - confidence), 0.0, 1.0
    for _ in range(_STEPS):
        middle = (least + most) / 2
        if _log_capital(values, counts, middle) >= wanted:
            least = middle
        else:
            most = middle
    return least
