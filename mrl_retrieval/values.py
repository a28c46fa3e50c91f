"""Metadata values as filters see them: their paths, their kinds, and one spelling for equal ones.

For backends that store what is true of a row in a form of their own, to filter by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .filters import order_kind

__all__ = ["by_value", "is_number", "kind", "paths"]


def paths(metadata: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Every path that a filter can name, with its value; a key with a dot, or an empty one, cannot be named.

    >>> list(paths({"a": {"b": 1}, "c.d": 2}))
    [('a', {'b': 1}), ('a.b', 1)]
    """
    for key, value in metadata.items():
        if key and "." not in key:
            yield before + key, value
            if isinstance(value, Mapping):
                yield from paths(value, f"{before}{key}.")


def by_value(value: Any) -> Any:
    """Equal values, one spelling: 1.0 becomes 1, at any depth.

    >>> by_value([1.0, {"a": 2.5}, True])
    [1, {'a': 2.5}, True]
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [by_value(item) for item in value]
    if isinstance(value, Mapping):
        return {key: by_value(item) for key, item in value.items()}
    return value


def kind(value: Any) -> str:
    """``null``, ``bool``, ``number``, ``string``, ``list`` or ``dict``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    return order_kind(value) or ("list" if isinstance(value, list) else "dict")


def is_number(value: Any) -> bool:
    """Whether it has a place in the order of numbers: a bool has none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
