"""Metadata filters: Mongo-style dicts, parsed into one small tree that every backend compiles to its own dialect.

======================  ==========================================================================
``{"a": 1}``            short for ``{"a": {"$eq": 1}}``; several keys, or operators, mean *and*
``$eq  $ne``            equal, not equal; any JSON value. ``1 == 1.0``, but a bool is not an int
``$gt $gte $lt $lte``   order of numbers, or of strings by code point (ISO dates are strings)
``$in  $nin``           equal to one, to none, of a list
``$exists``             the key is there (even if its value is None)
``$contains``           the value is a list that has this element
``$any  $all``          the value is a list that has one, has all, of these elements
``$text  $itext``       the value is a string that has this substring; ``$itext`` ignores case
``$is_empty``           the value is there, and is (True) or is not (False) None, "", [] or {}
``$and $or $not``       of filters; ``$not`` also stands inside a field: ``{"a": {"$not": {"$gt": 1}}}``
======================  ==========================================================================

A dot goes into nested dicts: ``"author.name"``; a key that itself holds a dot is stored, but cannot be filtered by.
A missing key matches only ``$ne``, ``$nin``, ``$not`` and ``$exists: false``. Comparing the order of a stored value
with an operand of another type is a :class:`FilterError`, whichever row it is in; a stored None has no order and
does not match.

:func:`matches` is the meaning of a filter; every backend is held to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from reprlib import repr as repr_short
from typing import Any

import numpy as np

from .documents import MOST_LEVELS, canonical_json
from .errors import FilterError

__all__ = [
    "LOGICAL",
    "OPERATORS",
    "ORDER",
    "And",
    "Compare",
    "Filter",
    "IdIn",
    "Not",
    "Or",
    "check_order",
    "equal",
    "leaves",
    "lookup",
    "matches",
    "order_error",
    "order_kind",
    "parse_filter",
]

ORDER = frozenset({"$gt", "$gte", "$lt", "$lte"})
OPERATORS = ORDER | {
    "$eq", "$ne", "$in", "$nin", "$exists", "$contains", "$any", "$all", "$text", "$itext", "$is_empty",
}  # fmt: skip
LOGICAL = frozenset({"$and", "$or", "$not"})

_MISSING = object()


class Filter:
    """A node of the tree. Immutable and hashable by :attr:`key`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class And(Filter):
    """Every part matches; at least one part."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or(Filter):
    """At least one part matches; at least one part."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not(Filter):
    """The part does not match."""

    part: Filter


@dataclass(frozen=True, slots=True)
class Compare(Filter):
    """One operator on one path. ``$ne`` and ``$nin`` never occur: they are parsed to ``Not`` of their opposite."""

    path: tuple[str, ...]
    op: str
    value: Any

    @property
    def name(self) -> str:
        """The path as written, with dots."""
        return ".".join(self.path)

    def __hash__(self) -> int:
        return hash((self.path, self.op, canonical_json(self.value)))


@dataclass(frozen=True, slots=True)
class IdIn(Filter):
    """The row's id is one of these: how the core hands over what a database cannot express."""

    ids: frozenset[str]


def parse_filter(value: Mapping[str, Any] | Filter | None) -> Filter | None:
    """The tree of a filter dict; None and ``{}`` mean no filter.

    Raises:
        FilterError: unknown operator, operand of a wrong type, or not a dict.

    >>> parse_filter({"year": {"$gte": 2020}})
    Compare(path=('year',), op='$gte', value=2020)
    """
    if value is None or isinstance(value, Filter):
        return value
    if not isinstance(value, Mapping):
        raise FilterError(f"a filter is a dict such as {{'year': {{'$gte': 2020}}}}, got {type(value).__name__}")
    return _parse(value) if value else None


