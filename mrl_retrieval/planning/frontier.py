"""What every prefix length would find, raw and rotated, in two stages and in a funnel: one pass tells of all.

A true neighbour is among the first c by a prefix if fewer than c documents score higher by it. So its rank, counted
against the documents, says of every c at once. In a large collection it is counted in an even sample of them, and
scaled up: this part advises, and promises nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..backend import Backend
from ..matryoshka import FloatArray, prefix
from ..rotation import Rotation
from ..rotation_fitting import PER_DIM, SecondMoment
from .report import KEPT, FrontierRow
from .samples import QuerySample
from .truth import TruthOfQueries

__all__ = ["CANDIDATES", "frontier"]

CANDIDATES = (20, 50, 100, 200, 400, 1000, 2000, 4000)
"""Numbers of candidates that are told of."""

_DOCUMENTS = 20_000
_QUERIES = 200
_SHORTEST = 16
_BLOCK = 4096
_Ranks = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Space:
    """Documents (S, D), queries (Q, D) and their true neighbours (Q, k, D), rotated or not."""

    documents: FloatArray
    queries: FloatArray
    neighbours: FloatArray
    scale: float
    """Documents of the collection for each of the sample."""

    def turned(self, rotation: Rotation, *, back: bool) -> _Space:
        turn = rotation.undo if back else rotation.apply
        shape = self.neighbours.shape
        return _Space(
            turn(self.documents),
            turn(self.queries),
            turn(self.neighbours.reshape(-1, shape[2])).reshape(shape),
            self.scale,
        )


def frontier(
    backend: Backend, sample: QuerySample, truth: TruthOfQueries, k: int, rotation: Rotation | None
) -> tuple[FrontierRow, ...]:
    """By prefix length: as the collection is stored, and the other way (turned back, or rotated to the sample's axes).

    Args:
        rotation: the one that the collection has.
    """
    manifest = backend.manifest
    queries = sample.vectors[:_QUERIES]
    documents, count = _even_sample(backend)
    neighbours = _neighbours(backend, truth, len(queries), k)
    space = _Space(documents, queries, neighbours, max(count, 1) / max(len(documents), 1))
    full = manifest.fine_dims
    lengths = sorted({d for d in (2**i for i in range(4, 13)) if _SHORTEST <= d < full} | {manifest.coarse_dims})
    rows = []
    for rotated, one in _ways(space, manifest.dim, full, rotation):
        own = rotated == (rotation is not None)
        for dims in (d for d in lengths if d < full):
            longer = 2 * dims if own and dims == manifest.coarse_dims and 2 * dims < full else None
            rows += _rows(one, dims, longer, rotated, own and dims == manifest.coarse_dims, count)
    return tuple(rows)


def _ways(space: _Space, dim: int, full: int, rotation: Rotation | None) -> list[tuple[bool, _Space]]:
    if rotation is not None:
        return [(False, space.turned(rotation, back=True)), (True, space)]
    # A part of a vector cannot be turned back, and few vectors have no axes of their own.
    if full != dim or len(space.documents) < PER_DIM * dim:
        return [(False, space)]
    moment = SecondMoment(dim)
    moment.add(space.documents)
    return [(False, space), (True, space.turned(moment.rotation(), back=False))]


def _rows(space: _Space, dims: int, longer: int | None, rotated: bool, own: bool, count: int) -> list[FrontierRow]:
    told = tuple(c for c in CANDIDATES if c <= count)
    short, at = _scores(space, dims)
    above = _above(short, at)
    ranks = 1 + above * space.scale
    rows = [FrontierRow(dims, None, rotated, own, tuple((c, _share(ranks <= c)) for c in told))]
    if longer is not None:
        second, second_at = _scores(space, longer)
        covered = tuple(
            (c, _share((ranks <= c) & (_among(short, second, second_at, c, space.scale) <= c // KEPT))) for c in told
        )
        rows.append(FrontierRow(dims, longer, rotated, own, covered))
    return rows


def _scores(space: _Space, dims: int) -> tuple[FloatArray, FloatArray]:
    """By prefixes: of all documents of the sample ``(Q, S)``, and of the true neighbours ``(Q, k)``."""
    queries = prefix(space.queries, dims)
    documents = queries @ prefix(space.documents, dims).T
    shape = space.neighbours.shape
    near = prefix(space.neighbours.reshape(-1, shape[2]), dims).reshape(shape[0], shape[1], dims)
    return documents, np.einsum("qd,qkd->qk", queries, near)


def _above(scores: FloatArray, at: FloatArray) -> _Ranks:
    """For each query, how many of its scores ``(S,)`` are above each of ``(k,)``, but for rounding."""
    above = np.zeros(at.shape)
    for q, (row, near) in enumerate(zip(scores, at + 1e-6, strict=True)):
        high = np.sort(row[row > near.min()])
        above[q] = len(high) - np.searchsorted(high, near, side="right")
    return above


def _among(short: FloatArray, second: FloatArray, at: FloatArray, candidates: int, scale: float) -> _Ranks:
    """Ranks by the longer prefix among the survivors of the shorter one."""
    kept = min(max(round(candidates / scale), 1), short.shape[1])
    best = np.argpartition(-short, kept - 1, axis=1)[:, :kept]
    return 1 + _above(np.take_along_axis(second, best, axis=1), at) * scale


def _share(found: npt.NDArray[np.bool_]) -> float:
    return float(found.mean())


def _even_sample(backend: Backend) -> tuple[FloatArray, int]:
    """Stored vectors, at most so many, drawn evenly from all; and how many there are."""
    every = -(-max(backend.count(), 1) // _DOCUMENTS)
    parts, seen = [np.zeros((0, backend.manifest.fine_dims), np.float32)], 0
    for batch in backend.scan(vectors=True, documents=False, batch_size=_BLOCK):
        if batch.vectors is not None:
            places = np.flatnonzero(batch.has_vector)
            parts.append(batch.vectors[places[(seen + np.arange(len(places))) % every == 0]])
            seen += len(places)
    return np.concatenate(parts), seen


def _neighbours(backend: Backend, truth: TruthOfQueries, queries: int, k: int) -> FloatArray:
    """Vectors of the first queries' right answers, ``(Q, k, D)``; of those with ties, any k."""
    chosen: list[Sequence[str]] = [sorted(ids)[:k] for ids in truth.right[:queries]]
    wanted = list(dict.fromkeys(id for ids in chosen for id in ids))
    vectors, _ = backend.fetch_vectors(wanted)
    at = {id: i for i, id in enumerate(wanted)}
    places = np.array([[at[id] for id in ids] for ids in chosen], dtype=np.intp)
    return vectors[places]
