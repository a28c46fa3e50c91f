"""Learning how deep to search for a recall, from a sample of queries.

For rising recalls, one third of the sample chooses a path of cheapest (margin, drop), neither of which ever falls. The
rest says what recall each step of it holds: a lower bound of the mean with 95 % confidence. As a step is taken only if
all deeper ones hold the recall too, choosing among them does not weaken it (fixed sequence testing: Angelopoulos and
others, "Learn then Test", 2021). The bound is of the normal approximation, and of queries like those of the sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mrl_retrieval.errors import InvalidInput
from mrl_retrieval.matryoshka import FloatArray

from .depth import DepthStep, LearnedDepth
from .lists import CodeLists, Mask, Places
from .within import ALL_LISTS, Reach, WithinMargin

__all__ = ["Cosines", "learn", "lower_bound"]

Cosines = Callable[[int, Places], FloatArray]
"""``cosines(i, places)``: full-dimension cosines (n,) of the query number i with the documents in these places (n,)."""

LEAST_QUERIES = 60

_RECALLS = 1 - np.geomspace(0.5, 0.0005, 64)
_CONFIDENCE = 1.645
_FOR_LADDERS = 100
# What a byte of codes, and a byte of a stored vector, takes in nanoseconds (measured with AVX-512, in memory).
_CODE_BYTE, _ROW_BYTE = 0.04, 0.13


def learn(
    index: CodeLists,
    queries: FloatArray,
    cosines: Cosines,
    allowed: Mask,
    *,
    k: int = 10,
    row_bytes: int,
    own: Places | None = None,
    truth: Places | None = None,
    compiled: bool | None = None,
) -> LearnedDepth:
    """Learn which depths hold which recalls.

    Args:
        index: holds the documents.
        queries: (Q, dims) prefixes, unit rows. Real queries; stored vectors are nearer to each other than queries are
            to them, so that less recall than promised is held where they stand for queries.
        cosines: full-dimension cosines.
        allowed: (count,) which documents there are.
        k: results.
        row_bytes: of a stored vector, to weigh candidates against scanned documents.
        own: (Q,) places of the queries themselves, where they are stored vectors; these are not counted as results.
        truth: (Q, k) places of the true best k; None: the best of all candidates of the deepest setting.
        compiled: whether to use compiled loops; None: where numba is installed.

    Raises:
        InvalidInput: fewer than 60 queries, or no more than k documents.
    """
    if len(queries) < LEAST_QUERIES:
        raise InvalidInput(f"recall is learned from at least {LEAST_QUERIES} queries, not {len(queries)}: give more")
    alive = int(np.count_nonzero(allowed))
    if alive <= k:
        raise InvalidInput(f"recall@{k} cannot be learned from {alive} documents: index more than {k}")
    search = WithinMargin(index, compiled=compiled)
    if truth is None:
        truth = _deepest(search, queries, cosines, allowed, k, alive, own)
    limit = min(500 + 10 * k, alive - (own is not None))
    drops = _drops(search, queries, allowed, limit, anchor := min(2 * k, limit))
    shuffled = np.random.default_rng(0).permutation(len(queries))
    tuning, rest = shuffled[: len(queries) // 3], shuffled[len(queries) // 3 :]

    def outcome(sample: Places, margin: float) -> _Outcome:
        there = None if own is None else own[sample]
        ranked = search.ranked(queries[sample], Reach(limit + (own is not None), margin), allowed)
        return _outcome(*ranked, truth[sample], there, drops, limit, anchor)

    *ladder, everything = _margins(search, queries)
    margins, tried = [], []
    for margin in ladder:
        margins.append(margin)
        tried.append(outcome(tuning, margin))
        # What is left to gain is less than the rest of the sample can tell.
        if tried[-1].recalls[:, -1].mean() > 1 - 1 / len(rest):
            break
    margins.append(everything)
    tried.append(outcome(tuning, everything))
    path = _path(
        np.stack([one.recalls.mean(axis=0) for one in tried]),
        np.stack([one.nanoseconds(index.dims, row_bytes) for one in tried]),
    )
    seen = {i: outcome(rest, margins[i]) for i in sorted({i for i, _ in path})}
    bounds = np.array([lower_bound(seen[i].recalls[:, j]) for i, j in path])
    held = np.minimum.accumulate(bounds[::-1])[::-1]
    steps = [
        DepthStep(
            float(bound), Reach(limit, margins[i], drops[j], anchor), seen[i].scanned, float(seen[i].candidates[j])
        )
        for bound, (i, j) in zip(held, path, strict=True)
    ]
    return LearnedDepth(k, len(queries), tuple(steps))


def lower_bound(shares: npt.NDArray[np.float64]) -> float:
    """A lower bound of the mean of which these are a sample (n,), with 95 % confidence, by the normal approximation.

    One more that is a third lower than the mean is counted, so that a sample without a miss does not prove perfection.
    """
    more = np.append(shares, max(shares.mean() - 1 / 3, 0))
    return max(float(more.mean() - _CONFIDENCE * more.std(ddof=1) / np.sqrt(len(more))), 0.0)


def _margins(search: WithinMargin, queries: FloatArray) -> list[float]:
    """Margins that take in 1, 1.2, 1.4, … lists in the mean, up to all of them."""
    return _quantiles(search.gaps(queries[:_FOR_LADDERS]), 1, 2**0.25)


def _drops(search: WithinMargin, queries: FloatArray, allowed: Mask, limit: int, anchor: int) -> list[float]:
    """Drops that take in as many candidates of all lists as the anchor's rank, 1.1 as many, …, up to the limit."""
    scores, _, _ = search.ranked(queries[:_FOR_LADDERS], Reach(limit), allowed)
    # A drop of zero would leave nothing where the best are equal.
    return [drop for drop in _quantiles(scores[:, anchor - 1 : anchor] - scores, anchor, 1.1) if drop > 0]


