"""Attachments: what a backend may keep beside the rows, under which names, and the checksum that goes with it.

A backend stores one sealed attachment: the SHA-256 of name and content, then the content. What cannot store bytes
stores them in base64. What comes back is what was written, or a :class:`~mrl_retrieval.errors.CorruptionError`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from .errors import CorruptionError, InvalidInput

__all__ = ["LONGEST_NAME", "MOST_BYTES", "checked_name", "seal", "seal_text", "unseal", "unseal_text"]

LONGEST_NAME = 40
"""Characters of a name."""
MOST_BYTES = 32 * 2**20
"""Bytes of a content."""

_NAME = re.compile(rf"[A-Za-z0-9-]{{1,{LONGEST_NAME}}}")
_DIGEST_BYTES = 32


def checked_name(name: str) -> str:
    """The name, if an attachment can have it: ASCII letters, digits and hyphens, 1 to 40 of them.

    Raises:
        InvalidInput: it cannot.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput(
            f"attachment name {str(name)[:80]!r}; expected 1 to {LONGEST_NAME} letters, digits and hyphens: choose "
            "another name"
        )
    return name


def seal(name: str, content: bytes) -> bytes:
    """What is stored for an attachment.

    Raises:
        InvalidInput: the name cannot be used, the content is not bytes, or there is too much of it.
    """
    checked_name(name)
    if not isinstance(content, bytes):
        raise InvalidInput(f"attachment {name!r} is of type {type(content).__name__}, expected bytes: convert it")
    if len(content) > MOST_BYTES:
        raise InvalidInput(
            f"attachment {name!r} has {len(content):,} bytes, expected {MOST_BYTES:,} at most: keep it elsewhere, or "
            "in several attachments"
        )
    return _digest(name, content) + content


def seal_text(name: str, content: bytes) -> str:
    """The same in base64, where only text can be stored; errors as of :func:`seal`."""
    return base64.b64encode(seal(name, content)).decode("ascii")


def unseal(name: str, stored: bytes, place: object) -> bytes:
    """The content of what :func:`seal` gave; ``place`` is named in the error.

    Raises:
        CorruptionError: it is not as it was written.
    """
    content = bytes(memoryview(stored)[_DIGEST_BYTES:])
    found, expected = _digest(name, content), bytes(stored[:_DIGEST_BYTES])
    if found != expected:
        raise _damaged(name, place, f"has SHA-256 {found.hex()[:16]}…, expected {expected.hex()[:16]}…")
    return content


def unseal_text(name: str, stored: str, place: object) -> bytes:
    """The same of what :func:`seal_text` gave."""
    try:
        sealed = base64.b64decode(stored, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise _damaged(name, place, f"is no base64 ({error}), expected what was written") from error
    return unseal(name, sealed, place)


def _digest(name: str, content: bytes) -> bytes:
    # The name too, so that contents that changed places are noticed.
    digest = hashlib.sha256(name.encode() + b"\0")
    digest.update(content)
    return digest.digest()


def _damaged(name: str, place: object, what: str) -> CorruptionError:
    return CorruptionError(
        f"attachment {name!r} of {place} {what}: write it again, or restore the collection from a backup"
    )
