"""Metadata as Chroma can filter it: terms, and numbers as integers that stand for them.

Chroma's metadata has no nested dicts, no empty lists and no None to look for. So a row carries, next to the JSON of its
metadata, a list of :mod:`terms <._terms>`. A new list replaces the old one as a whole, where Chroma would merge single
keys of the old and the new metadata.

Numbers are ordered by integers that stand for them, because Chroma orders nothing else exactly: it cuts the fraction
off an operand before it compares it with an integer, and a server reads a float as one of its neighbours.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

from mrl_retrieval.filters import Filter

from .. import _terms
from .._terms import NUMBER, OPERATORS, TERMS, Where, can_compile, number_keys, order_offenders, terms

__all__ = [
    "NUMBER",
    "OPERATORS",
    "ROWS",
    "TERMS",
    "Where",
    "can_compile",
    "compile_where",
    "order_offenders",
    "rank",
    "ranks",
    "terms",
]

ROWS: Where = _terms.has(".")
"""Finds every row, and no bare vector."""


def compile_where(filter: Filter) -> Where:
    """The ``where`` of a filter for which :func:`can_compile` holds. The order errors are not in it."""
    return _terms.compile_where(filter, rank)


def ranks(metadata: Mapping[str, Any]) -> dict[str, int]:
    """The :func:`rank` of each of them, under the same keys."""
    return {key: rank(value) for key, value in number_keys(metadata).items()}


def rank(value: float) -> int:
    """An integer of 64 bits for a number; two of them have the order of their numbers, if one is within ±2**53.

    It is the bits of the double, which count up with its size. An integer that no double equals gets the rank of the
    double next to it, on the side away from zero.

    >>> rank(-0.5) < rank(-0.0) == rank(0) < rank(5e-324) < rank(4) == rank(4.0) < rank(4.5) < rank(5)
    True
    """
    size = abs(float(value))
    if size < abs(value):
        size = math.nextafter(size, math.inf)
    bits: int = struct.unpack(">q", struct.pack(">d", size))[0]
    return -bits if value < 0 else bits
