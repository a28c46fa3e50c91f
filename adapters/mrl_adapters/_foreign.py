"""What the importers of several databases settle alike: which column is what, ids, and rows without vectors."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from mrl_retrieval.errors import InvalidInput
from mrl_retrieval.moving.foreign import Fields, ForeignBatch

__all__ = ["TEXT_NAMES", "Column", "Roles", "check_ids", "check_options", "listed", "roles_of", "vectors_first"]

logger = logging.getLogger(__name__)

TEXT_NAMES = ("document", "text", "page_content", "content")
"""Names under which programs keep the text, in the order in which they are looked for."""
_MOST_LISTED = 30


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table, as far as it matters here."""

    name: str
    type: str
    """As the database words it."""
    kind: Literal["vector", "text", "object", "search", "other"]
    """``object``: names with values; ``search``: made for searches by other means, such as a sparse vector."""


@dataclass(frozen=True, slots=True)
class Roles:
    """Which columns are what."""

    vector: str
    text: str | None
    id: str | None
    metadata: tuple[str, ...]
    keys: frozenset[str] | None = None
    """Of the lifted object, which to keep; None: all."""
    lifted: bool = False
    """Whether the one metadata column holds objects that are the metadata themselves."""

    def metadata_of(self, values: Sequence[Any]) -> dict[str, Any]:
        """One row's metadata, of its values of the columns :attr:`metadata`."""
        if self.lifted and (values[0] is None or isinstance(values[0], Mapping)):
            return {key: value for key, value in (values[0] or {}).items() if self.keys is None or key in self.keys}
        return dict(zip(self.metadata, values, strict=True))


def roles_of(where: str, columns: Sequence[Column], fields: Fields, *, ids: Sequence[str] = ()) -> Roles:
    """Settle it: as asked; what was not asked for, where there is one choice.

    Args:
        where: what it is, for messages.
        ids: columns of the database's own key; of one, it is the id.

    Raises:
        InvalidInput: a column is not there, or of a type that cannot be it; or the choice is not clear.
    """
    known = {column.name: column for column in columns}
    there = listed(f"{column.name} {column.type}" for column in columns)
    for option, name in (("vector", fields.vector), ("text", fields.text), ("id", fields.id)):
        if name is not None and name not in known:
            raise InvalidInput(f"{where} has no column {name!r} for --{option}-field (there: {there})")
    vector = _vector(where, columns, fields.vector, there)
    id = fields.id or (ids[0] if len(ids) == 1 else None)
    for option, name in (("text", fields.text), ("id", id)):
        if name == vector:
            raise InvalidInput(f"{where}: {name!r} is the vector; name another column with --{option}-field")
    text = fields.text or _text(where, [c for c in columns if c.name != id])
    rest = [c for c in columns if c.name not in (vector, text, id)]
    left = [c for c in rest if c.kind not in ("vector", "search")]
    lifted = len(left) == 1 and left[0].kind == "object"
    wanted = fields.metadata
    if wanted is None:
        return Roles(vector, text, id, tuple(c.name for c in left), lifted=lifted)
    if missing := [name for name in wanted if name not in known]:
        if lifted and len(missing) == len(wanted):
            return Roles(vector, text, id, (left[0].name,), keys=frozenset(wanted), lifted=True)
        raise InvalidInput(f"{where} has no column {missing[0]!r} for --metadata-fields (there: {there})")
    return Roles(vector, text, id, wanted)


def _vector(where: str, columns: Sequence[Column], name: str | None, there: str) -> str:
    vectors = [column.name for column in columns if column.kind == "vector"]
    if name is None:
        if len(vectors) == 1:
            return vectors[0]
        if vectors:
            raise InvalidInput(f"{where} has several vectors ({listed(vectors)}): name one with --vector-field")
        raise InvalidInput(f"{where} has no column of vectors (there: {there})")
    if name not in vectors:
        raise InvalidInput(
            f"{where}: the column {name!r} does not hold vectors that can be taken over (there: {there}); name one of "
            f"{listed(vectors) or 'another table'} with --vector-field"
        )
    return name


def _text(where: str, columns: Sequence[Column]) -> str | None:
    texts = [column.name for column in columns if column.kind == "text"]
    if named := [name for name in TEXT_NAMES if name in texts]:
        return named[0]
    if len(texts) > 1:
        logger.warning(
            "%s: none of the columns %s is taken as the text, all are metadata; name one with --text-field",
            where,
            listed(texts),
        )
    return texts[0] if len(texts) == 1 else None


def listed(names: Iterable[str]) -> str:
    """Names for a message."""
    known = list(names)
    return ", ".join(known[:_MOST_LISTED]) + (f" and {len(known) - _MOST_LISTED} more" * (len(known) > _MOST_LISTED))


def check_options(importer: str, options: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise :class:`InvalidInput` for an option that means nothing to an importer."""
    allowed = sorted(known)
    if unknown := sorted(set(options) - set(allowed)):
        raise InvalidInput(
            f"importing from {importer} takes no option {unknown[0]!r}; it takes {', '.join(allowed) or 'none'}"
        )


def check_ids(where: str, name: str, values: Iterable[Any]) -> None:
    """Raise :class:`InvalidInput` where a field, named as the id, is no id: missing, no string or number, or twice."""
    seen: set[str] = set()
    for value in values:
        if value is None:
            raise InvalidInput(f"{where}: a row has no {name!r}, so it cannot be the id; name another --id-field")
        if isinstance(value, bool) or not isinstance(value, (str, int, uuid.UUID)):
            raise InvalidInput(
                f"{where}: {name!r} is {type(value).__name__} in a row; an id is a string, a whole number or a UUID: "
                "name another --id-field"
            )
        if (id := str(value)) in seen:
            raise InvalidInput(f"{where}: two rows have {id!r} as {name!r}, an id is in one: name another --id-field")
        seen.add(id)


def vectors_first(read: Callable[[], Iterator[ForeignBatch]]) -> Iterator[ForeignBatch]:
    """The batches of ``read()``, those at its start that have no vector last: the first vector tells the dims.

    Args:
        read: reads all rows, in the same order each time.
    """
    put_off, found = 0, False
    for batch in read():
        found = found or any(vector is not None for vector in batch.vectors)
        if found:
            yield batch
        else:
            put_off += 1
    yield from islice(read(), put_off)
