"""Filters as index lookups: each comparison is one fixed statement that gives row numbers, and ``$and``, ``$or`` and
``$not`` are set operations on bitmaps of row numbers.

No statement is ever put together from parts, however deep a filter is nested. Row numbers are counted from ``-bare``,
so that a bitmap has ``bare`` places for rows without a vector, then one for each vector.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.errors import FilterError
from mrl_retrieval.filters import ORDER, And, Compare, Filter, IdIn, Not, Or, leaves, lookup, order_error

from .fields import DICT, ELEMENT, LIST, NULL, STRING, Scalar, encode, is_path

__all__ = ["CHUNK", "FilterQuery", "can_query", "in_chunks", "writable"]

Mask = npt.NDArray[np.bool_]

CHUNK = 500
_PLACES = ",".join("?" * CHUNK)
_ROWS_OF_IDS = f"SELECT row FROM row WHERE id IN ({_PLACES})"  # noqa: S608 - nothing but question marks
_EQUAL = "SELECT row FROM field WHERE path = ? AND kind = ? AND value = ?"
_EXISTS = "SELECT row FROM field WHERE path = ? AND kind < 10"
_OF_KIND = "SELECT row FROM field WHERE path = ? AND kind = ?"
_ORDERED = {
    "$gt": "SELECT row FROM field WHERE path = ? AND kind = ? AND value > ?",
    "$gte": "SELECT row FROM field WHERE path = ? AND kind = ? AND value >= ?",
    "$lt": "SELECT row FROM field WHERE path = ? AND kind = ? AND value < ?",
    "$lte": "SELECT row FROM field WHERE path = ? AND kind = ? AND value <= ?",
}
_TEXT = "SELECT row FROM field WHERE path = ? AND kind = ? AND instr(value, ?) > 0"
_FOLDED = "SELECT row FROM field WHERE path = ? AND kind = ? AND instr(mrl_casefold(value), ?) > 0"
_EMPTY: tuple[Any, ...] = (None, "", [], {})


def can_query(filter: Filter) -> bool:
    """Whether :class:`FilterQuery` answers this filter exactly. What it cannot: paths that no filter dict can write,
    and whole numbers beyond 64 bits, which SQLite does not have."""
    return all(is_path(leaf.path) and _fits(leaf.value) for leaf in leaves(filter))


def _fits(value: Any) -> bool:
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    # Within a dict a number is part of a digest, whatever its size.
    return all(map(_fits, value)) if isinstance(value, list) else True


class FilterQuery:
    """Answers filters on one snapshot of the database."""

    def __init__(self, connection: sqlite3.Connection, bare: int, vectors: int) -> None:
        self._connection = connection
        self._bare, self._size = bare, bare + vectors

    def mask(self, filter: Filter | None) -> Mask:
        """Which rows match: ``(bare + vectors,)``; place ``i`` is row number ``i - bare``.

        Raises:
            FilterError: an order operator meets a stored value of another type, in whichever row.
        """
        if filter is None:
            return self.live()
        for condition in leaves(filter):
            if condition.op in ORDER:
                self._check_order(condition)
        return self._mask(filter)

    def live(self) -> Mask:
        """The rows that there are."""
        return ~self._collect("SELECT row FROM tombstone", ())

    def _mask(self, filter: Filter) -> Mask:
        if isinstance(filter, Compare):
            return self._compare(filter)
        if isinstance(filter, And):
            return _all([self._mask(part) for part in filter.parts])
        if isinstance(filter, Or):
            return ~_all([~self._mask(part) for part in filter.parts])
        if isinstance(filter, Not):
            return self.live() & ~self._mask(filter.part)
        if isinstance(filter, IdIn):
            return self._union((_ROWS_OF_IDS, chunk) for chunk in in_chunks(writable(filter.ids)))
        raise TypeError(f"not a filter: {filter!r}")

    def _compare(self, condition: Compare) -> Mask:
        op, value = condition.op, condition.value
        path = self._path(condition)
        if path is None:
            return self.live() if op == "$exists" and not value else self._none()
        if op == "$eq":
            return self._collect(_EQUAL, (path, *encode(value)))
        if op == "$in":
            return self._any_equal(path, 0, value)
        if op in ORDER:
            return self._collect(_ORDERED[op], (path, *encode(value)))
        if op == "$exists":
            there = self._collect(_EXISTS, (path,))
            return there if value else self.live() & ~there
        if op == "$contains":
            return self._any_equal(path, ELEMENT, [value])
        if op == "$any":
            return self._any_equal(path, ELEMENT, value)
        if op == "$all":
            lists = self._collect(_OF_KIND, (path, LIST))
            return _all([lists, *(self._any_equal(path, ELEMENT, [item]) for item in value)])
        if op == "$text":
            return self._collect(_TEXT, (path, STRING, value))
        if op == "$itext":
            return self._collect(_FOLDED, (path, STRING, value.casefold()))
        if op == "$is_empty":
            empty = self._any_equal(path, 0, _EMPTY)
            return empty if value else self._collect(_EXISTS, (path,)) & ~empty
        raise FilterError(f"unknown operator {op!r} on {condition.name!r}")

    def _any_equal(self, path: int, plus: int, values: Iterable[Any]) -> Mask:
        wanted = dict.fromkeys(map(encode, values))
        return self._union((_EQUAL, (path, plus + kind, stored)) for kind, stored in wanted)

    def _path(self, condition: Compare) -> int | None:
        found = self._connection.execute("SELECT path FROM path WHERE name = ?", (condition.name,)).fetchone()
        return None if found is None else int(found[0])

    def _check_order(self, condition: Compare) -> None:
        path = self._path(condition)
        if path is None:
            return
        mine, _ = encode(condition.value)
        for kind in range(DICT + 1):
            if kind in (NULL, mine):
                continue
            found = self._connection.execute(
                "SELECT row.id, row.metadata FROM field JOIN row USING (row) WHERE path = ? AND kind = ? LIMIT 1",
                (path, kind),
            ).fetchone()
            if found is not None:
                holder, metadata = found
                if error := order_error(condition, holder, lookup(json.loads(metadata), condition.path)):
                    raise error

    def _none(self) -> Mask:
        return np.zeros(self._size, dtype=np.bool_)

    def _collect(self, statement: str, values: Sequence[Scalar | None]) -> Mask:
        return self._union([(statement, values)])

    def _union(self, queries: Iterable[tuple[str, Sequence[Scalar | None]]]) -> Mask:
        mask = self._none()
        for statement, values in queries:
            found = self._connection.execute(statement, values)
            rows = np.fromiter(itertools.chain.from_iterable(found), dtype=np.int64)
            mask[rows + self._bare] = True
        return mask


def _all(masks: list[Mask]) -> Mask:
    both: Mask = np.logical_and.reduce(masks)
    return both


def in_chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    """Lists of exactly :data:`CHUNK` values, the last filled up with None, which equals nothing in SQL."""
    left = iter(values)
    while chunk := list(itertools.islice(left, CHUNK)):
        yield chunk + [None] * (CHUNK - len(chunk))


def writable(ids: Iterable[str]) -> Iterator[str]:
    """Without those that UTF-8 cannot hold, which are nobody's id."""
    for text in ids:
        try:
            text.encode()
        except UnicodeEncodeError:
            continue
        yield text
