"""Metadata as Qdrant sees it: what is stored beside a point, and how a filter asks for it.

Qdrant's own conditions mean something else than ours where it matters: a match on a list matches any element, 1 and
1.0 are different, a missing key and an empty list are one. So every value is stored a second time as *tags*, plain
keywords such as ``"year":number``, ``"year"=2020`` or ``"topics"~"git"``, and all but the order of numbers is asked of
them: one match of a keyword, the same in local mode and on a server, fast with one payload index. The order of
numbers is a range on the native value, held to the tag that says that the value is a number.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mrl_retrieval.documents import canonical_json
from mrl_retrieval.filters import ORDER, And, Compare, Filter, IdIn, Not, Or, leaves, order_kind
from mrl_retrieval.values import by_value, kind

__all__ = [
    "ID",
    "JSON",
    "NATIVE",
    "OPERATORS_PUSHED",
    "TAGS",
    "can_push",
    "compile_filter",
    "metadata_path",
    "native_copy",
    "out_of_order",
    "point_id",
    "tags_of",
]

JSON = dict[str, Any]
"""An object in the words of Qdrant's REST interface."""

NATIVE = "metadata"
"""Payload key of the metadata as nested JSON, for a user's own tools and for ranges."""
ID = "_mrl_id"
"""Payload key of our id."""
TAGS = "_mrl_tags"
"""Payload key of the tags."""

OPERATORS_PUSHED = ORDER | {"$eq", "$ne", "$in", "$nin", "$exists", "$contains", "$any", "$all", "$is_empty"}

# Part of the format: another value would make every row a second time.
_NAMESPACE = uuid.UUID("0d0c8a3e-6f43-5b0e-8a57-6d726c716472")

_KINDS = ("null", "bool", "number", "string", "list", "dict")
_UNORDERED = ("bool", "string", "list", "dict")
_LONGEST_TAG = 128
_DEEPEST = 16
"""Metadata nested deeper than this is given back, but not tagged nor stored natively: a server's parser has a limit."""
_EXACT = 2**53
"""A range's bounds are doubles: beyond this an integer and its double differ."""
_CLAUSES = frozenset({"must", "should", "must_not"})
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


def point_id(id: str) -> str:
    """Qdrant's id of a row: a point is named by a UUID or a whole number, never by a string."""
    return str(uuid.uuid5(_NAMESPACE, id))


def tags_of(metadata: Mapping[str, Any]) -> list[str]:
    """The tags of one row, each once.

    >>> tags_of({"year": 2020.0, "by": []})
    ['"year":number', '"year"=2020', '"by":list', '"by"=[]', '"by":empty']
    """
    return list(dict.fromkeys(_tags(metadata, "", 1)))


def _tags(metadata: Mapping[str, Any], outer: str, depth: int) -> Iterator[str]:
    for key, value in metadata.items():
        if not key or "." in key:  # no filter's path can name it
            continue
        path = outer + key
        yield _kind_tag(path, kind(value))
        yield _value_tag(path, "=", value)
        if value is None or (isinstance(value, (str, list, dict)) and not value):
            yield _kind_tag(path, "empty")
        if isinstance(value, list):
            for item in value:
                yield _value_tag(path, "~", item)
        elif isinstance(value, dict) and depth < _DEEPEST:
            yield from _tags(value, f"{path}.", depth + 1)


def _kind_tag(path: str, kind: str) -> str:
    return _short(f"{json.dumps(path, ensure_ascii=False)}:{kind}")


def _value_tag(path: str, relation: str, value: Any) -> str:
    return _short(json.dumps(path, ensure_ascii=False) + relation + canonical_json(by_value(value)))


def _short(tag: str) -> str:
    """A tag begins with a quotation mark; a long one is its SHA-256."""
    return tag if len(tag) <= _LONGEST_TAG else "#" + hashlib.sha256(tag.encode()).hexdigest()


