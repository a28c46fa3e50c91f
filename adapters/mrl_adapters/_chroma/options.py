"""Options of the ``chroma`` backend, checked when a collection is opened and not when they are first needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mrl_retrieval.address import Address
from mrl_retrieval.errors import AddressError, InvalidInput
from mrl_retrieval.values import is_number

__all__ = ["GRAPH", "NAMES", "Access", "checked_graph"]

GRAPH = {"ef_search": 400, "ef_construction": 200, "max_neighbors": 32}
"""Options of the coarse graph, and what they are where they are not given."""
_SERVER = ("api_key", "headers", "tenant", "database")
NAMES = frozenset({*GRAPH, *_SERVER, "timeout"})

_LARGEST = 2**31 - 1
# Seconds; a longer wait is cut to it, because sockets count milliseconds in 31 bits.
_LONGEST_WAIT = 1_000_000.0
_DEFAULT_WAIT = 120.0


def checked_graph(options: Mapping[str, Any]) -> dict[str, int]:
    """Those options of the coarse graph that are given.

    Raises:
        InvalidInput: one is no whole number of at least 2.
    """
    graph = {name: options[name] for name in GRAPH if options.get(name) is not None}
    for name, value in graph.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 2 <= value <= _LARGEST:
            raise InvalidInput(f"{name} is {value!r}; give a whole number from 2 to {_LARGEST} (default {GRAPH[name]})")
    return graph


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a server: who asks, for what, and how long to wait."""

    headers: Mapping[str, str]
    tenant: str | None
    database: str | None
    timeout: float

    @classmethod
    def checked(cls, address: Address, options: Mapping[str, Any]) -> Access:
        """From options; those of a server that are not given are taken from the environment.

        Raises:
            AddressError: there is no server at this address.
            InvalidInput: an unknown option, a value of a wrong type, or one that cannot be sent.
        """
        known = {*_SERVER, "timeout"}
        if unknown := options.keys() - known:
            raise InvalidInput(
                f"a connection to Chroma takes {', '.join(sorted(known))}; got {', '.join(sorted(unknown))}"
            )
        remote = bool(address.url)
        given = {name: options.get(name) for name in _SERVER}
        unused = [name for name, value in given.items() if value is not None and not remote]
        if unused:
            raise AddressError(f"{', '.join(unused)}: only for a Chroma server, but the address is {address}")
        for name in ("api_key", "tenant", "database"):
            _check_text(name, given[name])
        _check_headers(given["headers"])
        timeout = options.get("timeout")
        if timeout is not None and not (is_number(timeout) and timeout > 0):
            raise InvalidInput(f"timeout is {timeout!r}, of type {_kind(timeout)}; give seconds as a number above 0")

        def value(name: str) -> str | None:
            if given[name] or not remote:
                return given[name] or None
            variable = f"CHROMA_{name.upper()}"
            _check_text(variable, os.environ.get(variable))
            return os.environ.get(variable)

        api_key = value("api_key")
        return cls(
            headers={**(given["headers"] or {}), **({"x-chroma-token": api_key} if api_key else {})},
            tenant=value("tenant"),
            database=value("database"),
            timeout=min(_DEFAULT_WAIT if timeout is None else timeout, _LONGEST_WAIT),
        )


def _check_headers(headers: Any) -> None:
    if headers is None:
        return
    if not isinstance(headers, Mapping):
        raise InvalidInput(
            f"headers is of type {_kind(headers)}; give a dict of strings, such as {{'Authorization': 'Bearer …'}}"
        )
    for name, value in headers.items():
        if not isinstance(name, str) or not name:
            raise InvalidInput(f"headers has the name {name!r}, of type {_kind(name)}; give a string")
        _check_text("headers", name)
        if value is None:
            raise InvalidInput(f"headers[{name!r}] is None; give a string, or leave it out")
        _check_text(f"headers[{name!r}]", value)


def _check_text(name: str, value: Any) -> None:
    """A secret may be in it, so the message has its type and not the value."""
    if value is None:
        return
    if not isinstance(value, str):
        raise InvalidInput(f"{name} is of type {_kind(value)}; give a string (in quotation marks, where they matter)")
    if not value.isascii() or not value.isprintable() or value != value.strip():
        raise InvalidInput(
            f"{name} has a character that cannot be sent in a request, such as a line break, a space at an end or a "
            "letter beyond ASCII; take it out"
        )


def _kind(value: Any) -> str:
    return type(value).__name__
