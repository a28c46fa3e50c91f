"""The queries that a plan is proved with: how many are needed, and where they come from.

Whoever records queries as they are asked makes a :class:`QuerySample` of them, with ``source="live"``, and hands it to
:func:`~mrl_retrieval.planning.plan_collection`; nothing else has to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..backend import Backend
from ..confidence import Shares
from ..errors import InvalidInput, TooFewQueries
from ..matryoshka import FloatArray

__all__ = ["QuerySample", "from_documents", "given_queries", "least_queries", "wanted_queries"]

Source = Literal["given", "live", "documents"]

_USUAL = 1000
"""Queries that are enough where they would be enough several times over."""
_MARGIN = 4
"""How many times as many queries as perfect recalls would need: real ones are not perfect."""
_SEED = 0
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class QuerySample:
    """Queries, drawn from what will be asked or from what stands for it."""

    vectors: FloatArray
    """``(Q, fine_dims)`` unit rows, as the collection stores them (rotated, where it is)."""
    source: Source
    own: list[str] | None = None
    """Where documents stand for queries: their ids, which no search for them is to find."""


def least_queries(target: float, confidence: float) -> int:
    """How many queries prove the target if every one of them finds everything; fewer never do.

    >>> least_queries(0.99, 0.95)
    381
    """
    needed = Shares([1.0]).needed(target, confidence)
    assert needed is not None
    return needed


def wanted_queries(target: float, confidence: float) -> int:
    """How many queries a plan takes, where there are so many."""
    return max(_USUAL, _MARGIN * least_queries(target, confidence))


def given_queries(
    vectors: FloatArray, target: float, confidence: float, source: Literal["given", "live"] = "given"
) -> QuerySample:
    """Queries that were asked, or are like those that will be; in a random order, which is always the same.

    Raises:
        TooFewQueries: they could not prove the target, even if all of them found everything.
    """
    least = least_queries(target, confidence)
    if len(vectors) < least:
        raise TooFewQueries(
            f"{len(vectors):,} queries cannot prove a recall of {target:g} with confidence {confidence:g}, even "
            f"if each finds everything: that needs {least:,} at least; give more, or ask for less",
            least,
        )
    order = np.random.default_rng(_SEED).permutation(len(vectors))[: wanted_queries(target, confidence)]
    return QuerySample(vectors[order], source)


def from_documents(backend: Backend, target: float, confidence: float) -> QuerySample:
    """Documents of the collection as queries: easier than real ones, since documents are nearer to one another.

    Raises:
        TooFewQueries: there are too few documents to prove the target with.
    """
    least, wanted = least_queries(target, confidence), wanted_queries(target, confidence)
    draw = np.random.default_rng(_SEED)
    keys, ids, vectors = np.zeros(0), np.zeros(0, dtype=object), np.zeros((0, backend.manifest.fine_dims), np.float32)
    for batch in backend.scan(vectors=True, documents=False, batch_size=_BLOCK):
        if batch.vectors is None:
            continue
        there = np.flatnonzero(batch.has_vector & batch.vectors.any(axis=1))
        # Every document has the same chance: those of the least random keys are kept.
        keys = np.concatenate([keys, draw.random(len(there))])
        ids = np.concatenate([ids, np.array(batch.ids, dtype=object)[there]])
        vectors = np.concatenate([vectors, batch.vectors[there]])
        if len(keys) > wanted:
            kept = np.argsort(keys, kind="stable")[:wanted]
            keys, ids, vectors = keys[kept], ids[kept], vectors[kept]
    if not len(keys):
        raise InvalidInput(f"{backend.address} has no vectors, expected some: index documents before planning")
    if len(keys) < least:
        raise TooFewQueries(
            f"{len(keys):,} documents are too few to stand for queries: a recall of {target:g} with confidence "
            f"{confidence:g} needs {least:,} queries at least; give queries=, or ask for less",
            least,
        )
    return QuerySample(vectors, "documents", ids.tolist())
