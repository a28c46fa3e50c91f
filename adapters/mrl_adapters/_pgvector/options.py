"""What the ``pgvector`` backend is told: its options, and what of them libpq gets."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import unquote, urlsplit

from psycopg import pq

from mrl_retrieval.address import Address
from mrl_retrieval.errors import AddressError, InvalidInput

__all__ = ["FIXED", "Options", "libpq_parameters", "secrets_of"]

FIXED = ("m", "ef_construction", "coarse_quantization", "fine_dtype")
"""Options that are settled when a collection is made."""

_CHOICES = {
    "coarse_quantization": ("none", "halfvec", "binary"),
    "fine_dtype": ("float32", "float16"),
    "iterative_scan": ("relaxed_order", "strict_order", "off"),
}
_RANGES = {
    "pool_size": (1, 1000),
    "m": (2, 100),
    "ef_construction": (4, 1000),
    "ef_search": (1, 1000),
    "max_scan_tuples": (1, 2**31 - 1),
    "oversampling": (1, 1000),
}
_LIBPQ = ("user", "password", "sslmode", "sslrootcert", "sslcert", "sslkey")
_SECRET = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
_LONGEST_SCHEMA = 63
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_WHOLE_NUMBERS = (
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
)


@dataclass(frozen=True)
class Options:
    """What ``from_address`` takes. A :data:`FIXED` one not given is as the collection was made, or the default."""

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    sslmode: str | None = None
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None
    connection: Mapping[str, Any] = field(default_factory=dict, repr=False)
    schema: str = "mrl_retrieval"
    timeout: float = 60.0
    pool_size: int = 8
    prepare: bool = True
    m: int | None = None
    ef_construction: int | None = None
    coarse_quantization: str | None = None
    fine_dtype: str | None = None
    ef_search: int = 400
    iterative_scan: str = "relaxed_order"
    max_scan_tuples: int = 20_000
    oversampling: int = 4

    @property
    def fixed(self) -> dict[str, Any]:
        """What was given of the options that are settled when a collection is made."""
        return {name: value for name in FIXED if (value := getattr(self, name)) is not None}

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Options:
        """Check the options.

        Raises:
            InvalidInput: an unknown option, or a wrong value.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(options) - known):
            raise InvalidInput(f"the pgvector backend has no option {unknown[0]!r}; known: {', '.join(sorted(known))}")
        parsed = cls(**options)
        for name, choices in _CHOICES.items():
            value = getattr(parsed, name)
            if value not in choices and not (value is None and name in FIXED):
                raise InvalidInput(f"{name}={value!r}: use one of {', '.join(map(repr, choices))}")
        for name, (least, most) in _RANGES.items():
            value = getattr(parsed, name)
            if value is None and name in FIXED:
                continue
            if type(value) is not int or not least <= value <= most:
                raise InvalidInput(f"{name}={value!r}: give a whole number from {least} to {most}")
        if parsed.m is not None or parsed.ef_construction is not None:
            m, width = parsed.m or 16, parsed.ef_construction or 128
            if width < 2 * m:
                raise InvalidInput(f"ef_construction={width} with m={m}: PostgreSQL wants at least twice m")
        if not isinstance(parsed.prepare, bool):
            raise InvalidInput(f"prepare={parsed.prepare!r}: give True or False")
        timeout = parsed.timeout
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= 2_000_000:
            raise InvalidInput(f"timeout={timeout!r}: give seconds as a number above 0")
        schema = parsed.schema
        if not isinstance(schema, str) or not _storable(schema) or not 0 < len(schema.encode()) <= _LONGEST_SCHEMA:
            raise InvalidInput(f"schema={schema!r}: give a name of 1 to {_LONGEST_SCHEMA} bytes of UTF-8")
        if "%" in schema:
            raise InvalidInput(f"schema={schema!r}: psycopg takes a '%' in a statement for a parameter; choose another")
        for name in _LIBPQ:
            value = getattr(parsed, name)
            if value is not None:
                if not isinstance(value, str):
                    raise InvalidInput(f"{name}= is {type(value).__name__}, expected a string")
                _check_keyword(name, value, f"{name}=")
        if not isinstance(parsed.connection, Mapping):
            raise InvalidInput(
                f"connection= is {type(parsed.connection).__name__}, expected a dict of libpq's keywords"
            )
        known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
        for name, value in parsed.connection.items():
            if name not in known:
                raise InvalidInput(
                    f"connection= has {name!r}, which is no keyword of libpq's: {', '.join(sorted(known))}"
                )
            if value is not None:
                _check_keyword(name, value, f"connection[{name!r}]")
        return parsed


