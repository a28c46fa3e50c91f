"""Options of the `qdrant` and `qdrant-edge` backends, as `from_address` takes them; None is Qdrant's own default."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from mrl_retrieval.address import Address
from mrl_retrieval.errors import InvalidInput

from .layout import INDEX_TYPES, QUANTIZATIONS

__all__ = ["Options", "ServerOptions"]

_LONGEST_WAIT = 1_000_000.0
"""Seconds; a longer ``lock_timeout`` is cut to it, because a wait that Python can count has an end."""
_LARGEST = 2**31 - 1
"""Of whole numbers: beyond it the libraries below, or Qdrant, cannot take them."""

_MOST_OVERSAMPLING = 1_000
_LONGEST_SHOWN = 200
"""Characters of a wrong value in a message: it may be a certificate's text in the place of its path."""


@dataclass(frozen=True)
class Options:
    """What both backends take."""

    lock_timeout: float = 10.0
    on_disk: bool = True
    coarse_quantization: str = "none"
    oversampling: float | None = None
    hnsw_ef: int | None = None
    index_fields: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, address: Address, options: Mapping[str, Any]) -> Self:
        """Check the options of an address.

        Raises:
            InvalidInput: an unknown option, a wrong value, or one that means nothing at this address.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(options) - known):
            raise InvalidInput(
                f"the {address.scheme} backend has no option {unknown[0]!r}; known: {', '.join(sorted(known))}"
            )
        parsed = cls(**options)
        parsed.check(address)
        return parsed._normal()

    def check(self, address: Address) -> None:
        """Raise :class:`InvalidInput` for a wrong value."""
        kind, wait = self.coarse_quantization, self.lock_timeout
        if not isinstance(kind, str) or kind not in QUANTIZATIONS:
            raise InvalidInput(f"coarse_quantization={kind!r}: use one of {', '.join(map(repr, QUANTIZATIONS))}")
        self._check_index_fields()
        if not _is_number(wait) or not wait >= 0:
            raise InvalidInput(f"lock_timeout={wait!r}: give seconds as a number from 0 up")
        self._check_switch("on_disk")
        times = self.oversampling
        if times is not None and not (_is_number(times) and 1 <= times <= _MOST_OVERSAMPLING):
            raise InvalidInput(f"oversampling={times!r}: give a number from 1 to {_MOST_OVERSAMPLING}")
        self._check_whole("hnsw_ef")

    def _normal(self) -> Self:
        """The same, in one form."""
        return replace(self, lock_timeout=min(self.lock_timeout, _LONGEST_WAIT))

    def _check_index_fields(self) -> None:
        if not isinstance(self.index_fields, Mapping):
            raise InvalidInput(f"index_fields={self.index_fields!r}: give a dict such as {{'year': 'integer'}}")
        for path, kind in self.index_fields.items():
            if not isinstance(path, str) or '"' in path or not all(path.split(".")):
                raise InvalidInput(
                    f"index_fields has the key {path!r}: give a metadata key, or a dotted path of keys, without "
                    "quotation marks"
                )
            if not isinstance(kind, str) or kind not in INDEX_TYPES:
                raise InvalidInput(f"index_fields[{path!r}] is {kind!r}; known types: {', '.join(sorted(INDEX_TYPES))}")

    def _check_switch(self, name: str) -> None:
        if not isinstance(getattr(self, name), bool):
            raise InvalidInput(f"{name}={getattr(self, name)!r}: give True or False")

    def _check_whole(self, *names: str, most: int = _LARGEST) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not 1 <= value <= most):
                raise InvalidInput(f"{name}={value!r}: give a whole number from 1 to {most}")


@dataclass(frozen=True)
class ServerOptions(Options):
    """What the ``qdrant`` backend takes: at a local address those of a server are refused, or mean nothing."""

    api_key: str | None = field(default=None, repr=False)
    verify: bool | str | os.PathLike[str] = True
    prefer_grpc: bool = False
    grpc_port: int | None = None
    timeout: int | None = None
    shard_number: int | None = None
    replication_factor: int | None = None
    write_consistency_factor: int | None = None

    def check(self, address: Address) -> None:
        super().check(address)
        for name in ("api_key", "verify", "prefer_grpc", "grpc_port", "timeout"):
            if not address.url and getattr(self, name) is not getattr(ServerOptions, name):
                raise InvalidInput(f"{name}= is for a Qdrant server, and {address} is none; leave it out")
        if self.api_key is not None and not isinstance(self.api_key, str):
            # What was given may be the secret all the same.
            raise InvalidInput(f"api_key= is of type {type(self.api_key).__name__}: give a string")
        self._check_switch("prefer_grpc")
        self._check_whole("timeout", most=1_000_000)
        self._check_whole("grpc_port", most=65_535)
        self._check_whole("shard_number", "replication_factor", "write_consistency_factor")
        if not isinstance(self.verify, bool):
            _check_certificates(self.verify)
        if self.verify is False and self.prefer_grpc:
            raise InvalidInput(
                "verify=False is not possible with prefer_grpc=True, gRPC always checks certificates: give the path of "
                "the server's CA certificate as verify="
            )

    def _normal(self) -> Self:
        trusted = self.verify
        return replace(super()._normal(), verify=trusted if isinstance(trusted, bool) else os.fspath(trusted))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_certificates(path: Any) -> None:
    """Raise where ``verify`` is not the path of a file."""
    try:
        if _is_path(path) and Path(path).is_file():
            return
        cause, why = None, "there is no such file"
    except OSError as error:
        cause, why = error, str(error.strerror)
    shown = repr(path)
    shown = shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}…"
    raise InvalidInput(
        f"verify={shown}: {why}; give True, False, or the path of a file with CA certificates"
    ) from cause


def _is_path(path: Any) -> bool:
    return isinstance(path, (str, os.PathLike)) and isinstance(os.fspath(path), str)
