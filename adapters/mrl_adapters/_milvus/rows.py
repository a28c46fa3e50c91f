"""Rows as Milvus holds them: primary keys, vectors, and texts of any length in strings of a limited one.

A row is one Milvus entity, which an upsert replaces whole. Its primary key is its id where that is short and harmless
in an expression, else a hash of it. Document and metadata are arrays of strings, because one string of Milvus's ends
at 65,535 bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from mrl_retrieval.documents import RowBatch
from mrl_retrieval.errors import CorruptionError
from mrl_retrieval.matryoshka import FloatArray, prefix

from . import filters
from .collections import COARSE, DOCUMENT, FULL, HAS_VECTOR, METADATA, PK, TERMS

__all__ = ["decode", "encode", "entity_size", "id_of", "is_hashed", "key_of", "parts", "vectors_of"]

T = TypeVar("T")

_HARMLESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}")
_HASHED = "~"
_LONGEST_PART = 16_000  # characters: at most 64,000 bytes of UTF-8


def key_of(id: str) -> str:
    """The primary key of an id: itself, or ``~`` and a hash of 160 bits."""
    if _HARMLESS.fullmatch(id):
        return id
    digest = hashlib.sha256(id.encode()).digest()[:20]
    return _HASHED + base64.b32encode(digest).decode("ascii").lower()


def is_hashed(key: str) -> bool:
    """Whether the id cannot be read off the primary key."""
    return key.startswith(_HASHED)


def encode(
    batch: RowBatch, coarse_dims: int, fine_dims: int, listed_terms: bool
) -> Iterator[tuple[dict[str, Any], bool]]:
    """The entity of each row, and whether all its terms are in it."""
    has_vector = batch.has_vector if batch.vectors is not None else np.zeros(len(batch), dtype=np.bool_)
    fulls = np.zeros((len(batch), fine_dims), dtype=np.float32)
    if batch.vectors is not None:
        fulls[has_vector] = batch.vectors[has_vector]
    coarses, fulls = _at_least_two(prefix(fulls, coarse_dims)), _at_least_two(fulls)
    for i, (id, document, metadata) in enumerate(zip(batch.ids, batch.documents, batch.metadatas, strict=True)):
        key = key_of(id)
        told = [id if is_hashed(key) else None, document is not None, metadata]
        text = json.dumps(told, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        terms = filters.hashed_terms(metadata)
        fits = len(terms) <= filters.MOST_TERMS
        if not fits:
            terms = []
        yield (
            {
                PK: key,
                HAS_VECTOR: bool(has_vector[i]),
                COARSE: coarses[i],
                FULL: fulls[i],
                TERMS: terms if listed_terms else "".join(f".{term}" for term in terms),
                METADATA: list(_cut(text)),
                DOCUMENT: list(_cut(document or "")),
                **(filters.hashed_numbers(metadata) if fits else {}),
            },
            fits,
        )


def entity_size(entity: Mapping[str, Any]) -> int:
    """About how many bytes an entity takes in a message."""
    vectors = 4 * (len(entity[COARSE]) + len(entity[FULL]))
    terms = entity[TERMS]
    letters = len(terms) if isinstance(terms, str) else filters.LONGEST_TERM * len(terms)
    texts = sum(4 * len(text) for field in (METADATA, DOCUMENT) for text in entity[field])
    return vectors + letters + texts + 100 * len(entity)


def id_of(entity: Mapping[str, Any]) -> str:
    """The id of an entity that was read with its metadata."""
    key = str(entity[PK])
    return str(_told(entity)[0]) if is_hashed(key) else key


def decode(entities: Sequence[Mapping[str, Any]], fine_dims: int, *, vectors: bool, documents: bool) -> RowBatch:
    """The rows of entities that were read with what is asked for."""
    told = [_told(entity) for entity in entities]
    has_vector = np.array([bool(entity[HAS_VECTOR]) for entity in entities], dtype=np.bool_)
    return RowBatch(
        ids=[id_of(entity) for entity in entities],
        documents=[
            "".join(entity[DOCUMENT]) if there else None for entity, (_, there, _) in zip(entities, told, strict=True)
        ]
        if documents
        else [None] * len(entities),
        metadatas=[metadata for _, _, metadata in told],
        vectors=vectors_of(entities, FULL, fine_dims) if vectors else None,
        has_vector=has_vector,
    )


def vectors_of(entities: Sequence[Mapping[str, Any]], field: str, dims: int) -> FloatArray:
    """One vector field of entities: ``(n, dims)``."""
    if not entities:
        return np.empty((0, dims), dtype=np.float32)
    return np.array([entity[field] for entity in entities], dtype=np.float32)[:, :dims]


def parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of at most ``size``."""
    listed = list(items)
    for i in range(0, len(listed), size):
        yield listed[i : i + size]


def _cut(text: str) -> Iterator[str]:
    for i in range(0, len(text) or 1, _LONGEST_PART):
        yield text[i : i + _LONGEST_PART]


def _told(entity: Mapping[str, Any]) -> tuple[str | None, bool, dict[str, Any]]:
    text = "".join(entity[METADATA])
    try:
        id, there, metadata = json.loads(text)
    except ValueError as error:
        raise CorruptionError(
            f"the metadata of Milvus entity {entity[PK]!r} cannot be read ({error}); it was changed by something else: "
            "index that row again"
        ) from error
    return id, bool(there), metadata


def _at_least_two(vectors: FloatArray) -> FloatArray:
    """Milvus wants at least two components; a zero changes no inner product."""
    return vectors if vectors.shape[1] > 1 else np.pad(vectors, ((0, 0), (0, 1)))
