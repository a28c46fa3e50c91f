"""Whether users ask for other things than before: prefixes of recent queries against those of the first ones.

That is no loss of recall, and may go on without one. But a depth that was learned, a rotation that was fitted, a recall
that was measured are of the queries that they were made with.

The two samples are compared by maximum mean discrepancy with a Gaussian kernel (Gretton et al. 2012, "A kernel
two-sample test"): 0 where both come from one distribution, above it for every difference there can be, not of the
means alone. Its distribution without drift comes from the data: were the queries exchangeable, any split of both
samples together into two would be as likely as the one that is seen. Drift is said where the real split is further
apart than all of 1/level - 1 random ones, which has a chance of ``level`` at most, whatever the queries' distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import InvalidInput
from ..matryoshka import FloatArray

__all__ = ["DriftCheck", "QueryDrift", "check_level"]

_WIDTH = 0.5
"""Of the kernel, ``exp(-|x - y|² / (2 · width²))``: unit vectors of unlike queries are 1.2 to 1.4 apart, of like ones
half of that."""

_TOGETHER = 50
"""Random splits that are computed at a time."""


def check_level(level: float) -> float:
    """A chance of a false alarm, from 1/100,000 up.

    Raises:
        InvalidInput: it is none, or so small that the splits to refute it would be too many.
    """
    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 1e-5 <= level < 1:
        raise InvalidInput(f"drift_level={level!r}: expected a chance from 0.00001 to below 1, such as 0.001")
    return float(level)


@dataclass(frozen=True, slots=True)
class DriftCheck:
    """One comparison of recent queries with the first ones."""

    drifted: bool
    """Whether they differ more than chance would make them."""
    distance: float
    """Squared maximum mean discrepancy, 0..2; some of it is always there, the less the more queries."""
    expected: float
    """What it would be about, without drift: the mean over random splits."""
    reference: int
    """Queries that were compared with."""
    recent: int
    """Queries that were compared."""


class QueryDrift:
    """Takes in prefixes; compares every ``window`` of them with the first ``reference`` ones. Not thread-safe.

    Args:
        reference: how many queries say what is usual.
        window: how many are compared with them at a time. Windows do not overlap.
        level: chance of a false alarm in one comparison, at most.
        seed: of the random splits.
    """

    def __init__(self, reference: int = 400, window: int = 200, level: float = 0.001, seed: int | None = None) -> None:
        self._sizes = reference, window
        self._splits = int(np.ceil(1 / check_level(level) - 1e-9)) - 1
        self._random = np.random.default_rng(seed)
        self._reference: list[FloatArray] = []
        self._window: list[FloatArray] = []
        self._last: list[FloatArray] = []

    def add(self, prefix: FloatArray) -> DriftCheck | None:
        """Take in the prefix of a query, ``(d,)`` of unit length; a comparison where a window is full."""
        if len(self._reference) < self._sizes[0]:
            self._reference.append(prefix)
            return None
        self._window.append(prefix)
        if len(self._window) < self._sizes[1]:
            return None
        self._last, self._window = self._window, []
        return self._compare(np.stack(self._reference), np.stack(self._last))

    def accept(self) -> None:
        """What is asked now is usual from here on: the last window begins the new reference."""
        self._reference, self._last, self._window = (self._last + self._window)[-self._sizes[0] :], [], []

    def _compare(self, usual: FloatArray, recent: FloatArray) -> DriftCheck:
        both = np.concatenate([usual, recent])
        squares = np.square(both).sum(axis=1)
        apart = np.maximum(squares[:, None] + squares[None, :] - 2 * (both @ both.T), 0)
        kernel = np.exp(apart / np.float32(-2 * _WIDTH**2))
        weights = np.concatenate([np.full(len(usual), 1 / len(usual)), np.full(len(recent), -1 / len(recent))])
        weights = weights.astype(np.float32)
        seen = float(_distances(kernel, weights[None, :])[0])
        drifted, random = True, list[float]()
        for start in range(0, self._splits, _TOGETHER):
            count = min(_TOGETHER, self._splits - start)
            splits = self._random.permuted(np.broadcast_to(weights, (count, len(weights))), axis=1)
            distances = _distances(kernel, splits)
            random += distances.tolist()
            # One that is as far apart settles it; without drift that is one of the first.
            if (distances >= seen).any():
                drifted = False
                break
        expected = float(np.mean(random)) if random else 0.0
        return DriftCheck(drifted, seen, expected, len(usual), len(recent))


def _distances(kernel: npt.NDArray[np.float32], weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Squared discrepancy of each split (S, n): w K wᵀ."""
    found: npt.NDArray[np.float32] = np.einsum("sn,sn->s", weights @ kernel, weights)
    return found
