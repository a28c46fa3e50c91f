"""How codes lie in memory: what every search reads, in blocks of 16 documents, and what it reads of a few, row by row.

A block holds for its 16 documents the codes of the head, the high halves of the tail's, and what bounds need::

    head / 4 groups of 64 bytes     byte 4 j + i: component i of the group, of document j
    tail / 8 groups of 64 bytes     the same: in the low half of a byte component i of the group, in the high one i + 4
    4 x 16 half words               scale of the head, of the tail, error of the head, of the tail by high halves

so that lane j of a 512-bit register is document j, and a dot product needs no sum across lanes. A row holds the rest of
one document: ``tail / 2`` bytes, byte i with the low half of component i's code in its low half and of component
``i + tail / 2``'s in its high one; then 4 half words: scale of the tail, error of the head, of the tail, and zero.

A chunk is ``CHUNK`` documents: their blocks, then their rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .codes import ByteArray, Codes, ShortArray

__all__ = ["BLOCK", "CHUNK", "Chunk", "Layout"]

BLOCK = 16
CHUNK = 16_384
_HALF_WORDS = 4


@dataclass(frozen=True, slots=True)
class Layout:
    """The sizes, for a head and a tail of so many codes."""

    head: int
    """A multiple of 32."""
    tail: int
    """A multiple of 32."""

    @property
    def block_bytes(self) -> int:
        """Of 16 documents."""
        return BLOCK * (self.head + self.tail // 2 + 2 * _HALF_WORDS)

    @property
    def row_bytes(self) -> int:
        """Of one document."""
        return self.tail // 2 + 2 * _HALF_WORDS

    @property
    def chunk_bytes(self) -> int:
        """Of ``CHUNK`` documents."""
        return CHUNK // BLOCK * self.block_bytes + CHUNK * self.row_bytes

    def empty(self) -> Chunk:
        """A chunk of no documents."""
        return self.chunk(np.zeros(self.chunk_bytes, dtype=np.uint8), 0)

    def factors(self, blocks: ByteArray) -> ShortArray:
        """The half words of blocks (n, block_bytes): ``(n, 4, 16)``."""
        words: ShortArray = blocks[:, BLOCK * (self.head + self.tail // 2) :].view(np.uint16)
        return words.reshape(-1, _HALF_WORDS, BLOCK)

    def chunk(self, content: ByteArray, rows: int) -> Chunk:
        """The chunk that lies in ``content`` (chunk_bytes,), whose first ``rows`` documents count."""
        cut = CHUNK // BLOCK * self.block_bytes
        blocks = content[:cut].reshape(CHUNK // BLOCK, self.block_bytes)
        return Chunk(self, content, blocks, content[cut:].reshape(CHUNK, self.row_bytes), rows, content.ctypes.data)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Codes of up to ``CHUNK`` documents with consecutive numbers. Never changed once it is made."""

    layout: Layout
    content: ByteArray
    blocks: ByteArray
    """(CHUNK / 16, block_bytes)"""
    tails: ByteArray
    """(CHUNK, row_bytes)"""
    rows: int
    address: int
    """Where the content lies."""

    def extended(self, codes: Iterable[Codes]) -> Chunk:
        """A copy with so many documents more, which must fit."""
        content, rows = self.content.copy(), self.rows
        made = self.layout.chunk(content, rows)
        for some in codes:
            made._put(rows, some)
            rows += len(some.codes)
        return self.layout.chunk(content, rows)

    def _put(self, start: int, codes: Codes) -> None:
        """Write codes where there are none: over zeros."""
        head, tail, n = self.layout.head, self.layout.tail, len(codes.codes)
        before, first = start % BLOCK, start // BLOCK
        blocks = -(-(before + n) // BLOCK)

        def lanes(values: npt.NDArray[Any], group: int) -> npt.NDArray[Any]:
            """(n, width) to (blocks, width / group, 16, group)."""
            whole = values
            if before or n % BLOCK:
                whole = np.zeros((blocks * BLOCK, values.shape[1]), dtype=values.dtype)
                whole[before : before + n] = values
            return whole.reshape(blocks, BLOCK, -1, group).transpose(0, 2, 1, 3)

        here, cut = self.blocks[first : first + blocks], BLOCK * (head + tail // 2)
        if head:
            here[:, : BLOCK * head].reshape(blocks, -1, BLOCK, 4)[:] |= lanes(codes.codes[:, :head], 4)
        high, low = codes.codes[:, head:] >> 4, codes.codes[:, head:] & 15
        halves = high.reshape(n, -1, 2, 4)
        packed = (halves[:, :, 0] | (halves[:, :, 1] << 4)).reshape(n, -1)
        here[:, BLOCK * head : cut].reshape(blocks, -1, BLOCK, 4)[:] |= lanes(packed, 4)
        factors = np.concatenate([codes.scales, codes.errors[:, 0::2]], axis=1)
        here[:, cut:].view(np.uint16).reshape(blocks, -1, BLOCK, 1)[:] |= lanes(factors, 1)
        rows = self.tails[start : start + n]
        rows[:, : tail // 2] = low[:, : tail // 2] | (low[:, tail // 2 :] << 4)
        words = np.zeros((n, _HALF_WORDS), dtype=np.uint16)
        words[:, 0], words[:, 1:3] = codes.scales[:, 1], codes.errors[:, :2]
        rows[:, tail // 2 :] = words.view(np.uint8)
