"""What a pair of encoders is, one that cannot be made here, and an encoder that says nothing of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mrl_retrieval import Encoder, as_encoder
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["NotRun", "Pair", "nameless", "without_card"]


@dataclass(frozen=True)
class Pair:
    """A collection made with one encoder and opened with another of the same length."""

    group: str
    made: str
    opened: str
    maker: Encoder
    opener: Encoder
    same: bool = False
    """Whether they are one model with one setting, so that opening should work."""


@dataclass(frozen=True)
class NotRun:
    """A pair that cannot be made here."""

    what: str
    why: str


Found = Pair | NotRun


class _Methods:
    """Only the two methods: no card, no name, no type that could be recognised."""

    def __init__(self, document: Callable[..., Any], query: Callable[..., Any]) -> None:
        self._document, self._query = document, query

    def encode_document(self, texts: Sequence[str]) -> FloatArray:
        vectors: FloatArray = self._document(texts)
        return vectors

    def encode_query(self, texts: Sequence[str]) -> FloatArray:
        vectors: FloatArray = self._query(texts)
        return vectors


def nameless(
    document: Callable[..., Any], query: Callable[..., Any] | None = None, *, name: str | None = None
) -> Encoder:
    """An encoder made of plain functions ``texts -> (N, D)``; its card has the length alone, and the name if given."""
    return as_encoder(_Methods(document, query or document), name)


def without_card(encoder: Encoder) -> Encoder:
    """The same vectors from an object that says nothing of itself: only the canaries can tell it from another."""
    return nameless(encoder.encode_document, encoder.encode_query)
