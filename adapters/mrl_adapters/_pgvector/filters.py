"""Filters as SQL conditions on a row ``t``: every value is a parameter, and no condition is ever NULL.

Metadata lies in ``jsonb``, where equality is ours (numbers by value, a bool is no number). ``@>`` is what the GIN index
answers; it says less than our operators do, so it only narrows the rows down, and the exact condition follows it.
Paths go down by ``->`` with text keys, which is NULL on a list, where ``#>`` would count its items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import sql
from psycopg.adapt import PyFormat

from mrl_retrieval.filters import OPERATORS, ORDER, And, Compare, Filter, IdIn, Not, Or, leaves, order_kind

from .values import KINDS, MAX_DEPTH, escape, jsonb_text, key_of, kind_tag

__all__ = ["PUSHED", "Parameters", "can_push", "condition", "out_of_order"]

PUSHED = OPERATORS - {"$itext"}
"""All but folded case, which PostgreSQL does by other rules than Python."""

_SIGNS = {"$gt": sql.SQL(">"), "$gte": sql.SQL(">="), "$lt": sql.SQL("<"), "$lte": sql.SQL("<=")}
_MOST_INDEXED = 100
"""Of longer lists the index is not asked: it is looked into once for each item."""
_MOST_LEAVES = 500


class Parameters:
    """Values of one statement, by name."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def add(self, value: Any, *, binary: bool = False) -> sql.Composable:
        """The placeholder of a value."""
        name = f"p{len(self.values)}"
        self.values[name] = value
        return sql.Placeholder(name, format=PyFormat.BINARY if binary else PyFormat.AUTO)

    def jsonb(self, value: Any) -> sql.Composable:
        """The placeholder of a JSON value."""
        return sql.SQL("{}::jsonb").format(self.add(jsonb_text(value)))

    def jsonbs(self, values: Sequence[Any]) -> sql.Composable:
        """The placeholder of a list of JSON values."""
        return sql.SQL("{}::text[]::jsonb[]").format(self.add(list(map(jsonb_text, values))))

    def keys(self, ids: Sequence[str]) -> sql.Composable:
        """The placeholder of the keys of rows."""
        return sql.SQL("{}::bytea[]").format(self.add(list(map(key_of, ids)), binary=True))


def can_push(filter: Filter) -> bool:
    """Whether PostgreSQL can say this filter exactly, in a statement of reasonable length."""
    found = list(leaves(filter))
    return len(found) <= _MOST_LEAVES and all(leaf.op in PUSHED and len(leaf.path) <= MAX_DEPTH for leaf in found)


def condition(filter: Filter | None, parameters: Parameters) -> sql.Composable:
    """A filter that :func:`can_push` accepts, as a condition; ``TRUE`` for none."""
    if filter is None:
        return sql.SQL("TRUE")
    if isinstance(filter, (And, Or)):
        joint = sql.SQL(" AND " if isinstance(filter, And) else " OR ")
        return sql.SQL("({})").format(joint.join([condition(part, parameters) for part in filter.parts]))
    if isinstance(filter, Not):
        return sql.SQL("(NOT {})").format(condition(filter.part, parameters))
    if isinstance(filter, IdIn):
        return sql.SQL("(t.key = ANY({}))").format(parameters.keys(sorted(filter.ids)))
    if isinstance(filter, Compare):
        return _compare(filter, parameters)
    raise TypeError(f"not a filter: {filter!r}")


def out_of_order(filter: Filter | None, parameters: Parameters) -> sql.Composable | None:
    """Finds the rows for which an order operator of the filter is an error; None where it has none."""
    tags = [
        kind_tag(kind, leaf.name)
        for leaf in leaves(filter)
        if leaf.op in ORDER
        for kind in KINDS
        if kind not in ("null", order_kind(leaf.value))
    ]
    return _tagged(list(dict.fromkeys(tags)), parameters) if tags else None


