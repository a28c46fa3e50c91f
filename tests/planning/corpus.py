"""Vectors that prefixes are hard for: near neighbours in clusters, with most of what tells them apart in the tail."""

from __future__ import annotations

import numpy as np

from mrl_retrieval.matryoshka import FloatArray, normalize
from mrl_retrieval.retriever import MatryoshkaRetriever

DIM, COARSE = 48, 12


def made(count: int, seed: int, centres: int = 60) -> FloatArray:
    """Rows ``(count, DIM)``; those of different seeds share their clusters."""
    middle = np.random.default_rng(99).normal(size=(centres, DIM))
    draw = np.random.default_rng(seed)
    spread = np.linspace(0.5, 1.0, DIM)
    return normalize(
        (middle[draw.integers(centres, size=count)] + spread * draw.normal(size=(count, DIM))).astype("f4")
    )


def collection(backend: str, count: int = 3000, **settings: object) -> MatryoshkaRetriever:
    """A retriever with so many rows, of given vectors."""
    retriever = MatryoshkaRetriever(None, backend, coarse_dims=COARSE, dim=DIM, **settings)  # type: ignore[arg-type]
    retriever.index([f"text {i}" for i in range(count)], ids=[f"{i:05}" for i in range(count)], vectors=made(count, 1))
    return retriever
