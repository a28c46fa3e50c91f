"""What goes in and what comes out: rows, batches, hits; ids and metadata and the rules for them.

A *row* is one id with a document, metadata and a vector; the document or the vector may be missing. A row
without a vector is stored, counted, filtered and fetched, but no vector search finds it.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from .certificate import Certificate
from .errors import InvalidInput
from .matryoshka import FloatArray

Metadata = dict[str, Any]

__all__ = [
    "Hit",
    "Metadata",
    "Row",
    "RowBatch",
    "SearchResult",
    "canonical_json",
    "check_document",
    "check_id",
    "check_metadata",
    "check_query",
    "checked_ids",
    "content_id",
]

# The namespace of ids made from content. Fixed for ever: another value would give every document a second id.
_CONTENT_NAMESPACE = uuid.UUID("6c1f3c5e-0a8e-5a4b-9d6e-2f6d726c0001")

_INT64 = 2**63

MOST_LEVELS = 64
"""How deep metadata may be nested: deeper, the JSON of one database or another gives up."""


# A search makes many of these two: their constructors call the setters of the slots, in half a frozen dataclass's time.


@dataclass(frozen=True, slots=True, init=False)
class Row:
    """One stored row, as ``get`` gives it back."""

    id: str
    document: str | None
    metadata: Metadata = field(default_factory=dict)
    vector: FloatArray | None = None
    """Unit length, ``(fine_dims,)``, as stored (decoded to float32); None where not asked for or not there."""

    def __init__(
        self, id: str, document: str | None, metadata: Metadata | None = None, vector: FloatArray | None = None
    ) -> None:
        _row_id(self, id)
        _row_document(self, document)
        _row_metadata(self, {} if metadata is None else metadata)
        _row_vector(self, vector)


_row_id, _row_document, _row_metadata, _row_vector = (getattr(Row, name).__set__ for name in Row.__slots__)


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Several rows as columns: what backends take and what ``scan`` yields. All columns have length N."""

    ids: Sequence[str]
    documents: Sequence[str | None]
    metadatas: Sequence[Metadata]
    vectors: FloatArray | None
    """``(N, fine_dims)`` float32 of unit rows (or zero rows); rows not in ``has_vector`` hold zeros.
    None: not asked for."""
    has_vector: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self) -> Iterator[Row]:
        """The same, row by row."""
        for i, id in enumerate(self.ids):
            vector = self.vectors[i] if self.vectors is not None and self.has_vector[i] else None
            yield Row(id, self.documents[i], self.metadatas[i], vector)


@dataclass(frozen=True, slots=True, init=False)
class Hit:
    """One search result. Iterating it yields exactly ``id, score, document``."""

    id: str
    score: float
    """Cosine of the query and the document over ``fine_dims`` components, in -1..1; higher is better."""
    document: str | None
    metadata: Metadata = field(default_factory=dict)
    coarse_score: float | None = None
    """Cosine over ``coarse_dims`` components, where it is free, or with ``explain=True``."""
    ranks: tuple[int, ...] | None = None
    """Its rank in every stage, from 1 up, with ``explain=True``; else None."""
    rerank_score: float | None = None
    """What the reranker gave it, by which hits are then ordered; None where none read it."""

    def __init__(
        self,
        id: str,
        score: float,
        document: str | None,
        metadata: Metadata | None = None,
        coarse_score: float | None = None,
        ranks: tuple[int, ...] | None = None,
        rerank_score: float | None = None,
    ) -> None:
        _hit_id(self, id)
        _hit_score(self, score)
        _hit_document(self, document)
        _hit_metadata(self, {} if metadata is None else metadata)
        _hit_coarse_score(self, coarse_score)
        _hit_ranks(self, ranks)
        _hit_rerank_score(self, rerank_score)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.id, self.score, self.document))


_setters = (getattr(Hit, name).__set__ for name in Hit.__slots__)
_hit_id, _hit_score, _hit_document, _hit_metadata, _hit_coarse_score, _hit_ranks, _hit_rerank_score = _setters


@dataclass(frozen=True, slots=True)
class SearchResult(Sequence[Hit]):
    """The hits of one query, best first: an immutable sequence.

    >>> result = SearchResult((Hit("a", 0.9, "text"),))
    >>> for id, score, document in result:
    ...     print(id, score, document)
    a 0.9 text
    """

    hits: tuple[Hit, ...] = ()
    certificate: Certificate | None = None
    """What is certain: ``"exact"`` over all stored vectors that the filter lets through, or ``"candidates"``, exact
    over the candidates of the stage before the last; None: nothing, as after a reranker. Names dims and dtype too."""
    trace: Any = None
    """What each stage did (:class:`mrl_retrieval.tracing.Trace`), with ``explain=True``; else None."""

    @property
    def ids(self) -> list[str]:
        """The ids of the hits, best first."""
        return [hit.id for hit in self.hits]

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, index: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[index]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)


