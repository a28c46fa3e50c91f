"""Messages without the key: servers and client libraries repeat it now and then."""

from __future__ import annotations

from mrl_retrieval.errors import InvalidInput

__all__ = ["hidden", "sendable_key", "without_secret"]


def hidden(words: object, secret: str) -> str:
    """What a server or a client said, in at most 500 characters, without the key that it may have repeated."""
    text = words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
    return (text.replace(secret, "***") if secret else text)[:500]


def without_secret(error: Exception, secret: str) -> Exception | None:
    """The exception to chain to; None if a traceback would show the key by it, or by one that it is chained to."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or one in seen:
            continue
        if secret and secret in f"{one} {one!r}":
            return None
        seen.append(one)
        waiting += [one.__cause__, one.__context__]
    return error


def sendable_key(key: str, where: str) -> str:
    """The key, if a header can hold it; client libraries write one that does not fit into their error.

    Args:
        key: what is to be sent; may be empty.
        where: what the user has to look at.

    Raises:
        InvalidInput: it has a line break, a space around it, or a character beyond ASCII. The key is not shown.
    """
    if key != key.strip() or not (key.isascii() and key.isprintable()):
        raise InvalidInput(
            f"the key in {where} has a line break, a space around it, or a character beyond printable ASCII, which no "
            "request can carry: take it out (a file's content often ends with a line break)"
        )
    return key
