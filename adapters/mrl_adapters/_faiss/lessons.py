"""What a structure has learned of how deep to search, and from which queries, so that its successor can too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl_retrieval.coarse import CodeLists
from mrl_retrieval.coarse.depth import LearnedDepth
from mrl_retrieval.coarse.depth_learning import learn
from mrl_retrieval.errors import ManifestError
from mrl_retrieval.matryoshka import FloatArray, prefix
from mrl_retrieval.storage import Snapshot
from mrl_retrieval.storage.stored_cosines import stored_cosines

__all__ = ["Lesson", "Sample", "learned"]

_STORED = 600
"""Stored vectors that stand for queries where none were given."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What is learned from."""

    queries: FloatArray | None
    """(Q, fine_dims) unit rows; None: stored vectors."""
    k: int


@dataclass(frozen=True, slots=True)
class Lesson:
    """What was learned, and from what."""

    sample: Sample
    depth: LearnedDepth

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The same as arrays, by name, for a file."""
        told = {"depth": self.depth.to_json(), "k": self.sample.k, "given": self.sample.queries is not None}
        queries = np.empty((0, 0), np.float16) if self.sample.queries is None else self.sample.queries
        return {
            "lesson": np.frombuffer(json.dumps(told).encode(), np.uint8),
            "lesson_queries": queries.astype(np.float16),
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Lesson | None:
        """What :meth:`arrays` was called on; None where nothing was learned.

        Raises:
            ValueError: it is damaged.
        """
        if "lesson" not in arrays:
            return None
        try:
            told = json.loads(arrays["lesson"].tobytes())
            queries = arrays["lesson_queries"].astype(np.float32) if told["given"] else None
            return cls(Sample(queries, int(told["k"])), LearnedDepth.of_json(told["depth"]))
        except (KeyError, TypeError, ManifestError) as error:
            raise ValueError(f"what it learned cannot be read: {error!r}") from error

    def details(self) -> dict[str, Any]:
        """What is worth showing."""
        whose = "given queries" if self.sample.queries is not None else "stored vectors in the place of queries"
        return {
            "learned": f"from {self.depth.queries} {whose}, for up to {self.depth.k} hits; deepest recall "
            f"{self.depth.steps[-1].recall:.4f}"
        }


def learned(codes: CodeLists, snapshot: Snapshot, live: npt.NDArray[np.bool_], sample: Sample) -> Lesson:
    """What a sample teaches about codes that hold the vectors from ``snapshot.state.first`` on.

    Args:
        codes: the lists.
        snapshot: what they were made from.
        live: which of the vectors count.
        sample: to learn from.

    Raises:
        InvalidInput: it is too small, or the collection is.
        CorruptionError: a vector is not as it was written.
    """
    fine, first = snapshot.fine, snapshot.state.first
    own = None
    queries = sample.queries
    if queries is None:
        own = np.flatnonzero(live)
        if len(own) > _STORED:
            own = np.sort(np.random.default_rng(4).choice(own, _STORED, replace=False))
        queries = fine.gather(own + first)
    full: FloatArray = queries

    def cosines(i: int, places: npt.NDArray[np.int64]) -> FloatArray:
        return stored_cosines(fine, places + first, full[i], fine.layout.dims)

    prefixes = prefix(full, codes.dims)
    depth = learn(codes, prefixes, cosines, live, k=sample.k, row_bytes=fine.layout.row_bytes, own=own)
    return Lesson(sample, depth)
