"""Filters as index lookups: each comparison is one fixed statement that gives row numbers, and ``$and``, ``$or`` and
``$not`` are set operations on bitmaps of row numbers.

No statement is ever put together from parts, however deep a filter is nested. A bitmap has a place for
every row number that may be in use: first those of rows without a vector, then those of vectors, both ascending.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.errors import CorruptionError, FilterError
from mrl_retrieval.filters import ORDER, And, Compare, Filter, IdIn, Not, Or, leaves, lookup, order_error

from .checks import digest_of
from .database import RESTORE
from .fields import DICT, ELEMENT, LIST, NULL, STRING, Scalar, encode, is_path
from .state import State, path_crc

__all__ = [
    "CHUNK",
    "CheckedPaths",
    "FilterQuery",
    "can_query",
    "in_chunks",
    "numbers_sum",
    "path_digest",
    "writable",
]

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
# Each statement, with its rows as one text of numbers.
_AS_TEXT = {
    statement: f"SELECT count(*), group_concat(row) FROM ({statement})"  # noqa: S608 - the constants above
    for statement in (_ROWS_OF_IDS, _EQUAL, _EXISTS, _OF_KIND, *_ORDERED.values(), _TEXT, _FOLDED)
}
_MOST_AS_TEXT = 50_000_000  # SQLite's texts have 10**9 characters at most
_DIGEST = "SELECT kind, value, count(*), sum(row) FROM field WHERE path = ? GROUP BY kind, value"
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


class CheckedPaths:
    """The metadata paths of a collection, held to their checksums: the list of them in each commit, the entries of each
    once, since later ones are our own."""

    def __init__(self, collection_id: str) -> None:
        self.collection_id = collection_id
        self._of: tuple[int, dict[str, tuple[int, int]]] = (-1, {})
        self._checked: set[int] = set()

    def number(self, connection: sqlite3.Connection, state: State, name: str) -> int | None:
        """The number of a path; None where there is none of that name.

        Raises:
            CorruptionError: the list of paths, or the entries of this one, are not as they were written.
        """
        found = self._table(connection, state).get(name)
        if found is None:
            return None
        path, expected = found
        if path not in self._checked:
            if (actual := path_digest(connection, path)) != expected:
                raise CorruptionError(
                    f"the filter index of {name!r} has checksum {actual}, expected {expected}: {RESTORE}"
                )
            self._checked.add(path)
        return path

    def _table(self, connection: sqlite3.Connection, state: State) -> dict[str, tuple[int, int]]:
        # Read whole, and not by the index of names, whose damage would make a path look as if it were not there.
        generation, table = self._of
        if generation != state.generation:
            rows = connection.execute("SELECT path, name, digest FROM path NOT INDEXED").fetchall()
            if (total := sum(path_crc(path, name) for path, name, _ in rows)) != state.paths:
                raise CorruptionError(f"the metadata paths have checksum {total}, expected {state.paths}: {RESTORE}")
            table = {name: (path, digest) for path, name, digest in rows}
            self._of = (state.generation, table)
        return table


def path_digest(connection: sqlite3.Connection, path: int) -> int:
    """The checksum of the entries that a path has."""
    return digest_of(connection.execute(_DIGEST, (path,)))


class FilterQuery:
    """Answers filters on one snapshot of the database. With ``checked`` None nothing is held to checksums."""

    def __init__(self, connection: sqlite3.Connection, state: State, checked: CheckedPaths | None) -> None:
        self._connection = connection
        self._state = state
        self._checked = checked

    def mask(self, filter: Filter | None) -> Mask:
        """Which rows match: ``(state.window,)``, a place for each row number that may be in use.

        Raises:
            FilterError: an order operator meets a stored value of another type, in whichever row.
            CorruptionError: the index is damaged.
        """
        if filter is None:
            return self.live()
        for condition in leaves(filter):
            if condition.op in ORDER:
                self._check_order(condition)
        return self._mask(filter)

    def live(self) -> Mask:
        """The rows that there are."""
        state = self._state
        gone = _numbers(self._connection.execute("SELECT row FROM tombstone"))
        live = np.ones(state.window, dtype=np.bool_)
        live[self._places(gone[(gone >= state.first) | ((gone < 0) & (gone < -state.first_bare))])] = False
        count = int(np.count_nonzero(live))
        if count != state.rows:
            raise CorruptionError(f"{count} rows are without a tombstone, expected {state.rows}: {RESTORE}")
        if self._checked is not None and (total := numbers_sum(live, state)) != state.numbers:
            raise CorruptionError(
                f"the numbers of the rows without a tombstone add up to {total}, expected {state.numbers}: {RESTORE}"
            )
        return live

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
            return self.live() if op == "$exists" and not value else self._union([])
        if op == "$eq":
            return self._found(_EQUAL, (path, *encode(value)))
        if op == "$in":
            return self._any_equal(path, 0, value)
        if op in ORDER:
            return self._found(_ORDERED[op], (path, *encode(value)))
        if op == "$exists":
            there = self._found(_EXISTS, (path,))
            return there if value else self.live() & ~there
        if op == "$contains":
            return self._any_equal(path, ELEMENT, [value])
        if op == "$any":
            return self._any_equal(path, ELEMENT, value)
        if op == "$all":
            lists = self._found(_OF_KIND, (path, LIST))
            return _all([lists, *(self._any_equal(path, ELEMENT, [item]) for item in value)])
        if op == "$text":
            return self._found(_TEXT, (path, STRING, value))
        if op == "$itext":
            return self._found(_FOLDED, (path, STRING, value.casefold()))
        if op == "$is_empty":
            empty = self._any_equal(path, 0, _EMPTY)
            return empty if value else self._found(_EXISTS, (path,)) & ~empty
        raise FilterError(f"unknown operator {op!r} on {condition.name!r}")

    def _any_equal(self, path: int, plus: int, values: Iterable[Any]) -> Mask:
        wanted = dict.fromkeys(map(encode, values))
        return self._union((_EQUAL, (path, plus + kind, stored)) for kind, stored in wanted)

    def _path(self, condition: Compare) -> int | None:
        if self._checked is not None:
            return self._checked.number(self._connection, self._state, condition.name)
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

    def _found(self, statement: str, values: Sequence[Scalar | None]) -> Mask:
        return self._union([(statement, values)])

    def _union(self, queries: Iterable[tuple[str, Sequence[Scalar | None]]]) -> Mask:
        mask = np.zeros(self._state.window, dtype=np.bool_)
        if rows := [self._rows(statement, values) for statement, values in queries]:
            mask[self._places(np.concatenate(rows))] = True
        return mask

    def _rows(self, statement: str, values: Sequence[Scalar | None]) -> npt.NDArray[np.int64]:
        if self._state.window > _MOST_AS_TEXT:
            return _numbers(self._connection.execute(statement, values))
        # One by one SQLite hands rows over in 260 ns each, as one text in 75.
        count, text = self._connection.execute(_AS_TEXT[statement], values).fetchone()
        rows = np.fromstring(text, dtype=np.int64, sep=",") if count and _are_numbers(text) else np.empty(0, np.int64)
        if len(rows) != count:
            raise CorruptionError(f"the database names a row that is no number, expected {count} numbers: {RESTORE}")
        return rows

    def _places(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where the rows of these numbers are in a bitmap."""
        state = self._state
        places = np.where(rows < 0, rows + state.bare, rows + (state.bare_window - state.first))
        wrong = (rows >= state.vectors) | ((rows >= 0) & (rows < state.first))
        wrong |= (rows < -state.bare) | ((rows < 0) & (rows >= -state.first_bare))
        if wrong.any():
            number = int(rows[np.flatnonzero(wrong)[0]])
            raise CorruptionError(
                f"the database names the row number {number}, expected one of {-state.bare} to "
                f"{-state.first_bare - 1} or {state.first} to {state.vectors - 1}: {RESTORE}"
            )
        return places


def numbers_sum(mask: Mask, state: State) -> int:
    """The sum of the row numbers at the places of a bitmap."""
    places = np.flatnonzero(mask)
    bare = int(np.count_nonzero(mask[: state.bare_window]))
    return int(places.sum()) - bare * state.bare + (len(places) - bare) * (state.first - state.bare_window)


def _numbers(found: Iterable[tuple[Any, ...]]) -> npt.NDArray[np.int64]:
    rows = list(itertools.chain.from_iterable(found))
    if wrong := [row for row in rows if type(row) is not int]:
        raise CorruptionError(f"the database names the row {wrong[0]!r:.80}, expected a number: {RESTORE}")
    return np.array(rows, dtype=np.int64)


def _are_numbers(text: str | None) -> bool:
    """Whether a text is of whole numbers, single commas between them: at anything else NumPy stops, and only warns."""
    digits = (text or "").removeprefix("-").replace(",-", ",")
    return digits.isascii() and digits.replace(",", "").isdecimal() and ",," not in f",{digits},"


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
