"""Ids, texts, metadata and vectors as PostgreSQL takes them, without losing anything.

``text`` and ``jsonb`` refuse U+0000, and an index entry has at most 2,704 bytes. So the characters U+0000 to U+0003
are escaped, and a row's key is the SHA-256 of its id. The escape keeps the order by code point and substrings: each of
the four becomes U+0001 and two characters out of U+0002 and U+0003, and no such group begins inside another.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.values import kind

__all__ = [
    "KINDS",
    "MAX_DEPTH",
    "Binary",
    "BinaryDumper",
    "as_vector",
    "as_vector_array",
    "escape",
    "json_text",
    "jsonb_text",
    "key_of",
    "kind_tag",
    "kinds_of",
    "read_vector",
    "unescape",
]

KINDS = ("null", "bool", "number", "string", "list", "dict")
MAX_DEPTH = 16
"""Filters by longer paths are not asked of the database: the kinds of values are noted down to here."""
_LONGEST_TAG = 200

_ESCAPED = {"\x00": "\x01\x02\x02", "\x01": "\x01\x02\x03", "\x02": "\x01\x03\x02", "\x03": "\x01\x03\x03"}
_PLAIN = {after: before for before, after in _ESCAPED.items()}
_TO_ESCAPE = re.compile("[\x00-\x03]")
_TO_PLAIN = re.compile("\x01[\x02\x03][\x02\x03]")
_TO_ESCAPE_IN_JSON = re.compile(r"\\\\|\\u000[0-3]")


def escape(text: str) -> str:
    """A text that PostgreSQL takes."""
    return _TO_ESCAPE.sub(lambda found: _ESCAPED[found[0]], text)


def unescape(text: str) -> str:
    """The text that :func:`escape` was given."""
    return _TO_PLAIN.sub(lambda found: _PLAIN[found[0]], text) if "\x01" in text else text


def key_of(id: str) -> bytes:
    """The primary key of a row."""
    return hashlib.sha256(id.encode()).digest()


def json_text(value: Any) -> str:
    """JSON that gives the value back as it was: 1 stays 1, and 1.0 stays 1.0."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def jsonb_text(value: Any) -> str:
    """JSON for a ``jsonb`` in which equal values are equal: whole floats as integers, strings escaped.

    A ``jsonb`` number is a decimal; a float that is not whole is written with the fewest digits that tell it from
    every other, which keeps both order and equality among floats and integers.
    """
    exact = json.dumps(json.loads(json_text(value), parse_float=_by_value), ensure_ascii=False, separators=(",", ":"))
    return _TO_ESCAPE_IN_JSON.sub(_escape_in_json, exact)


def _by_value(text: str) -> float | int:
    number = float(text)
    return int(number) if number.is_integer() else number


def _escape_in_json(found: re.Match[str]) -> str:
    if found[0] == "\\\\":  # an escaped backslash, whatever follows it
        return found[0]
    return "".join(f"\\u{ord(character):04x}" for character in _ESCAPED[chr(int(found[0][2:], 16))])


def kinds_of(metadata: Mapping[str, Any]) -> list[str]:
    """What kind of value is at each path of one row, as tags, each once.

    >>> kinds_of({"year": 2020.0, "by": {}})
    ['number:year', 'dict:by', 'empty:by']
    """
    return list(dict.fromkeys(_kinds(metadata, "", 1)))


def kind_tag(kind: str, path: str) -> str:
    """One tag; the dots of the path are those of a filter. A long one is its SHA-256."""
    tag = f"{kind}:{escape(path)}"
    return tag if len(tag) <= _LONGEST_TAG else "#" + hashlib.sha256(tag.encode()).hexdigest()


def _kinds(metadata: Mapping[str, Any], outer: str, depth: int) -> Iterator[str]:
    for key, value in metadata.items():
        if not key or "." in key:  # no filter's path can name it
            continue
        path = outer + key
        yield kind_tag(kind(value), path)
        if value is None or (isinstance(value, (str, list, dict)) and not value):
            yield kind_tag("empty", path)
        if isinstance(value, dict) and depth < MAX_DEPTH:
            yield from _kinds(value, f"{path}.", depth + 1)


# -- vectors in PostgreSQL's binary format: the number of components, 16 unused bits, then big-endian floats -----------


class Binary(bytes):
    """A parameter in binary format whose type the statement says, as in ``%(q)b::vector``."""


class BinaryDumper(Dumper):
    """Sends :class:`Binary` as it is."""

    format = Format.BINARY

    def dump(self, obj: Any) -> Buffer | None:
        return bytes(obj)


def as_vector(vector: FloatArray) -> Binary:
    """A ``vector`` of ``(D,)``."""
    return Binary(_packed(vector, np.dtype(">f4")))


def as_vector_array(vectors: FloatArray, has_vector: npt.NDArray[np.bool_], element_oid: int, *, half: bool) -> Binary:
    """A ``vector[]`` (``halfvec[]``) of ``(N, D)`` with NULL where a row has no vector.

    Args:
        vectors: the rows.
        has_vector: which rows are there, ``(N,)``.
        element_oid: PostgreSQL's number for the type of the elements, which an extension gets when it is made.
        half: float16 instead of float32.
    """
    dtype = np.dtype(">f2" if half else ">f4")
    parts = [struct.pack(">iiiii", 1, 1, element_oid, len(vectors), 1)]
    for vector, there in zip(vectors, has_vector.tolist(), strict=True):
        if there:
            packed = _packed(vector, dtype)
            parts += [struct.pack(">i", len(packed)), packed]
        else:
            parts.append(b"\xff\xff\xff\xff")
    return Binary(b"".join(parts))


def _packed(vector: FloatArray, dtype: np.dtype[Any]) -> bytes:
    return struct.pack(">HH", len(vector), 0) + vector.astype(dtype).tobytes()


def read_vector(raw: Sequence[int] | bytes | None, *, half: bool) -> FloatArray | None:
    """A ``vector`` or ``halfvec`` of a binary result, as float32 ``(D,)``; None for NULL."""
    if raw is None:
        return None
    return np.frombuffer(bytes(raw), dtype=">f2" if half else ">f4", offset=4).astype(np.float32)
