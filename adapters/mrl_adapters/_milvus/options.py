"""What the ``milvus`` backend can be told, checked before anything is opened."""

from __future__ import annotations

import math
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
_EXAMPLES = {"index_type": ", the name of a Milvus index such as 'HNSW'"}
_WHOLE = ("M", "efConstruction", "ef", "nlist", "nprobe", "m", "nbits")
_TLS = {
    "ca_pem_path": str, "client_pem_path": str, "client_key_path": str, "server_pem_path": str, "server_name": str,
    "secure": bool,
}  # fmt: skip
_LONGEST_TIMEOUT = 1e9
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
        options._check_texts()
        options._check_numbers()
        for name in ("index_params", "search_params"):
            _check_params(name, getattr(options, name))
        _check_tls(options.tls)
        if options.coarse_quantization not in (None, *QUANTIZATION):
            raise InvalidInput(
                f"coarse_quantization={options.coarse_quantization!r}: use {', '.join(sorted(QUANTIZATION))} or None"
            )
        if options.user is not None and options.password is None:
            raise InvalidInput(f"user={options.user!r} was given without password=")
        if options.password is not None and options.user is None:
            raise InvalidInput("password= was given without user=")
        options.coarse_index(lite=not address.url)
        return options

    def _check_texts(self) -> None:
        for name in ("index_type", "token", "user", "password", "db_name"):
            value = getattr(self, name)
            if value is None or isinstance(value, str):
                continue
            # The type alone: the value may be a secret.
            raise InvalidInput(f"{name}= is of type {type(value).__name__}: give a string{_EXAMPLES.get(name, '')}")

    def _check_numbers(self) -> None:
        for name in ("num_shards", "replica_number"):
            value = getattr(self, name)
            if value is not None and not _is_whole(value):
                raise InvalidInput(f"{name}={value!r}: give a whole number of at least 1")
        for name, least, most in (("timeout", 0.001, _LONGEST_TIMEOUT), ("lock_timeout", 0.0, math.inf)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
                raise InvalidInput(f"{name}={value!r}: give seconds as a number, at least {least:g}, at most {most:g}")

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


def _is_whole(value: Any) -> bool:
    return type(value) is int and value >= 1


def _check_params(name: str, params: Any) -> None:
    """Raise for what neither JSON nor Milvus could take."""
    if not isinstance(params, Mapping):
        raise InvalidInput(f"{name}={params!r}: give a dict such as {{'M': 16}}")
    for key, value in params.items():
        if not isinstance(key, str) or not isinstance(value, (str, int, float)):
            raise InvalidInput(f"{name}={{{key!r}: {value!r}}}: give names with numbers or strings")
        if key in _WHOLE and not _is_whole(value):
            raise InvalidInput(f"{name}={{{key!r}: {value!r}}}: give a whole number of at least 1")


def _check_tls(tls: Any) -> None:
    if not isinstance(tls, Mapping):
        raise InvalidInput(f"tls={tls!r}: give a dict such as {{'ca_pem_path': 'ca.pem'}}")
    for key, value in tls.items():
        kind = _TLS.get(key)
        if kind is None:
            raise InvalidInput(f"tls={{{key!r}: …}}: known are {', '.join(_TLS)}")
        if not isinstance(value, kind):
            raise InvalidInput(f"tls={{{key!r}: {value!r}}}: give a {kind.__name__}")
