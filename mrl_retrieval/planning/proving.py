"""Which numbers of candidates are proved to reach a target.

Settings are tested one after the other, from the most candidates to the fewest, in an order that no recall has a say
in, and the first that fails ends it. A wrong promise is then made only if the first setting of the path that misses the
target passes its own test, which happens as seldom as its confidence says: so none has to be paid for testing many
(fixed-sequence testing: Maurer, Hothorn & Lehmacher 1995; for calibrating predictors: Angelopoulos et al. 2021, "Learn
then test"). The unit is the query: the k neighbours of one are found or missed together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from ..backend import Backend
from ..confidence import Shares
from ..matryoshka import prefix
from ..two_stage import Candidates, CoarseSearch, SearchRequest, Stage
from .samples import QuerySample
from .truth import COUNTS, TruthOfQueries, shares_of

__all__ = ["Proof", "Ranks", "nested_proof", "proof_by_searches", "rank_all", "searched"]

_CHUNK = 128
_BEGIN = 256
_MISSED = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Proof:
    """The fewest candidates that were proved, and what was seen of them."""

    candidates: int | None
    """None: not even the most were."""
    shares: Shares
    """Recalls of the queries: with these candidates, or with the most where nothing was proved."""
    deepest: int
    """The most candidates that were tested."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Where the coarse stage has the right answers of each query."""

    places: COUNTS
    """``(Q, k)``, from 0, rising; those beyond ``limit`` are as large as a number can be."""
    limit: int
    """Candidates that were looked at."""

    def shares(self, candidates: int) -> Shares:
        """The coverages of the queries by so many candidates, which are their recalls after an exact rerank."""
        return shares_of((self.places < candidates).sum(axis=1), self.places.shape[1])


def rank_all(backend: Backend, sample: QuerySample, truth: TruthOfQueries, limit: int) -> Ranks:
    """One coarse search for each query, which tells of every smaller number of candidates too."""
    places = np.full((len(sample.vectors), truth.k), _MISSED)
    short = prefix(sample.vectors, backend.manifest.coarse_dims)
    for start in range(0, len(short), _CHUNK):
        found = cast("list[Candidates]", backend.perform(CoarseSearch(short[start : start + _CHUNK], limit, None)))
        for i, candidates in enumerate(found, start=start):
            at = truth.places(i, candidates.ids)
            places[i, : len(at)] = at
    return Ranks(places, limit)


def nested_proof(
    backend: Backend,
    sample: QuerySample,
    truth: TruthOfQueries,
    least: int,
    most: int,
    target: float,
    confidence: float,
) -> tuple[Proof, Ranks]:
    """For exact coarse stages: fewer candidates are always among more, so that no recall rises on the way down.

    Then the last setting that passes is the first one, from below, from which all pass, and halving finds it.
    """
    limit = min(most, max(_BEGIN, 2 * least))
    ranks = rank_all(backend, sample, truth, limit)
    while not ranks.shares(limit).reaches(target, confidence):
        if limit == most:
            return Proof(None, ranks.shares(limit), most), ranks
        limit = min(most, 4 * limit)
        ranks = rank_all(backend, sample, truth, limit)
    return lowest(ranks, least, target, confidence, most), ranks


def lowest(ranks: Ranks, least: int, target: float, confidence: float, deepest: int) -> Proof:
    """The fewest candidates whose bound reaches the target, where ``ranks.limit`` candidates do."""
    most = ranks.limit
    while least < most:
        middle = (least + most) // 2
        if ranks.shares(middle).reaches(target, confidence):
            most = middle
        else:
            least = middle + 1
    return Proof(most, ranks.shares(most), deepest)


def proof_by_searches(
    backend: Backend,
    sample: QuerySample,
    truth: TruthOfQueries,
    path: Sequence[int],
    target: float,
    confidence: float,
) -> Proof:
    """For every other backend: whole searches along a path of numbers of candidates, falling.

    A setting has passed as soon as the bound has reached the target once: it may be looked at after every query.
    """
    passed: int | None = None
    shares = Shares()
    for candidates in path:
        counts = np.zeros(0, dtype=np.int64)
        here = Shares()
        for start in range(0, len(sample.vectors), _CHUNK):
            part = slice(start, start + _CHUNK)
            counts = np.concatenate([counts, searched(backend, sample, truth, candidates, part)])
            here = shares_of(counts, truth.k)
            if here.reaches(target, confidence):
                break
        if not here.reaches(target, confidence):
            shares = here if passed is None else shares
            break
        passed, shares = candidates, here
    return Proof(passed, shares, path[0])


def searched(
    backend: Backend, sample: QuerySample, truth: TruthOfQueries, candidates: int, part: slice = slice(None)
) -> COUNTS:
    """How much of the truth whole searches find, both stages and what the backend makes of them."""
    manifest = backend.manifest
    hits = truth.k + (sample.own is not None)
    stages = (Stage(manifest.coarse_dims, candidates), Stage(manifest.fine_dims, hits))
    counts = []
    for start in range(*part.indices(len(sample.vectors)))[::_CHUNK]:
        stop = min(start + _CHUNK, part.indices(len(sample.vectors))[1])
        rankings = backend.search(SearchRequest(sample.vectors[start:stop], stages))
        counts += [truth.found(start + i, [row.id for row in one.rows]) for i, one in enumerate(rankings)]
    return np.array(counts, dtype=np.int64)
