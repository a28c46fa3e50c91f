"""How vectors are stored: the bytes of one vector, and the header of a file of them."""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mrl_retrieval.errors import NewerFormatError
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["DTYPES", "HEADER_BYTES", "Records", "SegmentFormat", "Span"]

Records = npt.NDArray[np.uint8]
"""Vectors as they are stored: ``(n, row_bytes)``."""

DTYPES = {"float16": "<f2", "float32": "<f4", "int8": "<i1"}
HEADER_BYTES = 64
_MAGIC = b"MRLSEG\r\n"
_VERSION = 2
# magic, version, dtype, dims, segment number, rows per segment, collection fingerprint, number of the first vector
_FIELDS = struct.Struct("<8sI4sIIQ16sQ")
# The bits of a float32 that a float16 fills when it is put there, and how far apart the biases of their exponents are.
_SIGN_AND_HALF = np.int32(0x8FFFE000 - 2**32)
_BIAS = np.float32(2.0**112)


class Span(NamedTuple):
    """A segment file, and the number of the first vector in it."""

    number: int
    first: int


@dataclass(frozen=True, slots=True)
class SegmentFormat:
    """What every segment of a collection has in common."""

    dtype: str
    """``"float16"``, ``"float32"`` or ``"int8"``."""
    dims: int
    rows_per_segment: int
    collection_id: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one vector. With int8: the components, zeros up to a multiple of 4, a float32 scale."""
        if self.dtype == "int8":
            return self.dims + -self.dims % 4 + 4
        return self.dims * np.dtype(DTYPES[self.dtype]).itemsize

    def header(self, span: Span, version: int = _VERSION) -> bytes:
        """The first 64 bytes of a segment. Version 1 does not say where it begins."""
        fingerprint = hashlib.blake2b(self.collection_id.encode(), digest_size=16).digest()
        fields = _FIELDS.pack(
            _MAGIC,
            version,
            DTYPES[self.dtype].encode(),
            self.dims,
            span.number,
            self.rows_per_segment,
            fingerprint,
            span.first if version > 1 else 0,
        )
        body = fields.ljust(HEADER_BYTES - 4, b"\0")
        return body + struct.pack("<I", zlib.crc32(body))

    def span_of(self, header: bytes) -> Span | None:
        """The span that a header tells of; None where it is no header of this collection."""
        if len(header) < HEADER_BYTES:
            return None
        _, version, *_, number, _, _, first = _FIELDS.unpack_from(header)
        span = Span(number, first if version > 1 else (number - 1) * self.rows_per_segment)
        return span if version <= _VERSION and header[:HEADER_BYTES] == self.header(span, version) else None

    def difference(self, span: Span, header: bytes) -> tuple[str, str] | None:
        """What a file that should be this segment is instead, and what was expected; None: nothing is wrong.

        Raises:
            NewerFormatError: a newer version of this library wrote it.
        """
        if self.span_of(header) == span:
            return None
        expected = self.header(span)
        whole = len(header) == HEADER_BYTES and struct.pack("<I", zlib.crc32(header[:-4])) == header[-4:]
        if not whole or header[:8] != _MAGIC:
            return f"begins with {header[:16].hex()}", f"{expected[:16].hex()} and a valid checksum"
        found, wanted = _FIELDS.unpack_from(header), _FIELDS.unpack_from(expected)
        if found[1] > _VERSION:
            raise NewerFormatError(
                f"segment {span.number} has version {found[1]}, this library reads up to {_VERSION}: upgrade "
                "mrl-retrieval"
            )
        names = ("magic", "version", "dtype", "dims", "number", "rows per segment", "collection", "first vector")
        differing = ((n, a, b) for n, a, b in zip(names, found, wanted, strict=True) if a != b and n != "version")
        name, a, b = next(differing, ("version", found[1], wanted[1]))
        return f"is a segment with {name} {a!r}", repr(b)

    def encode(self, vectors: FloatArray) -> Records:
        """The rows (n, dims) as they are stored."""
        if self.dtype != "int8":
            rows = np.ascontiguousarray(vectors, dtype=DTYPES[self.dtype])
            return rows.view(np.uint8).reshape(len(rows), self.row_bytes)
        out = np.zeros((len(vectors), self.row_bytes), dtype=np.uint8)
        scales = (np.abs(vectors).max(axis=1) / np.float32(127)).astype("<f4")
        codes = np.rint(np.divide(vectors, scales[:, None], out=np.zeros_like(vectors), where=scales[:, None] > 0))
        out[:, : self.dims] = codes.clip(-127, 127).astype(np.int8).view(np.uint8)
        out[:, -4:] = scales[:, None].view(np.uint8)
        return out

    def decode(self, records: Records) -> FloatArray:
        """Stored rows, contiguous, as ``(n, dims)`` float32."""
        if self.dtype == "float16":
            return _from_float16(records)
        if self.dtype == "float32":
            return records.view("<f4").astype(np.float32)
        vectors = records[:, : self.dims].view(np.int8).astype(np.float32)
        vectors *= np.ascontiguousarray(records[:, -4:]).view("<f4")
        return vectors

    def finite(self, records: Records) -> npt.NDArray[np.bool_]:
        """Which stored rows, contiguous, hold neither NaN nor infinity: ``(n,)``."""
        if self.dtype == "float16":
            fine = (records.view("<u2") & np.uint16(0x7C00)) != np.uint16(0x7C00)
        else:
            fine = np.isfinite(self.decode(records))
        finite: npt.NDArray[np.bool_] = np.logical_and.reduce(fine, axis=1)
        return finite


def _from_float16(records: Records) -> FloatArray:
    """Finite float16 numbers as float32, exactly, six times as fast as NumPy converts them: the bits are put where a
    float32 has its own, and the difference between the two exponents' biases is multiplied in."""
    bits = records.view("<i2").astype(np.int32)
    bits <<= 13
    bits &= _SIGN_AND_HALF
    vectors: FloatArray = bits.view(np.float32)
    vectors *= _BIAS
    return vectors
