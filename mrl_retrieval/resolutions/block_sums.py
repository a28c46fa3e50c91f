"""Checksums of a file that only grows: a CRC-32 for each MiB, so that a part is checked without reading the whole."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

__all__ = ["BLOCK", "BlockSums"]

BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class BlockSums:
    """The CRC-32 of every block of ``BLOCK`` bytes, the last one of what is there of it."""

    length: int = 0
    """Bytes."""
    sums: tuple[int, ...] = ()

    def extended(self, data: bytes) -> BlockSums:
        """Those of the file with ``data`` appended."""
        sums, view, at = list(self.sums), memoryview(data), 0
        length = self.length
        while at < len(view):
            room = BLOCK - length % BLOCK
            part = view[at : at + room]
            if length % BLOCK:
                sums[-1] = zlib.crc32(part, sums[-1])
            else:
                sums.append(zlib.crc32(part))
            at += len(part)
            length += len(part)
        return BlockSums(length, tuple(sums))

    def fits(self, number: int, block: Any) -> bool:
        """Whether ``block``, bytes or an array of them, is the one of that number."""
        return zlib.crc32(block) == self.sums[number]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"bytes": self.length, "crc32": list(self.sums)}

    @classmethod
    def from_json(cls, value: Any) -> BlockSums:
        """Read :meth:`to_json`'s form. Raises KeyError, TypeError or ValueError where it is damaged."""
        length, sums = value["bytes"], tuple(value["crc32"])
        if type(length) is not int or not all(type(s) is int for s in sums) or len(sums) != -(-length // BLOCK):
            raise ValueError(f"{len(sums)} checksums for {length!r} bytes")
        return cls(length, sums)
