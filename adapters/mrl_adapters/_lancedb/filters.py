"""Metadata as LanceDB can filter it: columns of codes per row, and our filters compiled to SQL about codes.

LanceDB takes a condition as SQL text alone. So that nothing a user wrote ever stands in that text, whatever is asked
about is stored and asked for as a *code*: hexadecimal digits, made from the path and the value.

``terms``
    says what is true of a row: the kind of each value, what it equals, which elements a list has. A code is 128 bits of
    BLAKE2b, equal for equal values.
``order_keys``, ``order_values``
    parallel lists: a code for the path and the kind of each number and string, and a code of the value whose order as
    text is the order of the values, exactly.
"""

from __future__ import annotations

import functools
import hashlib
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mrl_retrieval.documents import canonical_json
from mrl_retrieval.filters import OPERATORS as ALL_OPERATORS
from mrl_retrieval.filters import ORDER, And, Compare, Filter, IdIn, Not, Or, leaves, order_kind
from mrl_retrieval.values import by_value, kind, paths

__all__ = [
    "IDS_IN_SQL",
    "OPERATORS",
    "answered_by_indexes",
    "can_compile",
    "can_push_down",
    "compile_where",
    "key_of",
    "keys_in",
    "order_columns",
    "order_offenders",
    "terms",
]

OPERATORS = ALL_OPERATORS - {"$text", "$itext"}
"""What is pushed down; order with some operands excepted: see :func:`can_compile`."""
IDS_IN_SQL = 1000
"""Longer lists of ids are joined outside of the database, which is faster then."""

# LanceDB's SQL parser takes exponential time, or gives up, on text nested more deeply than some 40 levels.
_DEEPEST = 8
_MOST_CONDITIONS = 100
_MOST_OPERANDS = 1000
# Of a string, this many bytes are stored for its order; an operand must be shorter, so that the rest cannot matter.
_ORDERED_BYTES = 64
_LARGEST = 2**63

_KINDS = ("null", "bool", "number", "string", "list", "dict")
_UNORDERED = ("bool", "list", "dict")
_NOTHING = "false"


def key_of(id: str) -> str:
    """The code of an id, by which rows are found: 32 hexadecimal digits."""
    return hashlib.blake2b(id.encode(), digest_size=16).hexdigest()


def terms(metadata: Mapping[str, Any]) -> list[str]:
    """What is true of a row's metadata, as codes, each once."""
    return list(dict.fromkeys(_terms(metadata)))


def _terms(metadata: Mapping[str, Any]) -> Iterator[str]:
    for path, value in paths(metadata):
        yield _kind_term(path, kind(value))
        yield _code("=", path, value)
        if value is None or (isinstance(value, (str, list, Mapping)) and not value):
            yield _kind_term(path, "empty")
        if isinstance(value, list):
            for item in value:
                yield _code("~", path, item)


