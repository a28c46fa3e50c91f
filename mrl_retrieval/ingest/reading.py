"""Bytes to text: gzip, byte order marks, encodings; errors name the file and the byte."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mrl_retrieval.errors import InvalidInput

__all__ = ["LONGEST_LINE", "Position", "check_encoding", "read_lines", "read_text"]

LONGEST_LINE = 256 * 2**20
"""Characters of one line of jsonl, or of one text file, beyond which it is taken for a mistake."""

_BLOCK = 2**20
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class Position:
    """How far a file has been read, in bytes on disk: what a progress bar shows."""

    __slots__ = ("raw",)

    def __init__(self) -> None:
        self.raw: IO[bytes] | None = None

    @property
    def bytes(self) -> int:
        """Bytes read so far."""
        return self.raw.tell() if self.raw is not None and not self.raw.closed else 0


def check_encoding(name: str) -> str:
    """The encoding's name if Python knows it.

    Raises:
        InvalidInput: it is unknown, or turns bytes into something that is not text.
    """
    try:
        "a".encode(name)
        codecs.getincrementaldecoder(name)
    except (LookupError, ValueError) as error:
        raise InvalidInput(f"unknown encoding {name!r}; examples: utf-8, latin-1, cp1252, utf-16") from error
    return name


def read_lines(path: Path, encoding: str = "utf-8", position: Position | None = None) -> Iterator[str]:
    """The lines of a file, each with its line end as it is (``\\n`` ends a line, nothing else does). Streams.

    Raises:
        InvalidInput: bytes that are not in the encoding, a damaged gzip file, or a line beyond all reason.
    """
    pending: list[str] = []
    length, line = 0, 1
    for block in _decoded(path, encoding, position):
        parts = block.split("\n")
        for part in parts[:-1]:
            yield "".join((*pending, part, "\n"))
            pending, length, line = [], 0, line + 1
        pending.append(parts[-1])
        length += len(parts[-1])
        if length > LONGEST_LINE:
            raise InvalidInput(
                f"{path}:{line}: a line of more than {LONGEST_LINE:,} characters; is this one record a line?"
            )
    if length:
        yield "".join(pending)


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """A whole text file.

    Raises:
        InvalidInput: as :func:`read_lines`, or it is binary.
    """
    blocks, length = [], 0
    for block in _decoded(path, encoding, None):
        if "\0" in block:
            raise InvalidInput(f"{path} is not a text file: it holds a zero byte")
        blocks.append(block)
        length += len(block)
        if length > LONGEST_LINE:
            raise InvalidInput(f"{path} has more than {LONGEST_LINE:,} characters; split it, or make it jsonl")
    return "".join(blocks)


def _decoded(path: Path, encoding: str, position: Position | None) -> Iterator[str]:
    """Blocks of decoded text, without a byte order mark."""
    utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
    decoder = codecs.getincrementaldecoder("utf-8" if utf8 else encoding)("strict")
    offset = 0  # in the decompressed bytes, of what the decoder is fed next
    with _opened(path, position) as stream:
        block = stream.read(_BLOCK)
        if utf8 and block.startswith(codecs.BOM_UTF8):
            block, offset = block[3:], 3
        head = block[:2]
        while True:
            kept = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                where = offset - kept + error.start
                likely = _MARKS.get(head, "latin-1") if utf8 else "utf-8"
                zipped = " of the decompressed file" if path.suffix == ".gz" else ""
                raise InvalidInput(
                    f"{path}: byte {error.object[error.start]:#04x} at offset {where}{zipped} is not valid {encoding}; "
                    f"convert the file, or name its encoding (for example --encoding {likely})"
                ) from error
            if text:
                yield text
            if not block:
                return
            offset += len(block)
            block = stream.read(_BLOCK)


@contextmanager
def _opened(path: Path, position: Position | None) -> Iterator[io.BufferedIOBase]:
    with path.open("rb") as raw:
        if position is not None:
            position.raw = raw
        if path.suffix.lower() != ".gz":
            yield raw
            return
        try:
            with gzip.GzipFile(fileobj=raw, mode="rb") as unzipped:
                yield unzipped
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InvalidInput(f"{path} is no gzip file, or a damaged one: {error}") from error
