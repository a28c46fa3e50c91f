"""Prefixes of embeddings: validate, truncate, renormalise; and the ladder of dims.

A *prefix* is the first ``d`` components of an embedding, scaled back to unit length. The renormalisation is what
makes short vectors comparable: without it the partial dot product mixes the angle between two prefixes with how
much energy each of them happens to hold.

Source: Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022 (arXiv:2205.13147).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DimensionError, InvalidInput, NonFiniteError

FloatArray = npt.NDArray[np.float32]

__all__ = ["FloatArray", "as_vectors", "check_dim", "ladder", "normalize", "number_of_axes", "prefix"]


def as_vectors(values: Any, *, dim: int | None = None, what: str = "vectors", first_row: int = 0) -> FloatArray:
    """Turn anything array-like into a checked ``(N, D)`` float32 matrix.

    One vector of shape ``(D,)`` becomes ``(1, D)``. The input is never changed; a float32 matrix is not copied.

    Args:
        values: numbers of shape ``(N, D)`` or ``(D,)``, any real dtype.
        dim: the length every row must have; None accepts any length of at least 1.
        what: the name used in messages.
        first_row: added to row numbers in messages, where ``values`` is a part of something longer.

    Raises:
        InvalidInput: it is not a rectangle of real numbers.
        DimensionError: rows have another length than ``dim``, or none at all.
        NonFiniteError: a value is NaN, infinite, or too large for float32.

    >>> as_vectors([3, 4]).shape
    (1, 2)
    """
    try:
        array = np.asarray(values)
        if array.dtype == object:
            array = np.asarray(values, dtype=np.float64)
        elif array.dtype.kind not in "fiub":
            raise TypeError(f"its elements are {array.dtype}")
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"{what} must be a rectangle of real numbers, got {type(values).__name__} that is none: {error}"
        ) from error
    if array.ndim == 1:
        array = array[None, :]
    if array.ndim != 2:
        raise DimensionError(f"{what} must have shape (N, D) or (D,), got {array.shape}")
    if array.shape[1] == 0 and (array.shape[0] or dim is not None):
        raise DimensionError(f"{what} must have at least 1 component, got shape {array.shape}")
    if dim is not None and array.shape[1] != dim:
        raise DimensionError(
            f"{what} have {array.shape[1]} components, expected {dim}; use the encoder this collection was made with"
        )
    if array.dtype == np.float32:
        vectors = np.ascontiguousarray(array)
    else:
        with np.errstate(over="ignore"):
            vectors = np.ascontiguousarray(array, dtype=np.float32)
    finite = np.isfinite(vectors)
    if np.count_nonzero(finite) < finite.size:
        row, column = (int(at[0]) for at in np.nonzero(~finite))
        raise NonFiniteError(
            f"{what}[{first_row + row}] has {array[row, column]} at component {column}; every component must be a "
            "finite float32: drop the row or repair the encoder"
        )
    return vectors


def number_of_axes(values: Any, what: str) -> int:
    """0 for a number, 1 for a vector, 2 for a matrix.

    Raises:
        InvalidInput: it is ragged, so that it has no shape.
    """
    if isinstance(values, np.ndarray):
        return values.ndim
    try:
        return int(np.ndim(values))
    except ValueError as error:
        raise InvalidInput(f"{what} must be a rectangle of real numbers: {error}") from error


def normalize(vectors: npt.NDArray[Any]) -> FloatArray:
    """Scale every row of ``(N, D)`` to unit length; a zero row stays zero, never NaN.

    A row comes out the same to the last bit, whatever rows are beside it.

    >>> normalize(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    rows = np.asarray(vectors, dtype=np.float32)
    if rows.size == 0:
        return rows.copy()
    # In float64 the squares of no float32 over- or underflow: they are between 1e-90 and 1e77.
    wide = rows.astype(np.float64, order="C")
    squares = np.einsum("nd,nd->n", wide, wide)
    if len(rows) == 1:  # a query: plain numbers are faster than arrays of one
        wide /= math.sqrt(squares.item()) or 1.0
    else:
        squares[squares == 0] = 1.0
        wide /= np.sqrt(squares)[:, None]
    return wide.astype(np.float32)


def prefix(vectors: npt.NDArray[Any], dim: int) -> FloatArray:
    """The first ``dim`` components of every row, renormalised: ``(N, D)`` to ``(N, dim)``.

    A row whose prefix is all zeros stays zero: its score is 0 against everything.

    Raises:
        DimensionError: ``dim`` is not in 1..D.

    >>> prefix(np.array([[3.0, 4.0, 12.0]]), 2).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    rows = np.asarray(vectors)
    if rows.ndim != 2:
        raise DimensionError(f"prefix takes a matrix of shape (N, D), got {rows.shape}")
    check_dim(dim, rows.shape[1])
    return normalize(rows[:, :dim])


def check_dim(dim: int, full: int, *, what: str = "dim") -> int:
    """Return ``dim`` if it is a whole number in 1..``full``.

    Raises:
        DimensionError: it is not.
    """
    if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)):
        raise DimensionError(f"{what} must be a whole number from 1 to {full}, got {dim!r}")
    if not 1 <= dim <= full:
        raise DimensionError(f"{what} must be from 1 to {full}, got {dim}")
    return int(dim)


def ladder(full: int, dims: Sequence[int] | None = None) -> tuple[int, ...]:
    """The prefix lengths to look at for an encoder of ``full`` dims, ascending, ending in ``full``.

    Given ``dims`` are clamped to ``full`` and deduplicated; else the powers of two from 32 up are taken.

    >>> ladder(384)
    (32, 64, 128, 256, 384)
    >>> ladder(256, [64, 512])
    (64, 256)
    """
    if dims is None:
        steps, dim = set[int](), 32
        while dim < full:
            steps.add(dim)
            dim *= 2
    else:
        steps = {check_dim(min(d, full), full) for d in dims}
    return tuple(sorted(steps | {full}))
