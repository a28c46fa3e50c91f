"""How far a search of lists has to look, by trying it on the collection's own vectors."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mrl_retrieval.coarse.within import ALL_LISTS
from mrl_retrieval.kernels import available
from mrl_retrieval.matryoshka import prefix
from mrl_retrieval.storage import Snapshot
from mrl_retrieval.storage.stored_cosines import stored_cosines

from .coded import CodedStructure
from .structure import Allowed

__all__ = ["Measured", "measure", "sampled"]

_QUERIES = 200
_K = 10
_LIMIT = 200
_KEPT = 0.995
# Margins that are tried: each list within them costs its documents, and the number of lists grows faster than they do.
_LEAST, _STEP = 0.03, 1.08


@dataclass(frozen=True)
class Measured:
    """What was found, and set."""

    lists: int
    """That a search looks into, in the mean."""
    kept: float
    """The share of the neighbours found by a scan that are among its candidates."""
    share_of_time: float
    """Its time, as a share of a scan's."""


def measure(
    structure: CodedStructure,
    snapshot: Snapshot,
    everyone: Allowed,
    positions: npt.NDArray[np.int64],
    check: Callable[[], None],
) -> Measured:
    """Give a structure the least margin within which its lists hold 99.5 % of the neighbours that a scan of all codes
    finds for stored vectors, and the number of lists that this is in the mean.

    A margin rather than a number of lists, because it carries over to queries that lie farther from the documents than
    these from each other: for them more lists are within it.

    Args:
        structure: filled.
        snapshot: of the collection.
        everyone: the places that take part.
        positions: numbers of the vectors to try with.
        check: called between searches, may raise.
    """
    fine = snapshot.fine
    vectors = fine.gather(positions)
    queries = prefix(vectors, structure.dims)
    limit = min(_LIMIT, everyone.count)

    def timed(probes: int | None) -> tuple[list[npt.NDArray[np.int64]], float]:
        found, seconds = [], []
        for query in queries:
            check()
            begun = time.perf_counter()
            found.append(structure.search(query[None], limit, everyone, probes)[1][0] + snapshot.state.first)
            seconds.append(time.perf_counter() - begun)
        return found, float(np.median(seconds))

    scanned, scan_seconds = timed(structure.codes.lists)
    near = []
    for position, vector, places in zip(positions, vectors, scanned, strict=True):
        best = places[np.argsort(-stored_cosines(fine, places, vector, fine.layout.dims))]
        near.append(set(best[best != position][:_K].tolist()))
    gaps = structure.within.gaps(queries)
    margin = _LEAST
    while True:
        structure.margin = margin
        lists = float(np.mean(np.maximum((gaps <= margin).sum(axis=1), 1)))
        structure.probes = max(1, round(lists))
        candidates, seconds = timed(None)
        kept = _share(near, candidates)
        if kept >= _KEPT or margin >= ALL_LISTS or structure.probes >= structure.codes.lists:
            return Measured(structure.probes, kept, seconds / scan_seconds)
        margin *= _STEP


def _share(near: Sequence[set[int]], found: Sequence[npt.NDArray[np.int64]]) -> float:
    pairs = zip(near, found, strict=True)
    return float(np.mean([len(mine & set(got.tolist())) / max(len(mine), 1) for mine, got in pairs]))


def sampled() -> int:
    """How many vectors to try with: without numba a tenth, since a scan takes long then."""
    return _QUERIES if available() else _QUERIES // 10