def _check_keyword(name: str, value: Any, where: str) -> None:
    """Whether libpq can take this. It reads every value as text, and no further than to a U+0000.

    Raises:
        InvalidInput: it cannot; the message has no value that may be a secret.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise InvalidInput(f"{where} is {type(value).__name__}, expected a string or a whole number")
    text = str(value)
    if not _storable(text):
        raise InvalidInput(f"{where} has a character that PostgreSQL does not take (U+0000, or half of a pair)")
    if name == "sslmode" and text not in _SSL_MODES:
        raise InvalidInput(f"{where} {text!r}: use one of {', '.join(map(repr, _SSL_MODES))}")
    if name in _WHOLE_NUMBERS and not text.strip().lstrip("-").isdecimal():
        raise InvalidInput(f"{where} {text!r}: give a whole number")
    if name == "port" and not all(part.strip().isdecimal() or not part for part in text.split(",")):
        raise InvalidInput(f"{where} {text!r}: give a number")


def _storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def libpq_parameters(address: Address, options: Options) -> dict[str, Any]:
    """What libpq gets to connect. All that is left out it finds in its environment: PGHOST, PGSERVICE, ~/.pgpass, …

    Raises:
        AddressError: the address is neither ``pgvector:`` nor ``pgvector+postgresql://host:port/database``.
        InvalidInput: it says one thing, and ``connection`` another.
    """
    found: dict[str, Any] = {"application_name": "mrl_retrieval"} | dict(options.connection)
    found["client_encoding"] = "UTF8"
    if address.url:
        parts = urlsplit(address.url)
        if parts.scheme != "postgresql":
            raise AddressError(f"{address}: write 'pgvector+postgresql://host:5432/database'")
        found["host"] = parts.hostname
        if parts.port:
            found["port"] = parts.port
        database = unquote(parts.path.removeprefix("/"))
        if "/" in database or "\0" in database:
            raise AddressError(
                f"{address}: a database's name has no '/' and no U+0000; write 'pgvector+postgresql://host:5432/database'"
            )
        if database:
            found["dbname"] = database
        for name, given in options.connection.items():
            if name in ("host", "port", "dbname") and given is not None and str(given) != str(found[name]):
                raise InvalidInput(f"{address} names another {name} than connection[{name!r}] {given!r}: leave one out")
    elif address.path:
        raise AddressError(
            f"{address}: PostgreSQL is a server, {address.path!r} is none; write "
            "'pgvector+postgresql://host:5432/database', or 'pgvector:' and name it in PGHOST, PGDATABASE, PGSERVICE"
        )
    found |= {name: value for name in _LIBPQ if (value := getattr(options, name)) is not None}
    # A server that does not even greet is given up after this many seconds; libpq takes whole ones.
    found.setdefault("connect_timeout", max(2, math.ceil(min(options.timeout, 30))))
    return found


def secrets_of(parameters: Mapping[str, Any]) -> list[str]:
    """What must be in no message, longest first."""
    known = [str(parameters[name]) for name in _SECRET if parameters.get(name)]
    known += [os.environ[name] for name in ("PGPASSWORD", "PGOAUTHCLIENTSECRET") if os.environ.get(name)]
    return sorted(set(known), key=len, reverse=True)
