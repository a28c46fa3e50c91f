"""What an importer gives: the rows of a collection that another program made, as plain values.

An importer is a function ``(address, fields, **options) -> ForeignCollection``, found under the entry-point group
``mrl_retrieval.importers`` by the scheme of the address. It never writes to what it reads.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import math
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Fields", "ForeignBatch", "ForeignCollection", "plain_json"]

_INT64 = 2**63


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields of the foreign rows are what; None: the database's own place for it."""

    vector: str | None = None
    text: str | None = None
    id: str | None = None
    metadata: tuple[str, ...] | None = None
    """Names to keep; None: all that are nothing else."""


@dataclass(frozen=True, slots=True)
class ForeignBatch:
    """Some rows as columns of one length."""

    ids: Sequence[str]
    vectors: Sequence[Any]
    """A vector, or None, for each."""
    documents: Sequence[str | None]
    metadatas: Sequence[Mapping[str, Any]]


class ForeignCollection(ABC):
    """Somebody's rows, read in batches. Reading changes nothing in the database."""

    @abstractmethod
    def count(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def batches(self, size: int) -> Iterator[ForeignBatch]:
        """All rows, each once."""

    @abstractmethod
    def close(self) -> None:
        """Release files and connections."""

    def __enter__(self) -> ForeignCollection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def plain_json(value: Any) -> Any:
    """A value of somebody's database as JSON that every backend can hold.

    Dates and times become ISO strings, decimals numbers where that is exact and else strings, UUIDs strings, bytes
    base64, NaN and infinities None, integers beyond 64 bits strings, arrays and sets lists; what is left, its ``str``.
    """
    if value is None or isinstance(value, (bool, str)):
        return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
    if isinstance(value, (np.generic, np.ndarray)):
        return plain_json(value.tolist())
    if isinstance(value, int):
        return value if -_INT64 <= value < _INT64 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain_json(item) for item in value]
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return _number(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(value)).decode("ascii")
    if isinstance(value, uuid.UUID):
        return str(value)
    return str(value)


def _number(value: decimal.Decimal) -> int | float | str:
    if not value.is_finite():
        return str(value)
    if value == value.to_integral_value() and abs(value) < _INT64:
        return int(value)
    return float(value) if decimal.Decimal(repr(float(value))) == value else str(value)