def _parse(value: Any, depth: int = 0) -> Filter:
    if depth > MOST_LEVELS:
        raise FilterError(f"the filter is nested more than {MOST_LEVELS} levels deep; write it flatter")
    if isinstance(value, Filter):
        return value
    if not isinstance(value, Mapping) or not value:
        raise FilterError(f"expected a filter, a dict with at least one key, got {repr_short(value)}")
    parts = [_parse_key(key, operand, depth + 1) for key, operand in value.items()]
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _parse_key(key: Any, operand: Any, depth: int) -> Filter:
    if not isinstance(key, str):
        raise FilterError(f"a filter key is a string, got {key!r} of type {type(key).__name__}")
    if key in ("$and", "$or"):
        if not isinstance(operand, (list, tuple)) or not operand:
            raise FilterError(f"{key} takes a list of at least one filter, got {repr_short(operand)}")
        parts = tuple(_parse(part, depth) for part in operand)
        return And(parts) if key == "$and" else Or(parts)
    if key == "$not":
        return Not(_parse(operand, depth))
    if key.startswith("$"):
        hint = "it belongs under a field" if key in OPERATORS else f"known: {_known()}"
        raise FilterError(f"operator {key!r} cannot stand here; {hint}, as in {{'year': {{'$gte': 2020}}}}")
    path = tuple(key.split("."))
    if not all(path):
        raise FilterError(f"the path {key!r} has an empty part; write it as 'outer.inner'")
    return _parse_field(path, operand, depth)


def _parse_field(path: tuple[str, ...], operand: Any, depth: int) -> Filter:
    if depth > MOST_LEVELS:
        raise FilterError(f"the filter is nested more than {MOST_LEVELS} levels deep; write it flatter")
    if not isinstance(operand, Mapping):
        return _compare(path, "$eq", operand)
    if not operand:
        raise FilterError(f"the condition on {'.'.join(path)!r} is an empty dict; say {{'$eq': {{}}}} to mean that")
    parts: list[Filter] = []
    for op, value in operand.items():
        if op == "$not":
            parts.append(Not(_parse_field(path, value, depth + 1)))
        else:
            parts.append(_compare(path, op, value))
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _compare(path: tuple[str, ...], op: Any, value: Any) -> Filter:
    name = ".".join(path)
    if not isinstance(op, str) or op not in OPERATORS:
        hint = ""
        if isinstance(op, str) and not op.startswith("$"):
            hint = f"; for a nested key write {name + '.' + op!r}"
        raise FilterError(f"unknown operator {op!r} on {name!r}; known: {_known()}{hint}")

    def wrong(expected: str) -> FilterError:
        return FilterError(f"{op} on {name!r} takes {expected}, got {repr_short(value)} of type {type(value).__name__}")

    if isinstance(value, np.generic):
        value = value.item()
    if op in ORDER:
        if order_kind(value) is None:
            raise wrong("a number or a string")
    elif op in ("$exists", "$is_empty"):
        if not isinstance(value, bool):
            raise wrong("True or False")
    elif op in ("$text", "$itext"):
        if not isinstance(value, str):
            raise wrong("a string")
    elif op in ("$in", "$nin", "$any", "$all"):
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, (Sequence, set, frozenset)):
            raise wrong("a list")
        value = list(value)
    try:
        value = _plain(value)
        canonical_json(value)
    except (TypeError, ValueError) as error:
        raise wrong("JSON values") from error
    if op == "$ne":
        return Not(Compare(path, "$eq", value))
    if op == "$nin":
        return Not(Compare(path, "$in", value))
    return Compare(path, op, value)


def _plain(value: Any, depth: int = 0) -> Any:
    """A deep copy in plain lists and dicts, so that later changes to the caller's dict do not reach the tree."""
    if depth > MOST_LEVELS:
        raise ValueError(f"nested more than {MOST_LEVELS} levels deep")
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("keys must be strings")
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str):
        value.encode("utf-8")  # a lone surrogate is a ValueError
    return value


def _known() -> str:
    return " ".join(sorted(OPERATORS | LOGICAL))


