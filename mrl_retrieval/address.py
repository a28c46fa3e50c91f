"""Addresses of collections: ``scheme:path?collection=NAME`` and ``scheme+http://host:port?collection=NAME``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

from .errors import AddressError

__all__ = ["DEFAULT_COLLECTION", "Address", "check_collection_name"]

DEFAULT_COLLECTION = "default"
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_SCHEME = re.compile(r"[a-z][a-z0-9_-]*")
_TRANSPORTS = ("http", "https", "postgresql")


def check_collection_name(name: str) -> str:
    """Return ``name`` if every database can take it: 1–63 of ``A-Za-z0-9_.-``, ends alphanumeric, no ``..``.

    Raises:
        AddressError: it is something else.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise AddressError(
            f"collection name {name!r}: use 1 to 63 letters, digits, '_', '-' or '.', beginning and ending with a "
            "letter or digit, without '..'"
        )
    return name


@dataclass(frozen=True, slots=True)
class Address:
    """Where a collection lives.

    >>> Address.parse("faiss:./kb?collection=notes")
    Address(scheme='faiss', path='./kb', url='', collection='notes')
    >>> Address.parse("qdrant+http://localhost:6333").url
    'http://localhost:6333'
    """

    scheme: str
    """Name of the backend in the registry."""
    path: str = ""
    """A folder; ``""`` or ``":memory:"``: in this process only."""
    url: str = ""
    """``http://host:port`` of a server (``postgresql://host:port/database``), without user, password or query; ``""``:
    none."""
    collection: str = DEFAULT_COLLECTION

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address.

        Raises:
            AddressError: no scheme, an unknown option, a bad collection name, or a password in the URL.
        """
        if not isinstance(text, str):
            raise AddressError(f"an address is a string such as 'faiss:./kb', got {type(text).__name__}")
        head, sep, rest = text.partition(":")
        scheme, plus, transport = head.partition("+")
        if sep and _SCHEME.fullmatch(scheme.lower()) and scheme != scheme.lower():
            raise AddressError(
                f"address {_masked(text)!r}: write the scheme in small letters, {scheme.lower() + ':'!r}"
            )
        if not sep or not _SCHEME.fullmatch(scheme):
            raise AddressError(
                f"address {_masked(text)!r} has no scheme; write 'memory:', 'faiss:./folder', "
                "'qdrant+http://host:6333', each with ?collection=NAME if wanted"
            )
        body, collection = _split_options(rest, text)
        if not plus:
            if body.startswith("//"):
                raise AddressError(
                    f"address {_masked(text)!r} looks like a URL; write '{scheme}+http:{_masked(body)}' for a server, "
                    f"or '{scheme}:./folder'"
                )
            if body.startswith("file:"):
                raise AddressError(
                    f"address {_masked(text)!r} holds a URL of a file; write the path itself, as in '{scheme}:/folder'"
                )
            return cls(scheme, path=body, collection=collection)
        if transport not in _TRANSPORTS:
            raise AddressError(
                f"address {_masked(text)!r}: transport {transport!r} is unknown; known: {', '.join(_TRANSPORTS)}"
            )
        try:
            parts = urlsplit(f"{transport}:{body}")
            port, host = parts.port, parts.hostname
        except ValueError as error:
            raise AddressError(f"address {_masked(text)!r} is no URL: {error}") from error
        if not host:
            raise AddressError(f"address {_masked(text)!r} names no host; write '{scheme}+{transport}://host:port'")
        if parts.username or parts.password:
            raise AddressError(
                f"address {_masked(text)!r} holds a user or password; pass secrets as arguments or through the "
                "environment"
            )
        host = f"[{host}]" if ":" in host else host
        url = f"{transport}://{host}" + (f":{port}" if port else "") + parts.path.rstrip("/")
        return cls(scheme, url=url, collection=collection)

    @property
    def in_memory(self) -> bool:
        """Whether it names neither a folder nor a server."""
        return not self.url and self.path in ("", ":memory:")

    @property
    def folder(self) -> Path:
        """The path as a :class:`~pathlib.Path`, with ``~`` expanded."""
        return Path(self.path).expanduser()

    def with_collection(self, name: str) -> Address:
        """The same place, another collection."""
        return Address(self.scheme, self.path, self.url, check_collection_name(name))

    def __str__(self) -> str:
        head = f"{self.scheme}+{self.url}" if self.url else f"{self.scheme}:{self.path}"
        return head if self.collection == DEFAULT_COLLECTION else f"{head}?collection={quote(self.collection)}"


def _split_options(rest: str, text: str) -> tuple[str, str]:
    body, sep, options = rest.rpartition("?")
    if not sep:
        return rest, DEFAULT_COLLECTION
    collection = ""
    for key, value in parse_qsl(options, keep_blank_values=True) or [(options, "")]:
        if key != "collection":
            option = _masked(f"//{key}")[2:]
            raise AddressError(f"address {_masked(text)!r}: unknown option {option!r}; known: collection")
        if collection:
            raise AddressError(f"address {_masked(text)!r} names two collections, {collection!r} and {value!r}")
        collection = check_collection_name(value)
    return body, collection or DEFAULT_COLLECTION


def _masked(text: str) -> str:
    """The text without what may be a password, or a key in an option."""
    text = re.sub(r"//.*@", "//***@", text, flags=re.DOTALL)
    return re.sub(r"([?&](?!collection=)[^=&]*=)[^&]*", r"\1***", text)
