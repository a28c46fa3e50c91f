"""What is true of a row's metadata, as a list of *terms*, and filters as questions about terms.

Every term is there or is not, so a negation is exact; and a new list replaces the old one as a whole. Written once per
path:

==================  ==========================================================================
``.``               this is a row
``n:PATH``          the value is a number (which is also kept as a number, under the key ``n:PATH``)
``m:PATH``          it is there, and neither a number nor None: comparing its order with a number is an error
``0:PATH``          it is None
``l:PATH``          it is a list
``z:PATH``          it is empty: None, ``""``, ``[]`` or ``{}``
``e:PATH=VALUE``    it equals VALUE, in a JSON in which equal values look equal (1 and 1.0, but not true)
``c:PATH=VALUE``    it is a list that has VALUE
==================  ==========================================================================

A question is ``{TERMS: {"$contains": TERM}}`` or ``{TERMS: {"$not_contains": TERM}}``, the order of a number as in
``{"n:PATH": {"$gt": 5}}``, or ``{"$and": […]}`` and ``{"$or": […]}`` of questions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mrl_retrieval.documents import canonical_json
from mrl_retrieval.filters import ORDER, And, Compare, Filter, IdIn, Not, Or, leaves
from mrl_retrieval.values import by_value, is_number, paths

__all__ = [
    "NUMBER",
    "OPERATORS",
    "TERMS",
    "can_compile",
    "compile_where",
    "has",
    "number_keys",
    "order_offenders",
    "terms",
]

Where = dict[str, Any]

TERMS = "_terms"
"""What a question about a term has as its key."""
NUMBER = "n:"
"""What the keys of numbers begin with."""
OPERATORS = ORDER | {"$eq", "$in", "$exists", "$contains", "$any", "$all", "$is_empty"}
"""What :func:`compile_where` knows; order only of numbers."""

# Beyond this the id list of the core is as fast, and far below what any database takes.
_MOST_CONDITIONS = 128
_DEEPEST = 16
# Beyond it, a number may be compared as the nearest double.
_EXACT_INT = 2**53
_LONGEST_VALUE = 256
_NEVER = "!"


def terms(metadata: Mapping[str, Any]) -> list[str]:
    """What is true of a row with this metadata, each once."""
    found = ["."]
    for path, value in paths(metadata):
        found.append(f"e:{path}={_spell(value)}")
        if value is None:
            found.append(f"0:{path}")
        else:
            found.append(f"n:{path}" if is_number(value) else f"m:{path}")
        if value is None or (isinstance(value, (str, list, Mapping)) and not value):
            found.append(f"z:{path}")
        if isinstance(value, list):
            found.append(f"l:{path}")
            found.extend(dict.fromkeys(f"c:{path}={_spell(item)}" for item in value))
    return found


def number_keys(metadata: Mapping[str, Any]) -> dict[str, int | float]:
    """The numbers of a row, under the keys that order operators look at."""
    return {NUMBER + path: value for path, value in paths(metadata) if is_number(value)}


def can_compile(filter: Filter) -> bool:
    """Whether :func:`compile_where` says exactly what this filter means, within reasonable bounds."""
    if not _plain(filter, _DEEPEST):
        return False
    conditions = list(leaves(filter))
    width = sum(len(leaf.value) if isinstance(leaf.value, list) else 1 for leaf in conditions)
    return width <= _MOST_CONDITIONS and all(_can_compare(leaf) for leaf in conditions)


def compile_where(filter: Filter, number: Callable[[float], float] = lambda operand: operand) -> Where:
    """The question of a filter for which :func:`can_compile` holds. The order errors are not in it.

    ``number`` says what an operand is compared as, where something else stands for the stored numbers.
    """
    return _compile(filter, False, number)


def _compile(filter: Filter, negated: bool, number: Callable[[float], float]) -> Where:
    if isinstance(filter, Not):
        return _compile(filter.part, not negated, number)
    if isinstance(filter, (And, Or)):
        parts = [_compile(part, negated, number) for part in filter.parts]
        return _join("$and" if isinstance(filter, And) != negated else "$or", parts)
    if isinstance(filter, Compare):
        return _compare(filter, negated, number)
    raise TypeError(f"cannot be put as a question about terms: {filter!r}")


def order_offenders(filter: Filter) -> Iterator[tuple[Compare, Where]]:
    """Each order condition of the filter, with a ``where`` that finds the rows for which it is an error."""
    for leaf in leaves(filter):
        if leaf.op in ORDER:
            yield leaf, has(f"m:{leaf.name}")


def _spell(value: Any) -> str:
    """JSON in which equal values are spelt alike; a long one as its SHA-256."""
    text = canonical_json(by_value(value))
    return text if len(text) <= _LONGEST_VALUE else "#" + hashlib.sha256(text.encode()).hexdigest()


def _plain(filter: Filter, depth: int) -> bool:
    """No :class:`IdIn` in it, and not nested too deeply."""
    if depth == 0 or isinstance(filter, IdIn):
        return False
    if isinstance(filter, (And, Or)):
        return len(filter.parts) <= _MOST_CONDITIONS and all(_plain(part, depth - 1) for part in filter.parts)
    return not isinstance(filter, Not) or _plain(filter.part, depth - 1)


def _can_compare(leaf: Compare) -> bool:
    if leaf.op in ORDER:
        return is_number(leaf.value) and -_EXACT_INT <= leaf.value <= _EXACT_INT
    return leaf.op in OPERATORS


def _compare(leaf: Compare, negated: bool, number: Callable[[float], float]) -> Where:
    path, value = leaf.name, leaf.value
    if leaf.op in ORDER:
        if not negated:
            return {NUMBER + path: {leaf.op: number(value)}}
        return _join("$or", [{NUMBER + path: {_OPPOSITE[leaf.op]: number(value)}}, has(f"n:{path}", True)])
    if leaf.op == "$exists":
        return _any_of([f"{kind}:{path}" for kind in "nm0"], negated != (not value))
    if leaf.op == "$is_empty" and value:
        return has(f"z:{path}", negated)
    if leaf.op == "$is_empty":
        there = _any_of([f"{kind}:{path}" for kind in "nm0"], negated)
        return _join("$or" if negated else "$and", [there, has(f"z:{path}", not negated)])
    if leaf.op == "$eq":
        return has(f"e:{path}={_spell(value)}", negated)
    if leaf.op == "$in":
        return _any_of([f"e:{path}={_spell(item)}" for item in value], negated)
    if leaf.op == "$contains":
        return has(f"c:{path}={_spell(value)}", negated)
    members = [f"c:{path}={_spell(item)}" for item in value]
    if leaf.op == "$any":
        return _any_of(members, negated)
    return _join("$or" if negated else "$and", [has(term, negated) for term in [f"l:{path}", *members]])


_OPPOSITE = {"$gt": "$lte", "$gte": "$lt", "$lt": "$gte", "$lte": "$gt"}


def has(term: str, negated: bool = False) -> Where:
    """The question whether a row has this term, or has it not."""
    return {TERMS: {"$not_contains" if negated else "$contains": term}}


def _any_of(wanted: list[str], negated: bool) -> Where:
    return _join("$and" if negated else "$or", [has(term, negated) for term in dict.fromkeys(wanted or [_NEVER])])


def _join(how: str, parts: list[Where]) -> Where:
    """One part alone needs nothing around it."""
    return parts[0] if len(parts) == 1 else {how: parts}