def matches(filter: Filter | None, id: str, metadata: Mapping[str, Any]) -> bool:
    """Whether one row matches: the meaning of every operator.

    Raises:
        FilterError: the order of two values of different types is asked for.
    """
    if filter is None:
        return True
    if isinstance(filter, Compare):
        found = lookup(metadata, filter.path, _MISSING)
        if found is _MISSING:
            return filter.op == "$exists" and not filter.value
        if filter.op in ORDER and (error := order_error(filter, id, found)):
            raise error
        return _MEANING[filter.op](found, filter.value)
    if isinstance(filter, And):
        return all(_each_part(filter, id, metadata))
    if isinstance(filter, Or):
        return any(_each_part(filter, id, metadata))
    if isinstance(filter, Not):
        return not matches(filter.part, id, metadata)
    if isinstance(filter, IdIn):
        return id in filter.ids
    raise TypeError(f"not a filter: {filter!r}")


def _each_part(filter: And | Or, id: str, metadata: Mapping[str, Any]) -> list[bool]:
    """Not short-circuited: an order across types is an error in whichever part it stands."""
    return [matches(part, id, metadata) for part in filter.parts]


def lookup(metadata: Mapping[str, Any], path: tuple[str, ...], default: Any = None) -> Any:
    """The value at a path of nested dicts, or ``default``."""
    value: Any = metadata
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            return default
        value = value[part]
    return value


def leaves(filter: Filter | None) -> Iterator[Compare]:
    """Every :class:`Compare` of the tree."""
    if isinstance(filter, Compare):
        yield filter
    elif isinstance(filter, (And, Or)):
        for part in filter.parts:
            yield from leaves(part)
    elif isinstance(filter, Not):
        yield from leaves(filter.part)


def order_kind(value: Any) -> str | None:
    """``"number"`` or ``"string"`` for values that have an order, else None (a bool has none)."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return "number" if value == value else None
    return "string" if isinstance(value, str) else None


def order_error(condition: Compare, id: str, found: Any) -> FilterError | None:
    """The error for comparing ``found`` with the operand of an order operator, or None where that is fine."""
    if found is None or order_kind(found) == order_kind(condition.value):
        return None
    return FilterError(
        f"{condition.op} on {condition.name!r} compares with {condition.value!r} ({type(condition.value).__name__}), "
        f"but row {id!r} holds {found!r} ({type(found).__name__}); only values of one type have an order: "
        "store the key with one type, or ask with an operand of that type"
    )


def check_order(filter: Filter | None, id: str, metadata: Mapping[str, Any]) -> None:
    """Raise the :class:`FilterError` that a row causes in any order operator of the tree, if it does."""
    for condition in leaves(filter):
        if condition.op in ORDER:
            found = lookup(metadata, condition.path)
            if error := order_error(condition, id, found):
                raise error


def equal(a: Any, b: Any) -> bool:
    """Equality of JSON values: numbers by value, but a bool never equals a number; lists and dicts by parts."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return bool(a == b)


def _member(value: Any, items: Any) -> bool:
    return isinstance(items, list) and any(equal(item, value) for item in items)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, (str, list, Mapping)) and len(value) == 0)


_MEANING: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": equal,
    "$in": lambda found, value: _member(found, value),
    "$gt": lambda found, value: found is not None and found > value,
    "$gte": lambda found, value: found is not None and found >= value,
    "$lt": lambda found, value: found is not None and found < value,
    "$lte": lambda found, value: found is not None and found <= value,
    "$exists": lambda found, value: bool(value),
    "$contains": lambda found, value: _member(value, found),
    "$any": lambda found, value: any(_member(item, found) for item in value),
    "$all": lambda found, value: isinstance(found, list) and all(_member(item, found) for item in value),
    "$text": lambda found, value: isinstance(found, str) and value in found,
    "$itext": lambda found, value: isinstance(found, str) and value.casefold() in found.casefold(),
    "$is_empty": lambda found, value: _is_empty(found) == value,
}
