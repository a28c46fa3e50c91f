"""When it is shown that recall holds a target, or no longer does: e-detectors, which begin anew with every query.

A mean over all time hides a decay: after a million good queries it takes as many bad ones to be seen. An e-detector
is the sum, over every query that the decay may have begun with, of the capital of somebody who begins to bet
there (Shin, Ramdas & Rinaldo 2023, "E-detectors: a nonparametric framework for sequential change detection", the
Shiryaev–Roberts form). As long as the mean is not what is bet on, the sum grows by one a query on average, at most, so
that it takes n queries on average, at least, until it has become n; whatever the recalls' distribution. The bets are
those of :mod:`mrl_retrieval.confidence`: of several sizes at a time, since none is best for every difference.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..confidence import Shares

__all__ = ["Bounds", "Detector", "RecallState", "Track"]

_BETS: npt.NDArray[np.float64] = 1 / (1 + np.exp(-np.linspace(-6, 7, 27)))
"""Fractions of the capital that may be lost on one value: from 0.0025, for small differences, to 0.999."""


class RecallState(enum.Enum):
    """What has been shown of recall."""

    UNPROVEN = "unproven"
    """Neither of the two, yet."""
    HOLDS = "holds"
    """It is the target at least."""
    LOST = "lost"
    """It is below the target."""


class Detector:
    """Watches for a mean above ``mean``, among values between 0 and 1.

    Args:
        mean: between 0 and 1, both excluded.
        every: as long as the (conditional) mean is ``mean`` or less, false alarms are so many values apart on average,
            at least; the chance of one within n values is n / every at most.
    """

    def __init__(self, mean: float, every: float) -> None:
        self._mean, self._every = mean, every
        self._capital = np.zeros(len(_BETS))

    def add(self, value: float) -> bool:
        """Take in a value; whether it is shown now. It begins anew then."""
        self._capital = (self._capital + 1) * (1 + _BETS * (value / self._mean - 1))
        if self._capital.mean() < self._every:
            return False
        self.restart()
        return True

    def restart(self) -> None:
        """Forget all values."""
        self._capital = np.zeros(len(_BETS))


@dataclass(frozen=True, slots=True)
class Bounds:
    """The mean of recalls, and its bounds; all in 0..1."""

    n: int
    mean: float
    lower: float
    upper: float

    @classmethod
    def of(cls, shares: Shares, confidence: float) -> Bounds:
        """Of what was added up to now."""
        return cls(shares.count, shares.mean, shares.lower(confidence), shares.upper(confidence))


class Track:
    """The recalls of one kind of queries: all of them, the last of them, and what they show. Not thread-safe.

    Args:
        target: the recall that is to hold, between 0 and 1, both excluded.
        every: see :class:`Detector`.
        recent: how many of the last are kept.
    """

    def __init__(self, target: float, every: float, recent: int) -> None:
        self.state = RecallState.UNPROVEN
        self.lifetime = Shares()
        self._recent: deque[float] = deque(maxlen=recent)
        self._up, self._down = Detector(target, every), Detector(1 - target, every)

    def add(self, recall: float) -> bool:
        """Take in a recall; whether the state has changed."""
        self.lifetime.add(recall)
        self._recent.append(recall)
        # What is shown already is not watched for: a detector begins with the first query that it could be about.
        if self.state is not RecallState.HOLDS and self._up.add(recall):
            self.state = RecallState.HOLDS
            self._down.restart()
        elif self.state is not RecallState.LOST and self._down.add(1 - recall):
            self.state = RecallState.LOST
            self._up.restart()
        else:
            return False
        return True

    def recent(self) -> Shares:
        """The last recalls."""
        return Shares(self._recent)
