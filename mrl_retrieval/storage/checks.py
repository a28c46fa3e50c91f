"""Checksums: of vectors, a block at once; of rows; of the entries of a metadata path, kept up to date by difference.

All three are part of the format (``docs/store-format.md``). A vector's is a multilinear hash rather than a CRC,
because NumPy computes it for a whole block in one product: 200 vectors of 512 bytes take 14 µs, their CRC-32s 57 µs.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from .fields import Scalar

__all__ = [
    "Sums",
    "are_sound",
    "as_int64",
    "digest_of",
    "entry_digest",
    "entry_hash",
    "multipliers",
    "row_crc",
    "text_crc",
    "vector_sums",
]

Sums = npt.NDArray[np.uint64]

_PRIME = 2**61 - 1
# Added to row numbers, so that none of them, negative ones included, is zero.
_ROW_OFFSET = 2**40


def vector_sums(records: npt.NDArray[np.uint8]) -> Sums:
    """The checksum of every stored vector: ``(n, row_bytes)`` to ``(n,)``.

    The sum of the record's little-endian 32-bit words (zeros appended to a whole one), each times its own odd 64-bit
    number, modulo 2**64. A change within one word is always seen, another one but for a chance of about 2**-32.
    """
    n, width = records.shape
    if width % 4:
        padded = np.zeros((n, width + -width % 4), dtype=np.uint8)
        padded[:, :width] = records
        records = padded
    words = np.ascontiguousarray(records).view("<u4")
    sums: Sums = np.einsum("nw,w->n", words, multipliers(words.shape[1]))
    return sums


@functools.lru_cache(maxsize=8)
def multipliers(count: int) -> Sums:
    """The first ``count`` outputs of splitmix64 from the state 0, made odd."""
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed ^ (mixed >> np.uint64(31))) | np.uint64(1)


def text_crc(text: str | None) -> int | None:
    """CRC-32 of a document in UTF-8; None for None."""
    return None if text is None else zlib.crc32(text.encode())


def row_crc(row: int, id: str, metadata: str, vector_sum: int | None, document_crc: int | None) -> int:
    """CRC-32 of what a row holds besides the text of its document, which has its own."""
    return zlib.crc32(f"{row} {vector_sum} {document_crc} {len(id)} {id}{metadata}".encode())


def are_sound(rows: Iterable[tuple[Any, ...]], sums: Sums | None, first: int, *, documents: bool) -> bool:
    """Whether all of some rows fit their checksums: :func:`row_crc`, :func:`text_crc`, and that of their vector.

    Args:
        rows: number, id, document, metadata, the three checksums: of vector, document, and row.
        sums: (n,) checksums of the vectors from the number ``first`` on; None: not known.
        first: the number of the first of them.
        documents: whether the documents were read.
    """
    crc32, end = zlib.crc32, first if sums is None else first + len(sums)
    try:
        for row, id, document, metadata, vector_sum, document_crc, crc in rows:
            # Their formulas once more, since the calls would cost as much as what they compute.
            if crc32(f"{row} {vector_sum} {document_crc} {len(id)} {id}{metadata}".encode()) != crc:
                return False
            if documents and (None if document is None else crc32(document.encode())) != document_crc:
                return False
            if (
                row >= 0
                and sums is not None
                and not (first <= row < end and sums.item(row - first) == vector_sum % 2**64)
            ):
                return False
    except (AttributeError, TypeError, UnicodeEncodeError):  # not even text
        return False
    return True


def entry_hash(kind: int, value: Scalar) -> int:
    """A number for a filter entry's kind and value, the same for values that are equal: 1 and 1.0."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return zlib.crc32(f"{kind} {value!r}".encode()) + 1


def entry_digest(digest: int, hashed: int, count: int, rows: int) -> int:
    """The digest of a path, with ``count`` entries of one kind and value more, whose row numbers add up to ``rows``.

    Negative counts take entries away. The digest is the sum of ``hash * (row + 2**40)`` modulo 2**61 - 1.
    """
    return (digest + hashed * (rows + count * _ROW_OFFSET)) % _PRIME


def digest_of(groups: Iterable[tuple[int, Scalar, int, int]]) -> int:
    """The digest of all entries of a path, given as kind, value, how many, and the sum of their row numbers."""
    crc32, total = zlib.crc32, 0
    for kind, value, count, rows in groups:  # entry_hash and entry_digest, without two calls for each
        if type(value) is float and value.is_integer():
            value = int(value)
        total += (crc32(f"{kind} {value!r}".encode()) + 1) * (rows + count * _ROW_OFFSET)
    return total % _PRIME


def as_int64(sums: Sums) -> list[int]:
    """As SQLite stores them: signed."""
    signed: list[Any] = sums.view(np.int64).tolist()
    return signed
