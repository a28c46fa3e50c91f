"""Options of the `qdrant` and `qdrant-edge` backends, as `from_address` takes them; None is Qdrant's own default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from mrl_retrieval.address import Address
from mrl_retrieval.errors import InvalidInput

from ._qdrant_layout import INDEX_TYPES, QUANTIZATIONS

__all__ = ["Options", "ServerOptions"]


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
        return parsed

    def check(self, address: Address) -> None:
        """Raise :class:`InvalidInput` for a wrong value."""
        if self.coarse_quantization not in QUANTIZATIONS:
            raise InvalidInput(
                f"coarse_quantization={self.coarse_quantization!r}: use one of {', '.join(map(repr, QUANTIZATIONS))}"
            )
        for path, kind in self.index_fields.items():
            if kind not in INDEX_TYPES:
                raise InvalidInput(f"index_fields[{path!r}] is {kind!r}; known types: {', '.join(sorted(INDEX_TYPES))}")
        if isinstance(self.lock_timeout, bool) or not isinstance(self.lock_timeout, (int, float)):
            raise InvalidInput(f"lock_timeout={self.lock_timeout!r}: give seconds as a number")
        if not isinstance(self.on_disk, bool):
            raise InvalidInput(f"on_disk={self.on_disk!r}: give True or False")
        if self.oversampling is not None and not _at_least_one(self.oversampling):
            raise InvalidInput(f"oversampling={self.oversampling!r}: give a number of at least 1")
        self._check_whole("hnsw_ef")

    def _check_whole(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise InvalidInput(f"{name}={value!r}: give a whole number of at least 1")


@dataclass(frozen=True)
class ServerOptions(Options):
    """What the ``qdrant`` backend takes: at a local address those of a server are refused, or mean nothing."""

    api_key: str | None = field(default=None, repr=False)
    verify: bool | str = True
    prefer_grpc: bool = False
    grpc_port: int = 6334
    timeout: int | None = None
    shard_number: int | None = None
    replication_factor: int | None = None
    write_consistency_factor: int | None = None

    def check(self, address: Address) -> None:
        super().check(address)
        for name in ("api_key", "verify", "prefer_grpc", "grpc_port", "timeout"):
            if not address.url and getattr(self, name) != getattr(ServerOptions, name):
                raise InvalidInput(f"{name}= is for a Qdrant server, and {address} is none; leave it out")
        self._check_whole("timeout", "grpc_port", "shard_number", "replication_factor", "write_consistency_factor")
        if not isinstance(self.verify, bool) and not Path(self.verify).is_file():
            raise InvalidInput(f"verify={self.verify!r}: give True, False, or the path of a file with CA certificates")
        if self.verify is False and self.prefer_grpc:
            raise InvalidInput(
                "verify=False is not possible with prefer_grpc=True, gRPC always checks certificates: give the path of "
                "the server's CA certificate as verify="
            )


def _at_least_one(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 1