def canonical_json(value: Any) -> str:
    """One spelling for equal values: sorted keys, no spaces, UTF-8 characters as they are; NaN is an error."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_id(document: str | None, metadata: Mapping[str, Any]) -> str:
    """The id of a row that was given none: UUIDv5 of document and metadata.

    Indexing the same thing twice makes one row; the same text from two sources stays two.
    """
    return str(uuid.uuid5(_CONTENT_NAMESPACE, canonical_json([document, metadata])))


def check_id(value: Any, position: int) -> str:
    """An id as it is stored: a string, or a whole number as its decimal string.

    Raises:
        InvalidInput: it is empty, or neither of the two, or not encodable as UTF-8.
    """
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        try:
            return str(int(value))
        except ValueError as error:  # Python refuses to write numbers of thousands of digits
            raise InvalidInput(
                f"ids[{position}] is a number of {int(value).bit_length()} bits; use a string"
            ) from error
    if not isinstance(value, str):
        raise InvalidInput(f"ids[{position}] is {value!r} of type {type(value).__name__}; an id is a string or an int")
    if not value:
        raise InvalidInput(f"ids[{position}] is empty; give every row an id, or ids=None to have them made")
    return _check_text(value, f"ids[{position}]")


def checked_ids(ids: Iterable[str | int] | str | int) -> list[str]:
    """Ids as they are stored; a single one stands for a list of one.

    Raises:
        InvalidInput: see :func:`check_id`.
    """
    return [check_id(id, i) for i, id in enumerate([ids] if isinstance(ids, (str, int)) else ids)]


def check_query(value: Any, position: int) -> str:
    """A text that can be searched for.

    Raises:
        InvalidInput: it is no string, or not encodable as UTF-8.
    """
    if not isinstance(value, str):
        raise InvalidInput(f"queries[{position}] is {type(value).__name__}, expected str")
    return _check_text(value, f"queries[{position}]")


def check_document(value: Any, position: int, *, optional: bool = False) -> str | None:
    """A document as it is stored: a string, or None where ``optional``.

    Raises:
        InvalidInput: it is something else, or not encodable as UTF-8.
    """
    if isinstance(value, str):
        return _check_text(value, f"documents[{position}]")
    if value is None and optional:
        return None
    raise InvalidInput(
        f"documents[{position}] is {type(value).__name__}, expected str"
        + ("; a row without text needs its vector in vectors=" if value is None else "; pass the text itself")
    )


def check_metadata(value: Any, position: int) -> Metadata:
    """A deep copy of one row's metadata, checked to be plain JSON that every database can give back exactly.

    None becomes ``{}``. Allowed: str, bool, None, finite float, int within 64 bits, and lists and dicts of these.

    Raises:
        InvalidInput: something else is in it; the message has the path.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInput(f"metadatas[{position}] is {type(value).__name__}, expected a dict or None")
    checked: Metadata = _check_json(value, f"metadatas[{position}]")
    return checked


def _check_json(value: Any, path: str, depth: int = 0) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if type(value) is str:
        return _check_text(value, path)
    if type(value) is int:
        if not -_INT64 <= value < _INT64:
            raise InvalidInput(f"{path} is {value}, beyond 64 bits; store it as a string")
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise InvalidInput(f"{path} is {value}; JSON has no such number, use None")
        return value
    if depth == MOST_LEVELS and isinstance(value, (Mapping, list)):
        start = path if len(path) <= 60 else f"{path[:60]}…"
        raise InvalidInput(
            f"{start} is nested more than {MOST_LEVELS} levels deep (or holds itself); "
            "store such a thing as a JSON string"
        )
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str:
                raise InvalidInput(f"{path} has the key {key!r} of type {type(key).__name__}; keys are strings")
            _check_text(key, f"a key of {path}")
        return {key: _check_json(item, f"{path}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_check_json(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise InvalidInput(
        f"{path} is {type(value).__name__}, which does not come back from JSON as it was; convert it first "
        "(numbers with int() or float(), dates with .isoformat(), tuples and sets with list())"
    )


def _check_text(value: str, where: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{where} has a lone surrogate {value[error.start]!r} at position {error.start}, which UTF-8 cannot "
            "hold; decode the source with errors='replace'"
        ) from error
    return str(value)