def native_copy(value: Any, depth: int = 1) -> Any:
    """Metadata as nested JSON, emptied below the depth that a server's parser is sure to take."""
    if isinstance(value, dict):
        return {} if depth > _DEEPEST else {key: native_copy(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [] if depth > _DEEPEST else [native_copy(item, depth + 1) for item in value]
    return value


# -- filters -----------------------------------------------------------------------------------------------


def can_push(filter: Filter) -> bool:
    """Whether Qdrant can say this filter exactly."""
    return all(_can_push(leaf) for leaf in leaves(filter))


def _can_push(leaf: Compare) -> bool:
    if leaf.op not in OPERATORS_PUSHED or len(leaf.path) > _DEEPEST:
        return False
    if leaf.op not in ORDER:
        return True
    # Qdrant orders numbers and dates, no strings; a key with a quotation mark cannot be quoted.
    is_number = order_kind(leaf.value) == "number"
    return is_number and -_EXACT < leaf.value < _EXACT and not any('"' in part for part in leaf.path)


def compile_filter(filter: Filter | None) -> JSON | None:
    """A filter that :func:`can_push` accepts, in Qdrant's words; None for none."""
    if filter is None:
        return None
    condition = _condition(filter)
    return condition if condition.keys() <= _CLAUSES else {"must": [condition]}


def out_of_order(filter: Filter | None) -> JSON | None:
    """Finds the rows for which an order operator of the filter is an error; None where no row can be one."""
    paths = dict.fromkeys(leaf.name for leaf in leaves(filter) if leaf.op in ORDER)
    return {"must": [_tagged([_kind_tag(p, k) for p in paths for k in _UNORDERED])]} if paths else None


def metadata_path(path: Sequence[str]) -> str:
    """A path into the native metadata, quoted as Qdrant wants it.

    >>> metadata_path(["author", "full name"])
    'metadata.author."full name"'
    """
    return ".".join([NATIVE, *(part if _PLAIN_KEY.fullmatch(part) else f'"{part}"' for part in path)])


def _condition(filter: Filter) -> JSON:
    if isinstance(filter, And):
        return {"must": [_condition(part) for part in filter.parts]}
    if isinstance(filter, Or):
        return {"should": [_condition(part) for part in filter.parts]}
    if isinstance(filter, Not):
        return {"must_not": [_condition(filter.part)]}
    if isinstance(filter, IdIn):
        return {"has_id": list(map(point_id, sorted(filter.ids)))} if filter.ids else _tagged([])
    if isinstance(filter, Compare):
        return _compare(filter)
    raise TypeError(f"not a filter: {filter!r}")


def _compare(leaf: Compare) -> JSON:
    name, value = leaf.name, leaf.value
    if leaf.op in ORDER:
        field = {"key": metadata_path(leaf.path), "range": {leaf.op[1:]: float(value)}}
        return {"must": [_tagged([_kind_tag(name, "number")]), field]}
    if leaf.op == "$eq":
        return _tagged([_value_tag(name, "=", value)])
    if leaf.op == "$in":
        return _tagged([_value_tag(name, "=", item) for item in value])
    if leaf.op == "$contains":
        return _tagged([_value_tag(name, "~", value)])
    if leaf.op == "$any":
        return _tagged([_value_tag(name, "~", item) for item in value])
    if leaf.op == "$all":
        members = [_tagged([_value_tag(name, "~", item)]) for item in value]
        return {"must": [_tagged([_kind_tag(name, "list")]), *members]}
    exists, empty = _tagged([_kind_tag(name, kind) for kind in _KINDS]), _tagged([_kind_tag(name, "empty")])
    if leaf.op == "$exists":
        return exists if value else {"must_not": [exists]}
    assert leaf.op == "$is_empty"
    return empty if value else {"must": [exists], "must_not": [empty]}


def _tagged(tags: list[str]) -> JSON:
    """The row has one of these tags; with none to have, no row does."""
    return {"key": TAGS, "match": {"value": tags[0]} if len(tags) == 1 else {"any": tags or ["#"]}}