def _compare(leaf: Compare, parameters: Parameters) -> sql.Composable:
    path, value = leaf.path, leaf.value
    if leaf.op == "$eq":
        return _one_of(path, [value], parameters)
    if leaf.op == "$in":
        return _one_of(path, value, parameters)
    if leaf.op == "$contains":
        return _holds_one_of(path, [value], parameters)
    if leaf.op == "$any":
        return _holds_one_of(path, value, parameters)
    if leaf.op == "$all":
        parts = [_tagged([kind_tag("list", leaf.name)], parameters)]
        parts += [_holds_one_of(path, [item], parameters) for item in value]
        return sql.SQL("({})").format(sql.SQL(" AND ").join(parts))
    if leaf.op == "$exists":
        exists = _tagged([kind_tag(kind, leaf.name) for kind in KINDS], parameters)
        return exists if value else sql.SQL("(NOT {})").format(exists)
    if leaf.op == "$is_empty":
        empty = _tagged([kind_tag("empty", leaf.name)], parameters)
        exists = _tagged([kind_tag(kind, leaf.name) for kind in KINDS], parameters)
        return empty if value else sql.SQL("({} AND NOT {})").format(exists, empty)
    found = _at(path, parameters)
    if leaf.op == "$text":
        return sql.SQL(
            "COALESCE(jsonb_typeof({found}) = 'string' AND "
            """strpos(({found} #>> '{{}}') COLLATE "C", {value}::text COLLATE "C") > 0, FALSE)"""
        ).format(found=found, value=parameters.add(escape(value)))
    assert leaf.op in ORDER
    if order_kind(value) == "number":
        return sql.SQL("COALESCE(jsonb_typeof({found}) = 'number' AND {found} {sign} {value}, FALSE)").format(
            found=found, sign=_SIGNS[leaf.op], value=parameters.jsonb(value)
        )
    return sql.SQL(
        "COALESCE(jsonb_typeof({found}) = 'string' AND "
        """({found} #>> '{{}}') COLLATE "C" {sign} {value}::text COLLATE "C", FALSE)"""
    ).format(found=found, sign=_SIGNS[leaf.op], value=parameters.add(escape(value)))


def _at(path: Sequence[str], parameters: Parameters) -> sql.Composable:
    """The value at a path: NULL where there is none."""
    steps = [sql.SQL("t.metadata"), *(sql.SQL("{}::text").format(parameters.add(escape(key))) for key in path)]
    return sql.SQL("({})").format(sql.SQL(" -> ").join(steps))


def _one_of(path: Sequence[str], values: Sequence[Any], parameters: Parameters) -> sql.Composable:
    return sql.SQL("({} AND COALESCE({} = ANY({}), FALSE))").format(
        _narrowed(path, values, parameters), _at(path, parameters), parameters.jsonbs(values)
    )


def _holds_one_of(path: Sequence[str], values: Sequence[Any], parameters: Parameters) -> sql.Composable:
    """The value is a list with one of these among its elements."""
    return sql.SQL(
        "({narrowed} AND CASE WHEN jsonb_typeof({found}) = 'array' THEN EXISTS "
        "(SELECT FROM jsonb_array_elements({found}) AS e(v) WHERE e.v = ANY({values})) ELSE FALSE END)"
    ).format(
        narrowed=_narrowed(path, [[value] for value in values], parameters),
        found=_at(path, parameters),
        values=parameters.jsonbs(values),
    )


def _narrowed(path: Sequence[str], values: Sequence[Any], parameters: Parameters) -> sql.Composable:
    """What the index can say of a row that has one of these values at a path."""
    if len(values) > _MOST_INDEXED:
        return sql.SQL("TRUE")
    nested = [_nested(path, value) for value in values]
    if len(nested) == 1:
        return sql.SQL("t.metadata @> {}").format(parameters.jsonb(nested[0]))
    return sql.SQL("t.metadata @> ANY({})").format(parameters.jsonbs(nested))


def _nested(path: Sequence[str], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def _tagged(tags: list[str], parameters: Parameters) -> sql.Composable:
    """The row has one of these tags."""
    return sql.SQL("(t.kinds && {}::text[])").format(parameters.add(tags))
