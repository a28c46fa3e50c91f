"""What files can be brought into: a collection behind a retriever, or anything else that keeps rows by their id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from mrl_retrieval.documents import RowBatch
from mrl_retrieval.encoder import Encoder

__all__ = ["StoredMetadata", "Target"]


class StoredMetadata(Protocol):
    """Tells what is there."""

    def scan(self, *, documents: bool = True) -> Iterator[RowBatch]:
        """Every row, each once, in batches; with ``documents=False`` the documents may be None."""


class Target(Protocol):
    """A :class:`~mrl_retrieval.MatryoshkaRetriever` is one."""

    @property
    def manifest(self) -> object | None:
        """None where there is nothing yet."""

    @property
    def backend(self) -> StoredMetadata:
        """What is there."""

    @property
    def encoder(self) -> Encoder | None:
        """Counts the tokens of a piece."""

    def index(
        self, documents: Sequence[str], *, ids: Sequence[str], metadatas: Sequence[Mapping[str, Any]], batch_size: int
    ) -> object:
        """Write rows; an id that exists is overwritten."""

    def delete(self, ids: list[str]) -> int:
        """Remove rows; how many were there."""

    def flush(self) -> None:
        """All rows are in."""
