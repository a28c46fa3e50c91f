"""Cosines of stored vectors: compiled, where they lie, or decoded by NumPy first; the same to the last bit."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

from mrl_retrieval.kernels import available
from mrl_retrieval.matryoshka import FloatArray

from .checks import Sums, multipliers
from .scan import best_of, cosines
from .segments import FineView, PositionArray

__all__ = ["best_stored", "stored_cosines"]

_WIDTH = 64
_NO_SUMS: Sums = np.empty(0, dtype=np.uint64)
# Loading numba takes half a second: with fewer vectors it is not worth it.
_WORTH_LOADING = 10_000


def stored_cosines(
    fine: FineView, numbers: PositionArray, query: FloatArray, dims: int, *, compiled: bool | None = None
) -> FloatArray:
    """:func:`~mrl_retrieval.storage.scan.cosines` of a query (D,) with the vectors of these numbers (n,): (n,).

    Args:
        fine: the stored vectors.
        numbers: of those to score, each at least ``fine.first`` and below ``fine.vectors``.
        query: float32.
        dims: the components to score over.
        compiled: whether to use compiled loops; None: where numba is installed, and worth loading.

    Raises:
        CorruptionError: a vector is not as it was written.
    """
    rows = _compiled_rows(fine) if compiled is None else _rows() if compiled else None
    if rows is None:
        return cosines(query, fine.gather(numbers), dims)
    out = np.empty(len(numbers), dtype=np.float32)
    filled = _filled(query[None], dims)[0]
    wrong = rows.row_cosines(numbers, len(numbers), *_where(rows, fine, dims), filled, *_checks(fine), out)
    if wrong >= 0:
        raise fine.wrong(int(numbers[wrong]))
    return out


def best_stored(
    fine: FineView,
    numbers: PositionArray,
    counts: PositionArray,
    queries: FloatArray,
    k: int,
    *,
    compiled: bool | None = None,
) -> list[tuple[PositionArray, FloatArray]]:
    """Of the candidates of each query, the best ``k`` and what ties with the last of them: numbers and cosines, in the
    order in which the candidates were.

    Args:
        fine: the stored vectors.
        numbers: of candidates, (Q, n); changed.
        counts: (Q,) how many of these count, the first ones; changed.
        queries: (Q, D) float32.
        k: at least 1.
        compiled: as :func:`stored_cosines` has it.

    Raises:
        CorruptionError: a vector is not as it was written.
    """
    rows = _compiled_rows(fine) if compiled is None else _rows() if compiled else None
    found: list[tuple[PositionArray, FloatArray]] = []
    if rows is None:
        for near, count, query in zip(numbers, counts.tolist(), queries, strict=True):
            scores = cosines(query, fine.gather(near[:count]), len(query))
            best = best_of(scores, k)
            found.append((near[best], scores[best]))
        return found
    out = np.empty(numbers.shape, dtype=np.float32)
    dims = queries.shape[1]
    wrong = rows.best_rows(numbers, counts, *_where(rows, fine, dims), _filled(queries, dims), *_checks(fine), k, out)
    if wrong >= 0:
        raise fine.wrong(wrong)
    for near, scores, count in zip(numbers, out, counts.tolist(), strict=True):
        found.append((near[:count], scores[:count]))
    return found


def _where(rows: ModuleType, fine: FineView, dims: int) -> tuple[Any, ...]:
    layout = fine.layout
    return fine.starts, fine.addresses, layout.row_bytes, rows.KINDS[layout.dtype], dims, layout.dims


def _filled(queries: FloatArray, dims: int) -> FloatArray:
    """The first ``dims`` components of queries, and zeros up to a multiple of 64."""
    if queries.shape[1] == dims and not dims % _WIDTH:
        return queries
    filled = np.zeros((len(queries), dims + -dims % _WIDTH), dtype=np.float32)
    filled[:, :dims] = queries[:, :dims]
    return filled


def _checks(fine: FineView) -> tuple[Any, ...]:
    sums = _NO_SUMS if fine.sums is None else fine.sums
    return multipliers(-(-fine.layout.row_bytes // 4)), sums, fine.first


def _compiled_rows(fine: FineView) -> ModuleType | None:
    if "numba" in sys.modules or (fine.vectors - fine.first >= _WORTH_LOADING and available()):
        return _rows()
    return None


def _rows() -> ModuleType:
    from mrl_retrieval.kernels import rows

    return rows
