"""The coarse index as it stands for one generation of a store, and how it follows the store to the next.

A structure holds the renormalised prefixes of vectors with consecutive numbers: a place in it is a number less the
first one. What was deleted stays in it, behind a mask; what compaction left behind at its beginning is cut off when it
has become much.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mrl_retrieval.matryoshka import FloatArray, prefix
from mrl_retrieval.storage import CollectionFiles, Near, Snapshot

from .cache import Cached, load
from .choosing import Wish, is_usable, started
from .structure import Allowed, Found, Mask, Structure

__all__ = ["CoarseIndex"]

_BLOCK = 8192
# Dead prefixes at the beginning are cut off when they are this share of all.
_CUT_SHARE = 4


@dataclass(frozen=True, slots=True)
class CoarseIndex:
    """A structure, and which of its places count in one generation of a collection."""

    structure: Structure
    """Shared with the objects for later generations: only add to it while nobody searches."""
    collection_id: str
    generation: int
    first: int
    """Number of the vector whose prefix is in the first place."""
    everyone: Allowed
    """The places whose vectors belong to rows."""
    chosen: dict[str, Any] = field(default_factory=dict)
    """How the structure was chosen; empty where it was not, but begun with."""
    cache_is_bad: bool = False
    """Whether a cache file was found that could not be used."""
    epoch: int = 0
    """Of the snapshot; see there."""

    @property
    def dims(self) -> int:
        """Length of the prefixes."""
        return self.structure.dims

    def fits(self, snapshot: Snapshot) -> bool:
        """Whether it stands for exactly this snapshot."""
        state = snapshot.state
        same = self.generation == state.generation and self.collection_id == state.collection_id
        return same and self.epoch == snapshot.epoch

    def search(self, queries: FloatArray, limit: int, mask: Mask | None, probes: int | None = None) -> Found:
        """Scores and numbers of the best ``limit`` prefixes of each query (Q, dims), in any order.

        Args:
            queries: unit or zero rows.
            limit: at least 1; fewer come back where there are not so many.
            mask: which of the last vectors take part, live ones only; None: all live ones.
            probes: see :meth:`Structure.search`.
        """
        allowed = self.among(mask)
        limit = min(limit, allowed.count)
        if not limit or not len(queries):
            return np.empty((len(queries), 0), dtype=np.float32), np.empty((len(queries), 0), dtype=np.int64)
        scores, places = self.structure.search(queries, limit, allowed, probes)
        return scores, places + self.first if self.first else places

    def candidates(self, queries: FloatArray, recall: float, k: int, mask: Mask | None) -> Near:
        """Numbers of as many candidates of each query (Q, dims) as was learned to be enough; see
        :meth:`Structure.candidates`."""
        allowed = self.among(mask)
        near = self.structure.candidates(queries, recall, k, allowed)
        return Near(near.numbers + self.first, near.counts) if self.first else near

    def among(self, mask: Mask | None) -> Allowed:
        """The places that take part, as ``mask`` says it in :meth:`search`."""
        if mask is None:
            return self.everyone
        cut_off = self.structure.count - len(mask)  # compacted away, but not yet out of the structure
        return Allowed(np.concatenate([np.zeros(cut_off, dtype=np.bool_), mask]) if cut_off else mask)

    @staticmethod
    def of(structure: Structure, chosen: dict[str, Any], snapshot: Snapshot) -> CoarseIndex:
        """The index with a structure that was made from just this snapshot."""
        return _at(snapshot, structure, snapshot.state.first, None, chosen, False)

    @staticmethod
    def follow(snapshot: Snapshot, before: CoarseIndex | None, files: CollectionFiles, wish: Wish) -> CoarseIndex:
        """The index for a snapshot: made from an earlier one, or from the cache file, or from nothing.

        Nobody may be searching ``before`` meanwhile.
        """
        state = snapshot.state
        ours = None if before is None else (before.epoch, before.collection_id, before.structure.dims)
        if ours != (snapshot.epoch, state.collection_id, state.coarse_dims):
            before = None
        if before is None:
            cached = load(snapshot, files)
            bad = cached is None and files.sidecar.exists()
            if cached is None or not is_usable(cached.structure, cached.chosen, wish):
                cached = Cached(started(state.coarse_dims, state.vectors - state.first), state.first, {})
            structure, first, chosen, known = cached.structure, cached.first, cached.chosen, None
        else:
            structure, first, chosen, known = before.structure, before.first, before.chosen, before.everyone.mask
            bad = before.cache_is_bad
        if first + structure.count < state.first or (state.first - first) * _CUT_SHARE > structure.count:
            cut = min(state.first - first, structure.count)
            structure.drop_front(cut)
            known, first = None if known is None else known[cut:], state.first
        for start in range(first + structure.count, state.vectors, _BLOCK):
            vectors = snapshot.fine.read(start, min(start + _BLOCK, state.vectors))
            structure.add(prefix(vectors, state.coarse_dims))
        earlier = None if before is None or known is None else (known, before.generation)
        return _at(snapshot, structure, first, earlier, chosen, bad)


def _at(
    snapshot: Snapshot,
    structure: Structure,
    first: int,
    earlier: tuple[Mask, int] | None,
    chosen: dict[str, Any],
    cache_is_bad: bool,
) -> CoarseIndex:
    """The index whose structure holds the vectors from ``first`` on; ``earlier``: which counted, in what generation."""
    state = snapshot.state
    live = np.zeros(structure.count, dtype=np.bool_)
    if earlier is None:
        live[state.first - first :] = snapshot.vector_mask(None)
    else:
        known, generation = earlier
        live[: len(known)] = known
        live[len(known) :] = True
        gone = snapshot.tombstones(generation)
        live[gone[gone >= first] - first] = False
        live[: state.first - first] = False
    generation, allowed = state.generation, Allowed(live)
    return CoarseIndex(
        structure, state.collection_id, generation, first, allowed, chosen, cache_is_bad, snapshot.epoch
    )  # fmt: skip
