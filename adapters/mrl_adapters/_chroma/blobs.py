"""Pieces of attachments as records of a Chroma collection: the text is metadata.

It is no document, because Chroma indexes the words of documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["BlobRecords"]

_TEXT = "text"


class BlobRecords:
    """See :class:`mrl_adapters._pieces.Records`. Lets Chroma's errors through."""

    longest = 100_000

    def __init__(self, collection: Any) -> None:
        self._collection = collection

    def put(self, texts: Mapping[str, str]) -> None:
        """See the protocol. Chroma writes one call to one collection as a whole."""
        metadatas = [{_TEXT: text} for text in texts.values()]
        # It wants a vector for every record.
        self._collection.upsert(ids=list(texts), embeddings=[[1.0]] * len(texts), metadatas=metadatas)

    def get(self, keys: Sequence[str]) -> dict[str, str]:
        """See the protocol."""
        found = self._collection.get(ids=list(keys), include=["metadatas"])
        return {key: str(metadata.get(_TEXT)) for key, metadata in zip(found["ids"], found["metadatas"], strict=True)}

    def keys(self) -> list[str]:
        """See the protocol."""
        return list(self._collection.get(include=[])["ids"])

    def remove(self, keys: Sequence[str]) -> None:
        """See the protocol."""
        self._collection.delete(ids=list(keys))
