"""The plan that a collection's manifest keeps: the stages it asks for, and whether it is out of date.

How a plan is found is in ``planning/``; searches need only this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .two_stage import Stage

__all__ = ["DEFAULT_COARSE_TOP_K", "PER_HIT", "planned_stages", "staleness"]

DEFAULT_COARSE_TOP_K = 200
PER_HIT = 4
"""Candidates for each hit, at the least, where nothing was measured."""

_GROWN = 1.5
"""A collection that has become larger than this many times what was planned for needs more candidates."""


def planned_stages(plan: Mapping[str, Any], coarse_dims: int, k: int) -> tuple[Stage, ...]:
    """The stages before the last for ``k`` hits; none: the plan is to score every vector.

    What was planned is taken as it is for as many hits as it was planned for, or fewer; for more hits there are
    more candidates in proportion. What is promised holds for the planned number of hits alone.

    >>> plan = {"coarse_top_k": 37, "k": 10}
    >>> planned_stages(plan, 64, 5), planned_stages(plan, 64, 25)
    ((Stage(dims=64, limit=37),), (Stage(dims=64, limit=93),))
    """
    if plan.get("exact"):
        return ()
    candidates = int(plan.get("coarse_top_k") or DEFAULT_COARSE_TOP_K)
    planned = plan.get("k")
    if planned is None:  # a number that was written by hand, and measured for nothing
        return (Stage(coarse_dims, max(candidates, PER_HIT * k)),)
    if k > planned:
        candidates = -(-candidates * k // planned)
    return (Stage(coarse_dims, candidates),)


def staleness(plan: Mapping[str, Any], rows: int) -> str | None:
    """Why the plan may not hold any more for a collection of so many rows; None: nothing is known against it."""
    planned = plan.get("rows")
    if not planned or rows <= _GROWN * planned:
        return None
    return (
        f"it was made at {planned:,} rows, there are {rows:,} now, and more rows need more candidates: plan again "
        "(mrl plan)"
    )
