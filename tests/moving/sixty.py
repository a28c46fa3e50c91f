"""What the tests of reindexing share: a collection of sixty texts, in whichever place."""

from __future__ import annotations

from typing import Any

from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.registry import open_backend

TEXTS = [f"document number {i} about topic {i % 7}" for i in range(60)]


def made(place: str) -> str:
    with MatryoshkaRetriever("hashing:64", place, coarse_dims=16) as retriever:
        retriever.index(TEXTS, range(60), [{"i": i} for i in range(60)])
    return place


def names(place: str) -> list[str]:
    with open_backend(place) as backend:
        return backend.collections()


class Breaking(HashingEncoder):
    """Stops in the middle, once."""

    left = 25

    def encode_document(self, texts: Any, **kwargs: Any) -> Any:
        self.left -= len(texts)
        if self.left < 0:
            raise RuntimeError("the model went away")
        return super().encode_document(texts, **kwargs)
