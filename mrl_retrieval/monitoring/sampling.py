"""Which live queries are replayed: each with the same small chance, at the price of a subtraction for the others."""

from __future__ import annotations

import math
import random
import sys
import threading

from ..errors import InvalidInput

__all__ = ["Sampler", "check_rate"]


def check_rate(rate: float, name: str = "rate") -> float:
    """A share of queries, above 0 and at most 1.

    Raises:
        InvalidInput: it is not.
    """
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= 1:
        raise InvalidInput(f"{name}={rate!r}: expected a share above 0 and at most 1, such as 0.01")
    return float(rate)


class Sampler:
    """Draws each query with the chance ``rate``, independently. Thread-safe.

    The gaps between drawn queries are geometric, and drawn beforehand; so nothing but a count is done for a query that
    is not drawn.

    Args:
        rate: above 0 and at most 1.
        seed: fixes the draw; None: another one every time.
    """

    def __init__(self, rate: float, seed: int | None = None) -> None:
        self._rate = check_rate(rate)
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._lock = threading.Lock()
        self.drawn = 0
        """How many were."""
        self._left = self._gap()
        """Queries up to the next drawn one, that one included."""

    def draw(self, count: int) -> list[int]:
        """Which of the next ``count`` queries are drawn: their places, ascending."""
        with self._lock:
            self._left -= count
            if self._left > 0:
                return _NONE
            # ``_left`` counts from behind the last of these queries now.
            drawn = []
            while self._left <= 0:
                drawn.append(self._left + count - 1)
                self._left += self._gap()
            self.drawn += len(drawn)
            return drawn

    def _gap(self) -> int:
        if self._rate == 1:
            return 1
        # Inversion: P(gap > n) = (1 - rate)^n.
        return 1 + int(min(math.log(1 - self._random.random()) / math.log1p(-self._rate), sys.maxsize // 2))


_NONE: list[int] = []
