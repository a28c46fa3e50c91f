"""What a search with ``explain=True`` tells of the coarse stage: how many there were, and what was dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mrl_retrieval.filters import Filter
from mrl_retrieval.matryoshka import FloatArray, prefix
from mrl_retrieval.storage import Near, Snapshot
from mrl_retrieval.storage.rerank import explained_ids
from mrl_retrieval.storage.stored_cosines import stored_cosines
from mrl_retrieval.tracing import Seen
from mrl_retrieval.two_stage import SearchRequest

from .index import CoarseIndex

__all__ = ["Beyond"]


@dataclass(frozen=True, slots=True)
class Beyond:
    """What a coarse search had before it, and what lies just beyond its candidates."""

    seconds: float
    """That the search took."""
    candidates_in: int
    bytes_read: int | None
    positions: npt.NDArray[np.int64] | None
    """(Q, n) of a search for one more; None where there is no limit to look beyond."""

    @classmethod
    def of(
        cls,
        seconds: float,
        snapshot: Snapshot,
        coarse: CoarseIndex,
        request: SearchRequest,
        filter: Filter | None,
        probes: int | None,
    ) -> Beyond:
        """Look beyond the candidates of a search. With ``recall=`` each query has its own depth, and no limit."""
        mask = None if filter is None else snapshot.vector_mask(filter)
        allowed, positions = coarse.among(mask), None
        if request.recall is None:
            more = request.stages[0].limit + 1
            _, positions = coarse.search(prefix(request.vectors, coarse.dims), more, mask, probes)
        return cls(seconds, allowed.count, coarse.structure.bytes_scanned(allowed), positions)

    def seen(
        self, snapshot: Snapshot, request: SearchRequest, near: Near, scores: Sequence[FloatArray] | FloatArray
    ) -> list[Seen]:
        """Of each query, whose candidates and true coarse scores are given."""
        seen = []
        for q, query in enumerate(request.vectors):
            dropped = None
            if self.positions is not None:
                others = np.setdiff1d(self.positions[q], near.of(q))
                if len(others):
                    dropped = float(stored_cosines(snapshot.fine, others, query, request.stages[0].dims).max())
            ids = explained_ids(snapshot, near.of(q))
            seen.append(Seen.found(scores[q], ids, dropped, self.candidates_in, self.bytes_read))
        return seen
