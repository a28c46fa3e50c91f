"""What the ``milvus`` backend can be told, checked before anything is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mrl_retrieval.address import Address
from mrl_retrieval.errors import InvalidInput

__all__ = ["EXACT_INDEXES", "QUANTIZATION", "Options"]

EXACT_INDEXES = frozenset({"FLAT", "BRUTE_FORCE"})
"""Index types that compare a query with every vector."""
QUANTIZATION = frozenset({"sq8"})
"""What ``coarse_quantization`` takes."""

_IN_LITE = ("AUTOINDEX", "BRUTE_FORCE", "FLAT", "HNSW", "HNSW_SQ", "IVF_FLAT", "IVF_SQ8")
_QUANTIZED = {"HNSW": "HNSW_SQ", "HNSW_SQ": "HNSW_SQ", "IVF_FLAT": "IVF_SQ8", "IVF_SQ8": "IVF_SQ8"}
_SERVER_ONLY = ("token", "user", "password", "db_name", "num_shards", "replica_number", "tls")
_TOKEN_VARIABLE = "MILVUS_TOKEN"  # noqa: S105  (a name, not a token)


@dataclass(frozen=True)
class Options:
    """What ``from_address`` takes. None means the default of :meth:`coarse_index`, or Milvus's own."""

    index_type: str | None = None
    index_params: Mapping[str, Any] = field(default_factory=dict)
    search_params: Mapping[str, Any] = field(default_factory=dict)
    coarse_quantization: str | None = None
    token: str | None = field(default=None, repr=False)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    db_name: str | None = None
    timeout: float = 60.0
    lock_timeout: float = 10.0
    num_shards: int | None = None
    replica_number: int | None = None
    tls: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, address: Address, given: Mapping[str, Any]) -> Options:
        """Check the options of an address.

        Raises:
            InvalidInput: a wrong value, or one that only a server has.
        """
        known = sorted(f.name for f in fields(cls))
        if unknown := sorted(set(given) - set(known)):
            raise InvalidInput(f"the milvus backend takes {', '.join(known)}; got {', '.join(unknown)}")
        if not address.url and (alien := [name for name in _SERVER_ONLY if given.get(name)]):
            raise InvalidInput(f"{alien[0]}= is for a Milvus server, and {address} is none; leave it out")
        options = cls(**{name: value for name, value in given.items() if value is not None})
        for name in ("index_params", "search_params", "tls"):
            if not isinstance(getattr(options, name), Mapping):
                raise InvalidInput(f"{name}={getattr(options, name)!r}: give a dict such as {{'M': 16}}")
        for name in ("num_shards", "replica_number"):
            value = getattr(options, name)
            if value is not None and (type(value) is not int or value < 1):
                raise InvalidInput(f"{name}={value!r}: give a whole number of at least 1")
        for name, least in (("timeout", 0.001), ("lock_timeout", 0.0)):
            value = getattr(options, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value < least:
                raise InvalidInput(f"{name}={value!r}: give seconds as a number")
        if options.coarse_quantization not in (None, *QUANTIZATION):
            raise InvalidInput(
                f"coarse_quantization={options.coarse_quantization!r}: use {', '.join(sorted(QUANTIZATION))} or None"
            )
        if options.index_type is not None and not isinstance(options.index_type, str):
            raise InvalidInput(f"index_type={options.index_type!r}: give the name of a Milvus index, such as 'HNSW'")
        if options.user is not None and options.password is None:
            raise InvalidInput(f"user={options.user!r} was given without password=")
        options.coarse_index(lite=not address.url)
        return options

    def coarse_index(self, *, lite: bool) -> tuple[str, dict[str, Any]]:
        """Type and parameters of the index over the prefixes: exact in Milvus Lite, a graph on a server, if not given.

        Raises:
            InvalidInput: ``coarse_quantization`` of an index that has no such form, or an index that Milvus Lite would
                accept and never build.
        """
        kind = (self.index_type or ("FLAT" if lite and not self.coarse_quantization else "HNSW")).upper()
        if self.coarse_quantization:
            if kind not in _QUANTIZED:
                raise InvalidInput(
                    f"coarse_quantization={self.coarse_quantization!r} with index_type={kind!r}: only "
                    f"{', '.join(sorted(_QUANTIZED))} can be quantised"
                )
            kind = _QUANTIZED[kind]
        if lite and kind not in _IN_LITE:
            raise InvalidInput(f"index_type={kind!r}: Milvus Lite has {', '.join(_IN_LITE)}")
        params: dict[str, Any] = {}
        if kind.startswith("HNSW"):
            params = {"M": 32, "efConstruction": 200}
        if kind == "HNSW_SQ":
            params["sq_type"] = "SQ8"
        if kind.startswith("IVF"):
            params = {"nlist": 128}
        return kind, {**params, **self.index_params}

    def secret(self, *, remote: bool) -> str | None:
        """``token``, else ``user:password``, else what the environment says; None where there is none."""
        if not remote:
            return None
        if self.token:
            return self.token
        if self.user is not None:
            return f"{self.user}:{self.password}"
        return os.environ.get(_TOKEN_VARIABLE) or None
