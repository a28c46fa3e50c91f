"""What every structure of the coarse index is to the rest of the backend: prefixes in consecutive places, searched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mrl_retrieval.errors import NothingLearned
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.storage import Near, Snapshot
from mrl_retrieval.storage.segments import PositionArray

__all__ = ["Allowed", "Found", "Mask", "Structure"]

Mask = npt.NDArray[np.bool_]
Found = tuple[FloatArray, npt.NDArray[np.int64]]
"""Scores and places (Q, n)."""


class Allowed:
    """Which places take part in a search."""

    def __init__(self, mask: Mask, count: int | None = None) -> None:
        self.mask = mask
        self.count = int(np.count_nonzero(mask)) if count is None else count

    @cached_property
    def bits(self) -> npt.NDArray[np.uint8]:
        """The same as FAISS's bitmaps are."""
        return np.packbits(self.mask, bitorder="little")

    @cached_property
    def places(self) -> npt.NDArray[np.int64]:
        """The same as numbers, ascending."""
        return np.flatnonzero(self.mask)


class Structure(ABC):
    """Prefixes in places from 0 up. Only what searches may be called while somebody else does."""

    kind: ClassVar[str]
    """What the cache file calls it."""
    exact_scores: ClassVar[bool] = False
    """Whether scores are the cosines of the prefixes, and not estimates."""

    @property
    @abstractmethod
    def dims(self) -> int:
        """Length of the prefixes."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many prefixes it holds."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes in memory, about."""

    @property
    def wants_renewal(self) -> bool:
        """Whether so much has changed since it was made that it should be made again."""
        return False

    @abstractmethod
    def add(self, prefixes: FloatArray) -> None:
        """Give unit prefixes (n, dims) the next places."""

    @abstractmethod
    def drop_front(self, n: int) -> None:
        """Forget the first ``n``; the others move up."""

    @abstractmethod
    def search(self, queries: FloatArray, limit: int, allowed: Allowed, probes: int | None = None) -> Found:
        """Scores and places of the best ``limit`` allowed prefixes of each query (Q, dims), in any order.

        Args:
            queries: unit rows, or zero rows.
            limit: from 1 to ``allowed.count``; that many come back.
            allowed: the places that take part.
            probes: how many lists to look into, where there are lists; None: as many as was found to be enough.
        """

    def bytes_scanned(self, allowed: Allowed) -> int | None:
        """Bytes of prefixes that a search among these reads; None: that depends on the query."""
        return None

    def shortlist(
        self, snapshot: Snapshot, queries: FloatArray, positions: PositionArray, k: int
    ) -> Sequence[PositionArray] | None:
        """Of the candidates (Q, n) of full queries (Q, D), those that can be among the best ``k``, ties included; None:
        it cannot tell. May be called whatever is done to the structure meanwhile.

        Raises:
            CorruptionError: a vector is not as it was written.
        """
        return None

    @property
    def can_be_kept(self) -> bool:
        """Whether it can be written to a file as it is now; where not, the file that there is stays."""
        return True

    @abstractmethod
    def write(self, path: Path) -> None:
        """Write it to a new file."""

    @classmethod
    @abstractmethod
    def read(cls, content: npt.NDArray[np.uint8]) -> Structure:
        """What was written.

        Args:
            content: the bytes of the file, mapped privately: they may be changed in memory.

        Raises:
            ValueError: it was not this.
        """

    def candidates(self, queries: FloatArray, recall: float, k: int, allowed: Allowed) -> Near:
        """Places of as many candidates of each query (Q, dims) as was learned to be enough for a recall@k.

        Raises:
            NothingLearned: it was not learned.
            InvalidInput: the recall was not reached, or learned for fewer hits.
        """
        raise NothingLearned(
            f"recall={recall:g} was asked for, but how deep to search for it was not learned for this index "
            f"({self.kind}): call retriever.learn_depth(queries) ('mrl learn'), or pass coarse_top_k instead"
        )

    @abstractmethod
    def differing(self, start: int, prefixes: FloatArray) -> bool:
        """Whether the places from ``start`` on hold something else than :meth:`add` makes of these prefixes."""

    def details(self) -> Mapping[str, Any]:
        """What is worth showing of it."""
        return {}
