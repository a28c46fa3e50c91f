"""Cosines of stored vectors: compiled, where they lie, or decoded by NumPy first; the same to the last bit."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np

from mrl_retrieval.kernels import available
from mrl_retrieval.matryoshka import FloatArray

from .checks import Sums, multipliers
from .scan import cosines
from .segments import FineView, PositionArray

__all__ = ["stored_cosines"]

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
    layout = fine.layout
    short = query[:dims]
    filled = np.zeros(dims + -dims % _WIDTH, dtype=np.float32)
    filled[:dims] = short
    out = np.empty(len(numbers), dtype=np.float32)
    wrong = rows.row_cosines(
        numbers,
        fine.starts,
        fine.addresses,
        layout.row_bytes,
        rows.KINDS[layout.dtype],
        dims,
        layout.dims,
        filled,
        np.float32(short @ short),
        multipliers(-(-layout.row_bytes // 4)),
        _NO_SUMS if fine.sums is None else fine.sums[numbers - fine.first],
        out,
    )
    if wrong >= 0:
        raise fine.wrong(int(numbers[wrong]))
    return out


def _compiled_rows(fine: FineView) -> ModuleType | None:
    if "numba" in sys.modules or (fine.vectors - fine.first >= _WORTH_LOADING and available()):
        return _rows()
    return None


def _rows() -> ModuleType:
    from mrl_retrieval.kernels import rows

    return rows
