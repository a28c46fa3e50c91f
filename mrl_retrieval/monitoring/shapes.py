"""The shape of a filter: which paths are compared by which operators, and never with what."""

from __future__ import annotations

from ..filters import And, Compare, Filter, IdIn, Not, Or

__all__ = ["filter_shape"]

_LONGEST = 120


def filter_shape(filter: Filter) -> str:
    """One spelling for filters that differ only in their values or the order of their parts.

    >>> from mrl_retrieval import parse_filter
    >>> filter_shape(parse_filter({"year": {"$gte": 2020}, "lang": "en"}))
    '$and(lang $eq, year $gte)'
    >>> filter_shape(parse_filter({"lang": "de", "year": {"$gte": 1999}}))
    '$and(lang $eq, year $gte)'
    """
    shape = _shape(filter)
    return shape if len(shape) <= _LONGEST else f"{shape[: _LONGEST - 1]}…"


def _shape(filter: Filter) -> str:
    match filter:
        case Compare():
            return f"{filter.name} {filter.op}"
        case Not(part):
            return f"$not({_shape(part)})"
        case And(parts):
            return f"$and({', '.join(sorted({_shape(part) for part in parts}))})"
        case Or(parts):
            return f"$or({', '.join(sorted({_shape(part) for part in parts}))})"
        case IdIn():
            return "id $in"
    return type(filter).__name__
