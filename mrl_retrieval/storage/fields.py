"""Metadata as rows of an index: what is stored of one value so that every filter operator is an index lookup.

A dict becomes one entry ``(path, kind, value)`` for each value in it, nested dicts by dotted path; a list becomes an
entry of its own and one for each distinct element. Lists and dicts are compared by the digest of a canonical form.
Part of the format: a stored entry is removed by computing it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from mrl_retrieval.documents import canonical_json

__all__ = ["DICT", "ELEMENT", "LIST", "NULL", "NUMBER", "STRING", "Entry", "Scalar", "encode", "entries", "is_path"]

Scalar = int | float | str | bytes
Entry = tuple[str, int, Scalar]

NULL, BOOL, NUMBER, STRING, LIST, DICT = range(6)
ELEMENT = 10
"""Added to the kind of a list's element."""


def entries(metadata: Mapping[str, Any]) -> list[Entry]:
    """The entries of one row's metadata, each once.

    >>> entries({"a": 1, "b": {"c": "x"}})[0]
    ('a', 2, 1)
    """
    return list(dict.fromkeys(_walk(metadata, "")))


def _walk(metadata: Mapping[str, Any], above: str) -> Iterator[Entry]:
    for key, value in metadata.items():
        if not key or "." in key:
            continue  # a filter's path cannot name it
        path = above + key
        yield path, *encode(value)
        if isinstance(value, Mapping):
            yield from _walk(value, path + ".")
        elif isinstance(value, list):
            for item in value:
                kind, stored = encode(item)
                yield path, ELEMENT + kind, stored


def encode(value: Any) -> tuple[int, Scalar]:
    """Kind and stored form of a JSON value: equal in meaning if and only if equal in both."""
    if value is None:
        return NULL, 0
    if isinstance(value, bool):
        return BOOL, int(value)
    if isinstance(value, (int, float)):
        return NUMBER, value
    if isinstance(value, str):
        return STRING, value
    kind = LIST if isinstance(value, list) else DICT
    return kind, hashlib.blake2b(canonical_json(_canonical(value)).encode(), digest_size=16).digest()


def is_path(path: tuple[str, ...]) -> bool:
    """Whether the entries can tell about this path: no part is empty, holds a dot, or cannot be written as UTF-8."""
    return bool(path) and all(part and "." not in part and _is_text(part) for part in path)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _canonical(value: Any) -> Any:
    """Numbers of equal value in one spelling; everything else as it is."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _canonical(item) for key, item in value.items()}
    return value
