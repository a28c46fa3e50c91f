"""Messages without the key: servers and client libraries repeat it now and then."""

from __future__ import annotations

__all__ = ["hidden", "without_secret"]


def hidden(words: object, secret: str) -> str:
    """What a server or a client said, in at most 500 characters, without the key that it may have repeated."""
    text = str(words)
    return (text.replace(secret, "***") if secret else text)[:500]


def without_secret(error: Exception, secret: str) -> Exception | None:
    """The exception to chain to; None if a traceback would show the key by it."""
    return None if secret and secret in f"{error} {error!r}" else error
