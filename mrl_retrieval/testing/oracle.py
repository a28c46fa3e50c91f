"""The reference answers and how a result is held to them: ids and scores, ties treated fairly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..backend import Backend
from ..documents import SearchResult
from ..matryoshka import FloatArray, normalize
from ..scoring import exact_search, top_k
from ..two_stage import Stage

TOLERANCE = 2e-5
"""Scores are float32 sums in another order than the oracle's float64 ones."""

__all__ = ["TOLERANCE", "Stored", "assert_matches_truth", "assert_same_hits", "reference_funnel"]


class Stored:
    """What a backend holds, read once through ``scan``: the oracle works on the stored values."""

    def __init__(self, backend: Backend, keep: Sequence[str] | None = None) -> None:
        ids: list[str] = []
        parts: list[FloatArray] = []
        for batch in backend.scan(vectors=True):
            assert batch.vectors is not None, "scan(vectors=True) gave no vectors"
            assert len(batch.ids) == len(batch.documents) == len(batch.metadatas) == len(batch.has_vector)
            kept = [i for i, id in enumerate(batch.ids) if batch.has_vector[i] and (keep is None or id in keep)]
            ids += [batch.ids[i] for i in kept]
            parts.append(batch.vectors[kept])
        assert len(set(ids)) == len(ids), "scan gave a row twice"
        self.ids = ids
        self.vectors: FloatArray = np.concatenate(parts) if parts else np.empty((0, 1), np.float32)

    def scores(self, query: npt.NDArray[np.floating], dim: int) -> dict[str, float]:
        """The true cosine of every row over ``dim`` components."""
        if not self.ids:
            return {}
        found, scores = exact_search(np.asarray(query)[None, :], self.vectors, self.ids, len(self.ids), dim=dim)[0]
        return dict(zip(found, scores.tolist(), strict=True))


def assert_matches_truth(result: SearchResult, truth: Mapping[str, float], k: int) -> None:
    """Hold a result to the true scores of all rows: length, scores, order, and that nothing better was left out.

    Rows that tie with the k-th (within rounding) may stand for one another.
    """
    ids = result.ids
    assert len(ids) == min(k, len(truth)), f"{len(ids)} hits, expected {min(k, len(truth))}"
    assert len(set(ids)) == len(ids), f"an id twice: {ids}"
    for hit in result:
        assert hit.id in truth, f"{hit.id!r} must not be found"
        assert abs(hit.score - truth[hit.id]) <= TOLERANCE, f"{hit.id!r} scores {hit.score}, truly {truth[hit.id]}"
    for before, after in zip(result, result[1:], strict=False):
        assert (-before.score, before.id) < (-after.score, after.id), f"order: {before} before {after}"
    if ids:
        kth = sorted(truth.values(), reverse=True)[len(ids) - 1]
        worst = min(truth[id] for id in ids)
        assert worst >= kth - 2 * TOLERANCE, f"a hit scores {worst}, the true number {len(ids)} scores {kth}"


def assert_same_hits(result: SearchResult, expected: Sequence[tuple[str, float]]) -> None:
    """Hold a result to a list of ``(id, score)``; ids may differ only where scores tie within rounding."""
    assert len(result) == len(expected), f"{len(result)} hits, expected {len(expected)}"
    for hit, (_, score) in zip(result, expected, strict=True):
        assert abs(hit.score - score) <= TOLERANCE, f"{hit} should score {score}"
    # Within one tie group at the end, any member is right.
    last = expected[-1][1] if expected else 0.0
    clear = {id for id, score in expected if score > last + 2 * TOLERANCE}
    assert clear <= set(result.ids), f"missing {clear - set(result.ids)}"


def reference_funnel(
    stored: Stored, query: npt.NDArray[np.floating], stages: Sequence[Stage]
) -> list[tuple[str, float]]:
    """The answer of a funnel whose every stage is exact: ``(id, score)``, best first."""
    ids, rows = list(stored.ids), np.arange(len(stored.ids))
    scores: FloatArray = np.empty(0, np.float32)
    for stage in stages:
        short = normalize(np.asarray(query, np.float32)[None, : stage.dims]).astype(np.float64)[0]
        cosines = normalize(stored.vectors[rows][:, : stage.dims]).astype(np.float64) @ short
        kept, scores = top_k(cosines.astype(np.float32), ids, stage.limit)
        where = dict(zip(ids, rows, strict=True))
        ids, rows = kept, np.array([where[id] for id in kept], dtype=np.intp)
    return list(zip(ids, scores.tolist(), strict=True))
