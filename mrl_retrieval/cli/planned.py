"""What the manifest says of a plan, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mrl_retrieval.stored_plan import staleness

__all__ = ["plan_lines"]


def plan_lines(plan: Mapping[str, Any] | None, rows: int) -> Iterator[str]:
    """Lines for ``mrl info``; none where there is no plan."""
    if not plan:
        return
    how = "search flat" if plan.get("exact") else f"{plan.get('coarse_top_k')} candidates"
    if "target_recall" not in plan:
        yield how  # written by hand, for nothing in particular
        return
    yield f"{how} for recall@{plan['k']} of {plan['target_recall']:g} with confidence {plan['confidence']:g}"
    source = "documents" if plan["source"] == "documents" else "queries"
    yield f"measured on {plan['queries']:,} {source} at {plan['rows']:,} rows on {plan['at'][:10]}"
    if why := staleness(plan, rows):
        yield f"out of date: {why}"