def _quantiles(distances: FloatArray, least: int, factor: float) -> list[float]:
    """Limits that ``least`` of the distances (Q, n) of a row are within in the mean, ``factor`` as many, …, all."""
    n = distances.shape[1]
    wanted = least * factor ** np.arange(int(np.log(n / least) / np.log(factor)) + 1)
    ordered = np.sort(distances, axis=None)
    picked = ordered[np.minimum((wanted * len(distances)).astype(np.int64), ordered.size - 1)]
    return [*sorted({float(limit) for limit in picked[wanted < n]}), ALL_LISTS]


def _deepest(
    search: WithinMargin,
    queries: FloatArray,
    cosines: Cosines,
    allowed: Mask,
    k: int,
    alive: int,
    own: Places | None,
) -> Places:
    """The best ``k`` in full of the best candidates of all lists."""
    best = np.full((len(queries), k), -1, np.int64)
    for i in range(len(queries)):
        _, places, _ = search.ranked(queries[i : i + 1], Reach(min(1000 + 20 * k, alive)), allowed)
        there = places[0] if own is None else places[0][places[0] != own[i]]
        chosen = np.argsort(-cosines(i, there), kind="stable")[:k]
        best[i, : len(chosen)] = there[chosen]
    return best


@dataclass(frozen=True)
class _Outcome:
    """What one margin gives with each drop."""

    recalls: npt.NDArray[np.float64]
    """(Q, drops)."""
    candidates: npt.NDArray[np.float64]
    """(drops,), in the mean."""
    scanned: float
    """Documents, in the mean."""

    def nanoseconds(self, dims: int, row_bytes: int) -> npt.NDArray[np.float64]:
        """What a query takes, in the mean, besides what all take: (drops,)."""
        return self.scanned * (dims / 2 * _CODE_BYTE) + self.candidates * (row_bytes * _ROW_BYTE)


def _outcome(
    scores: FloatArray,
    places: Places,
    blocks: Places,
    truth: Places,
    own: Places | None,
    drops: list[float],
    limit: int,
    anchor: int,
) -> _Outcome:
    """The outcome of what was found, best first, when the best are those of ``truth`` (Q, k)."""
    recalls, counts = np.zeros((2, len(places), len(drops)))
    for i in range(len(places)):
        there = places[i] >= 0 if own is None else (places[i] >= 0) & (places[i] != own[i])
        found, ranked = places[i][there][:limit], scores[i][there][:limit]
        hits = np.concatenate([[0], np.cumsum(np.isin(found, truth[i]))])
        within = np.full(len(drops), len(found))
        if len(found) >= anchor:
            within = np.searchsorted(-ranked, np.asarray(drops, np.float32) - ranked[anchor - 1])
        recalls[i] = hits[within] / truth.shape[1]
        counts[i] = within
    return _Outcome(recalls, counts.mean(axis=0), float(blocks.mean()) * WithinMargin.documents_in_a_block)


def _path(means: npt.NDArray[np.float64], costs: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
    """The cheapest (margin, drop), as numbers, for each of the rising recalls; neither number ever falls."""
    path: list[tuple[int, int]] = []
    i = j = 0
    for recall in _RECALLS:
        deep = np.full(means.shape, np.inf)
        deep[i:, j:] = np.where(means[i:, j:] >= recall, costs[i:, j:], np.inf)
        if not np.isfinite(deep).any():
            break
        i, j = (int(n) for n in np.unravel_index(np.argmin(deep), deep.shape))
        path.append((i, j))
    path.append((means.shape[0] - 1, means.shape[1] - 1))
    return list(dict.fromkeys(path))