def order_columns(metadata: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The parallel ``order_keys`` and ``order_values`` of a row."""
    ordered = [(path, value, kind) for path, value in paths(metadata) if (kind := order_kind(value))]
    return [_kind_term(path, kind) for path, _, kind in ordered], [_sortable(value) for _, value, _ in ordered]


def can_compile(filter: Filter) -> bool:
    """Whether LanceDB can say this filter exactly, and at a bearable length."""
    conditions = list(leaves(filter))
    return (
        len(conditions) <= _MOST_CONDITIONS
        and all(map(_can_compare, conditions))
        and _depth(filter) <= _DEEPEST
        and sum(map(_operands, _all_nodes(filter))) <= _MOST_OPERANDS
    )


def can_push_down(filter: Filter) -> bool:
    """Whether a search takes it as it is: also a list of ids of any length."""
    return isinstance(filter, IdIn) or can_compile(filter)


def answered_by_indexes(where: str) -> bool:
    """Whether LanceDB can count what meets a condition of :func:`compile_where` by its indexes, which takes 0.4 ms.

    The order of values has none: all of them are read, which takes as long as the search itself.
    """
    return "order_values" not in where


def compile_where(filter: Filter) -> str:
    """A filter that :func:`can_compile` accepts, as a SQL condition: fixed words, column names and codes."""
    return _compile(filter, negated=False)


def keys_in(ids: Iterable[str]) -> str:
    """A SQL condition: the row has one of these ids."""
    listed = ",".join(map(_quoted, dict.fromkeys(map(key_of, ids))))
    return f"key IN ({listed})" if listed else _NOTHING


def order_offenders(filter: Filter | None) -> str | None:
    """A SQL condition that finds the rows for which an order operator is an error; None where there is none."""
    found = []
    for leaf in leaves(filter):
        if leaf.op in ORDER:
            other = "string" if order_kind(leaf.value) == "number" else "number"
            found += [_kind_term(leaf.name, kind) for kind in (*_UNORDERED, other)]
    return _any_of(found) if found else None


# -- codes -------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def _kind_term(path: str, kind: str) -> str:
    return _code("kind", path, kind)


def _code(relation: str, path: str, value: Any) -> str:
    text = canonical_json([relation, path, by_value(value)])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _sortable(value: Any) -> str:
    """A code whose order as text is the order of numbers, or of strings by code point.

    >>> _sortable(-1.5) < _sortable(0) < _sortable(2**53) < _sortable(2**53 + 1) < _sortable(1e300)
    True
    """
    if isinstance(value, str):
        return value.encode()[:_ORDERED_BYTES].hex()
    # The double at or below the number, its bits in the order of doubles; then how far above it the number is.
    below = float(value) + 0.0
    if isinstance(value, int) and int(below) > value:
        below = math.nextafter(below, -math.inf)
    rest = value - int(below) if isinstance(value, int) else 0
    (bits,) = struct.unpack(">Q", struct.pack(">d", below))
    bits = bits ^ (2**64 - 1) if bits >> 63 else bits | 2**63
    return f"{bits:016x}{rest:03x}"


# -- SQL ---------------------------------------------------------------------------------------------------


def _can_compare(leaf: Compare) -> bool:
    if leaf.op in ORDER and isinstance(leaf.value, str):
        return len(leaf.value.encode()) < _ORDERED_BYTES
    if leaf.op in ORDER and isinstance(leaf.value, int):
        return -_LARGEST <= leaf.value <= _LARGEST
    return leaf.op in OPERATORS


def _all_nodes(filter: Filter) -> Iterator[Filter]:
    yield filter
    if isinstance(filter, (And, Or)):
        for part in filter.parts:
            yield from _all_nodes(part)
    elif isinstance(filter, Not):
        yield from _all_nodes(filter.part)


def _depth(filter: Filter) -> int:
    if isinstance(filter, (And, Or)):
        return 1 + max(map(_depth, filter.parts))
    return _depth(filter.part) if isinstance(filter, Not) else 1


def _operands(node: Filter) -> int:
    if isinstance(node, IdIn):
        return len(node.ids)
    return len(node.value) if isinstance(node, Compare) and isinstance(node.value, list) else 1


def _compile(filter: Filter, negated: bool) -> str:
    """Negation is moved down to the conditions, which keeps the text flat."""
    if isinstance(filter, Not):
        return _compile(filter.part, not negated)
    if isinstance(filter, (And, Or)):
        word = " AND " if isinstance(filter, And) != negated else " OR "
        return "(" + word.join(_compile(part, negated) for part in filter.parts) + ")"
    if isinstance(filter, IdIn):
        return _negated(keys_in(filter.ids), negated)
    if isinstance(filter, Compare):
        return _negated(_compare(filter), negated)
    raise TypeError(f"cannot be compiled for LanceDB: {filter!r}")


def _negated(condition: str, negated: bool) -> str:
    return f"NOT ({condition})" if negated else condition


_SIGN = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


def _compare(leaf: Compare) -> str:
    path, value = leaf.name, leaf.value
    if leaf.op in ORDER:
        key = _quoted(_kind_term(path, order_kind(value) or ""))
        stored = f"array_element(order_values, CAST(array_position(order_keys, {key}) AS BIGINT))"
        return f"coalesce({stored} {_SIGN[leaf.op]} {_quoted(_sortable(value))}, false)"
    if leaf.op == "$eq":
        return _any_of([_code("=", path, value)])
    if leaf.op == "$in":
        return _any_of([_code("=", path, item) for item in value])
    if leaf.op == "$contains":
        return _any_of([_code("~", path, value)])
    if leaf.op == "$any":
        return _any_of([_code("~", path, item) for item in value])
    if leaf.op == "$all":
        members = [_any_of([_code("~", path, item)]) for item in value]
        return "(" + " AND ".join([_any_of([_kind_term(path, "list")]), *members]) + ")"
    exists, empty = _any_of([_kind_term(path, kind) for kind in _KINDS]), _any_of([_kind_term(path, "empty")])
    if leaf.op == "$exists":
        return exists if value else f"NOT {exists}"
    assert leaf.op == "$is_empty"
    return empty if value else f"({exists} AND NOT {empty})"


def _any_of(wanted: list[str]) -> str:
    """The row has one of these terms; with none to have, no row does."""
    listed = ",".join(map(_quoted, dict.fromkeys(wanted)))
    return f"array_has_any(terms, [{listed}])" if listed else _NOTHING


def _quoted(code: str) -> str:
    """The one place where a value enters SQL text: a code in quotes, and nothing else."""
    if not set(code) <= set("0123456789abcdef"):
        raise ValueError(f"{code!r} is no code")
    return f"'{code}'"
