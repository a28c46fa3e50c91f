"""A search of the code lists that are promising enough for the query, however many these are."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from mrl_retrieval.kernels import available
from mrl_retrieval.matryoshka import FloatArray

from .lists import ALL, CodeLists, Mask, Places

__all__ = ["ALL_LISTS", "Reach", "WithinMargin"]

SPREAD = np.float32(0.4)
"""How many spreads of its documents a list's promise is above the score of its centroid. It was best, or nearly, on
clusters with a decaying spectrum and on short texts, of 128 and 256 dims."""


ALL_LISTS = 8.0
"""A margin that no gap exceeds, and a drop that no score does: scores are cosines, and bonuses are below 1."""


@dataclass(frozen=True)
class Reach:
    """How deep to search."""

    limit: int
    """Candidates, at most."""
    margin: float = ALL_LISTS
    """The largest gap of a list that is scanned."""
    drop: float = ALL_LISTS
    """How far below the anchor a candidate's coarse score may be."""
    anchor: int = 1
    """The rank of the candidate whose coarse score is the anchor."""


class WithinMargin:
    """Searches ``index`` within a margin (see ``depth.py``). Documents may be added to the index meanwhile.

    Args:
        index: whose centroids stay as they are.
        compiled: whether to use compiled loops; None: where numba is installed.
    """

    documents_in_a_block = 16

    def __init__(self, index: CodeLists, *, compiled: bool | None = None) -> None:
        self._index = index
        self._loops = _loops(compiled)
        self.bonuses = spread_bonuses(index)

    def search(self, queries: FloatArray, reach: Reach, allowed: Mask) -> tuple[FloatArray, Places, Places, Places]:
        """The best of the allowed documents in the lists within the margin, and always in the leading one.

        Args:
            queries: (Q, dims) unit rows, or zero rows.
            reach: how deep.
            allowed: (count,) which documents take part; empty: all.

        Returns:
            Scores and places (Q, limit), of which the first (Q,) count, in no order; that; and (Q,) blocks scanned.
        """
        limit, parts = reach.limit, self._index.parts
        scores = np.empty((len(queries), limit), np.float32)
        places = np.empty((len(queries), limit), np.int64)
        counts, scanned = np.zeros(len(queries), np.int64), np.zeros(len(queries), np.int64)
        self._loops.search_within(
            queries,
            parts.rotation,
            parts.centroid_codes,
            parts.centroid_scales,
            self.bonuses,
            parts.first,
            parts.following,
            parts.codes,
            parts.scales,
            parts.places,
            allowed,
            np.float32(reach.margin),
            limit,
            reach.anchor,
            np.float32(reach.drop),
            scores,
            places,
            counts,
            scanned,
        )
        return scores, places, counts, scanned

    def found(
        self, queries: FloatArray, reach: Reach, allowed: Mask, alive: int, k: int
    ) -> tuple[FloatArray, Places, Places]:
        """Scores and places of the candidates of each query, in no order: at least ``k``, where that many of the
        ``alive`` are.

        Few allowed documents are all scored, and queries that find less than ``k`` search as far as it takes.

        Returns:
            Scores and places (Q, n), of which the first (Q,) count; and that.
        """
        k = min(k, alive)
        if alive * 32 <= self._index.count:
            scores, places = self._index.search(queries, max(reach.limit, k), 1, allowed, alive)
            return scores, places, np.full(len(places), places.shape[1], np.int64)
        scores, places, counts, _ = self.search(queries, reach, ALL if alive == self._index.count else allowed)
        if np.count_nonzero(counts < k):
            few = np.flatnonzero(counts < k)
            more_scores, more = self._index.search(queries[few], max(k, reach.anchor), 1, allowed, alive)
            width = more.shape[1]
            if width > places.shape[1]:
                wider = (0, 0), (0, width - places.shape[1])
                scores, places = np.pad(scores, wider), np.pad(places, wider)
            scores[few, :width], places[few, :width], counts[few] = more_scores, more, width
        return scores, places, counts

    def candidates(self, queries: FloatArray, reach: Reach, allowed: Mask, alive: int, k: int) -> tuple[Places, Places]:
        """The same without the scores."""
        return self.found(queries, reach, allowed, alive, k)[1:]

    def ranked(self, queries: FloatArray, reach: Reach, allowed: Mask) -> tuple[FloatArray, Places, Places]:
        """The same, best first; where fewer than the limit are found, scores of -inf and places of -1 follow."""
        scores, places, counts, scanned = self.search(queries, reach, allowed)
        beyond = np.arange(reach.limit) >= counts[:, None]
        scores[beyond], places[beyond] = -np.inf, -1
        order = np.lexsort((places, -scores))
        return np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1), scanned

    def gaps(self, queries: FloatArray) -> FloatArray:
        """How far the promise of each list is below the mean of the four most promising: (Q, lists)."""
        parts = self._index.parts
        out = np.empty((len(queries), len(self.bonuses)), np.float32)
        self._loops.gaps(queries, parts.rotation, parts.centroid_codes, parts.centroid_scales, self.bonuses, out)
        return out


def spread_bonuses(index: CodeLists) -> FloatArray:
    """What is added to the score of each list's centroid c: (lists,).

    Documents are unit vectors, and c is their mean, so that their mean squared distance from it is ``1 - |c|^2``.
    """
    if index.lists == 1:
        return np.zeros(1, np.float32)
    held = dict(index.arrays())
    blocks, groups, _ = held["centroid_codes"].shape
    levels = held["centroid_codes"].reshape(blocks, groups, 16, 4).astype(np.float32) - np.float32(128)
    squares = np.square(levels).sum(axis=(1, 3)).reshape(-1) * np.square(held["centroid_scales"])
    bonuses: FloatArray = SPREAD * np.sqrt(np.maximum(np.float32(1) - squares[: index.lists], np.float32(0)))
    return bonuses


def _loops(compiled: bool | None) -> ModuleType:
    if available() if compiled is None else compiled:
        from . import depth_kernels

        return depth_kernels
    from . import depth_reference

    return depth_reference
