"""Searching with the ``faiss`` backend: both stages and the rows of the hits, on one snapshot of the store."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mrl_retrieval.filters import Filter
from mrl_retrieval.matryoshka import FloatArray, prefix
from mrl_retrieval.storage import Near, Reranker, Snapshot, Store, candidates
from mrl_retrieval.storage import rankings as with_rows
from mrl_retrieval.storage.rerank import explained_ids
from mrl_retrieval.storage.stored_cosines import stored_cosines
from mrl_retrieval.tracing import Explanation, Laps, Seen
from mrl_retrieval.two_stage import Candidates, Ranking, SearchRequest

from .beyond import Beyond
from .exact import ExactSearcher
from .following import FollowingIndex
from .index import CoarseIndex
from .structure import Structure

__all__ = ["coarse_candidates", "exact_candidates", "exact_rankings", "rankings"]

_Nearest = tuple[FloatArray, npt.NDArray[np.int64]]
"""Scores and positions of the candidates of each query."""

_Found = tuple[FloatArray | list[FloatArray] | None, Near, Structure, tuple[Explanation, Beyond] | None, Laps | None]
"""Coarse scores, if they are cosines, and the candidates of each query; of what; what is told of it; its times."""


def rankings(index: FollowingIndex, request: SearchRequest, filter: Filter | None) -> list[Ranking]:
    """The rankings of a request that has stages; ``filter`` is its own, resolved."""

    def search(snapshot: Snapshot, coarse: CoarseIndex) -> _Found:
        told = Explanation() if request.explain else None
        laps = Laps() if request.timed and told is None else None
        scores, near = _candidates(snapshot, coarse, request, filter, index.probes)
        if laps is not None:
            laps.lap("coarse", request.stages[0].dims, None, near.counts.tolist())
        if told is None:
            return scores, near, coarse.structure, None, laps
        beyond = Beyond.of(told.lap(), snapshot, coarse, request, filter, index.probes)
        return scores, near, coarse.structure, (told, beyond), None

    def rest(snapshot: Snapshot, found: _Found) -> list[Ranking]:
        scores, near, structure, explained, laps = found
        came = near.counts
        if scores is None and explained is not None:
            # Estimates are nobody's business; who wants to see coarse scores gets true ones.
            each, dims = range(len(near.counts)), request.stages[0].dims
            scores = [stored_cosines(snapshot.fine, near.of(q), request.vectors[q], dims) for q in each]
        elif scores is None and request.recall is None and len(request.stages) == 2:
            short = structure.shortlist(snapshot, request.vectors, near.numbers, request.k)
            near = near if short is None else Near.joined(short)
        rerank = Reranker(request, snapshot)
        answers = rerank.rankings(near, None if scores is None else list(scores))
        index.searched(len(answers), snapshot)
        if laps is not None:  # the reranking as a whole, since that takes short cuts where nobody looks
            laps.lap("rerank", request.stages[-1].dims, came.tolist(), [len(answer.rows) for answer in answers])
            return laps.sign(answers)
        if explained is None or scores is None:
            return answers
        told, beyond = explained
        told.tell("coarse", request.stages[0].dims, beyond.seconds, beyond.seen(snapshot, request, near, scores))
        rerank.tell(told)
        return told.sign(answers)

    return index.on(search, rest)


def _candidates(
    snapshot: Snapshot, coarse: CoarseIndex, request: SearchRequest, filter: Filter | None, probes: int | None
) -> tuple[FloatArray | None, Near]:
    """Coarse scores, where they are cosines, and the candidates of each query."""
    if request.recall is not None:
        allowed = None if filter is None else snapshot.vector_mask(filter)
        prefixes = prefix(request.vectors, coarse.dims)
        return None, coarse.candidates(prefixes, request.recall, request.k, allowed)
    scores, positions = _nearest(snapshot, coarse, request.vectors, request.stages[0].limit, filter, probes)
    return scores if coarse.structure.exact_scores else None, Near.full(positions)


def coarse_candidates(
    index: FollowingIndex, vectors: FloatArray, limit: int, filter: Filter | None
) -> list[Candidates]:
    """The coarse stage alone, for queries of any length from that of the prefixes up."""

    def search(snapshot: Snapshot, coarse: CoarseIndex) -> _Nearest:
        scores, positions = _nearest(snapshot, coarse, vectors, limit, filter, index.probes)
        if not coarse.structure.exact_scores:
            pairs = zip(vectors, positions, strict=True)
            exact = [stored_cosines(snapshot.fine, found, query, len(query)) for query, found in pairs]
            scores = np.array(exact, dtype=np.float32).reshape(positions.shape)
        return scores, positions

    def rest(snapshot: Snapshot, nearest: _Nearest) -> list[Candidates]:
        return [candidates(snapshot, p, s, limit) for s, p in zip(*nearest, strict=True)]

    return index.on(search, rest)


def exact_candidates(
    store: Store, exact: ExactSearcher, vectors: FloatArray, limit: int, filter: Filter | None
) -> list[Candidates]:
    """The best of every stored vector that the filter lets through."""
    with store.snapshot() as snapshot:
        answer = exact.search(snapshot, vectors, limit, snapshot.vector_mask(filter))
        return [candidates(snapshot, p, s, limit) for p, s in answer.found]


def exact_rankings(store: Store, exact: ExactSearcher, request: SearchRequest, filter: Filter | None) -> list[Ranking]:
    """The same as the rankings of a request that is exact; ``filter`` is its own, resolved."""
    told = Explanation() if request.explain else None
    laps = Laps() if request.timed and told is None else None
    with store.snapshot() as snapshot:
        allowed = snapshot.vector_mask(filter)
        k = request.k if told is None else request.k + 1  # one more, which is the first one dropped
        answer = exact.search(snapshot, request.vectors, k, allowed)
        if told is not None:
            seconds, count = told.lap(), int(np.count_nonzero(allowed))
            seen = []
            for positions, scores in answer.found:
                ids = explained_ids(snapshot, positions)
                each = Seen.scored(scores, ids, request.k, answer.bytes_read)
                seen.append(replace(each, candidates_in=count))
            told.tell("exact", request.stages[0].dims, seconds, seen)
        answers = with_rows(snapshot, [(p, s, None) for p, s in answer.found], request.k, filter)
    if laps is not None:
        laps.lap("exact", request.stages[0].dims, None, [len(answer.rows) for answer in answers])
    signed = told or laps
    return answers if signed is None else signed.sign(answers)


def _nearest(
    snapshot: Snapshot,
    coarse: CoarseIndex,
    vectors: FloatArray,
    limit: int,
    filter: Filter | None,
    probes: int | None,
) -> _Nearest:
    allowed = None if filter is None else snapshot.vector_mask(filter)
    return coarse.search(prefix(vectors, coarse.dims), limit, allowed, probes)
