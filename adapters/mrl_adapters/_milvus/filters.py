"""Our filters as Milvus expressions, in which nothing of a user's stands but harmless ids and numbers.

Milvus's JSON fields know no difference between a missing key and a null, and Milvus Lite evaluates them row by row in
Python. So a row carries :mod:`terms <.._terms>`, strings that say what is true of its metadata and about which a filter
becomes questions, each as a hash in base32. A server keeps them as an indexed array; Milvus Lite as one string, in
which a term is looked for as ``.HASH``. Numbers are kept under hashed names of their own, for their order.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mrl_retrieval.filters import Compare, Filter

from .. import _terms as terms

__all__ = [
    "LONGEST_TERM",
    "MOST_TERMS",
    "OPERATORS",
    "can_compile",
    "compile_filter",
    "either",
    "hashed_numbers",
    "hashed_terms",
    "key_in",
    "offenders",
]

OPERATORS = terms.OPERATORS
can_compile = terms.can_compile

LONGEST_TERM = 24
"""Letters of a hashed term: 120 bits, so that nobody finds two terms with one hash."""
MOST_TERMS = 65_535 // (LONGEST_TERM + 1)
"""Terms of one row; a row that has more cannot be found by them."""

_NUMBER = "n_"


def hashed_terms(metadata: Mapping[str, Any]) -> list[str]:
    """What is true of a row with this metadata, each as a hash, each once."""
    return list(dict.fromkeys(_hash(term) for term in terms.terms(metadata)))


def hashed_numbers(metadata: Mapping[str, Any]) -> dict[str, int | float]:
    """The numbers of a row under names that Milvus can take."""
    return {_NUMBER + _hash(key): value for key, value in terms.number_keys(metadata).items()}


def compile_filter(filter: Filter, listed: bool) -> str:
    """The expression of a filter for which :func:`can_compile` holds. The order errors are not in it."""
    return _expression(terms.compile_where(filter), listed)


def offenders(filter: Filter, listed: bool) -> Iterator[tuple[Compare, str]]:
    """Each order condition of the filter, with an expression for the rows for which it is an error."""
    for condition, where in terms.order_offenders(filter):
        yield condition, _expression(where, listed)


def key_in(field: str, keys: Iterable[str]) -> str:
    """The field is one of these strings, which need no escaping."""
    return f"{field} in [" + ",".join(f'"{key}"' for key in keys) + "]"


def either(parts: Iterable[str]) -> str:
    """One of these expressions holds."""
    return " or ".join(f"({part})" for part in parts)


def _expression(where: dict[str, Any], listed: bool) -> str:
    ((key, value),) = where.items()
    if key in ("$and", "$or"):
        return f" {key[1:]} ".join(f"({_expression(part, listed)})" for part in value)
    ((op, operand),) = value.items()
    if key == terms.TERMS:
        has = _has(operand, listed)
        return f"not ({has})" if op == "$not_contains" else has
    # Milvus Lite keeps numbers that a new version of the row no longer has; its terms are always the new ones.
    return f"({_has(key, listed)}) and ({_NUMBER}{_hash(key)} {_SIGNS[op]} {_literal(operand)})"


_SIGNS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


def _has(term: str, listed: bool) -> str:
    return f'array_contains(terms, "{_hash(term)}")' if listed else f'terms like "%.{_hash(term)}%"'


def _literal(number: int | float) -> str:
    return repr(int(number)) if float(number).is_integer() else repr(float(number))


@functools.lru_cache(maxsize=65_536)
def _hash(term: str) -> str:
    digest = hashlib.blake2b(term.encode(), digest_size=LONGEST_TERM * 5 // 8).digest()
    return base64.b32encode(digest).decode("ascii").lower()
