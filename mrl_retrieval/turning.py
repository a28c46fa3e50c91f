"""Turning orthogonal axes until near neighbours stay near in their prefixes.

Principal axes keep the most energy, and energy is not what a search asks for: what counts is that the neighbours by
full vectors are among the best by a prefix. So the axes are turned down the gradient of a loss that says just this:
for a vector of a sample, the softmax of its cosines to others by a prefix should be the one by full vectors (ranking
by cross entropy of lists: Cao et al. 2007), summed over several prefix lengths as in the training of Matryoshka
models (Kusupati et al. 2022). A step turns planes of two axes, so that the matrix stays orthogonal (descent on the
orthogonal group: Absil, Mahony & Sepulchre 2008); Adam gives its size (Kingma & Ba 2015).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .matryoshka import FloatArray

__all__ = ["LEAST", "LONGEST", "loss_gradient", "turned"]

LEAST = 500
"""Vectors below which too little is known of what is near what."""

_STEPS = 600
_ASKING = 128
"""Vectors of a step that stand for queries."""
_ASKED = 2000
"""Vectors of a step that stand for documents."""
_TEMPERATURE = 0.05
"""Of the softmax: a cosine that is greater by so much counts e times as much."""
_RATE = 3e-3
"""Radians by which a step turns each plane at the beginning, about; falls to zero evenly."""
_FALL, _SQUARES = 0.9, 0.999
"""Adam's memory of gradients and of their squares."""
_ITSELF = -9.0
"""Cosine of a vector with itself, which is not its own neighbour."""
LONGEST = 512
"""Axes that are turned, at most, and so the longest prefix: those after them hold little, and a step costs the cube."""

_Mask = npt.NDArray[np.bool_]


def turned(matrix: FloatArray, vectors: FloatArray, lengths: tuple[int, ...], *, seed: int = 0) -> FloatArray:
    """An orthogonal matrix, turned for the neighbours among some vectors.

    Args:
        matrix: ``(D, D)``; row i is the axis of component i. Principal axes are a good beginning.
        vectors: ``(N, D)`` of unit length, at least :data:`LEAST`.
        lengths: prefixes that neighbours should be near in, at most min(D, 512) long.
        seed: of the draws; equal input gives an equal matrix.
    """
    reach, draw = min(len(matrix), LONGEST), np.random.default_rng(seed)
    axes = np.eye(reach, dtype=np.float32)  # columns, within the space of the first axes
    within = vectors @ matrix[:reach].T
    gradient, squares = np.zeros_like(axes), np.zeros_like(axes)
    for step in range(1, _STEPS + 1):
        asking = draw.choice(len(vectors), min(_ASKING, len(vectors) // 4), replace=False)
        asked = draw.choice(len(vectors), min(_ASKED, len(vectors)), replace=False)
        itself = asking[:, None] == asked
        wanted = _shares(vectors[asking] @ vectors[asked].T, itself)
        uphill = loss_gradient(axes, within[asking], within[asked], itself, wanted, lengths)
        # How the loss grows as the plane of axes i and j is turned: antisymmetric, as a turn is.
        planes = axes.T @ uphill
        planes -= planes.T.copy()
        gradient = _FALL * gradient + (1 - _FALL) * planes
        squares = _SQUARES * squares + (1 - _SQUARES) * planes * planes
        turn = gradient / (1 - _FALL**step) / (np.sqrt(squares / (1 - _SQUARES**step)) + 1e-8)
        axes = _orthogonal(axes - _RATE * (1 - (step - 1) / _STEPS) * (axes @ turn))
    done = matrix.copy()
    done[:reach] = axes.T @ matrix[:reach]
    # Hundreds of products in float32 leave rounding behind.
    return np.ascontiguousarray(_orthogonal(done.T.astype(np.float64)).T, dtype=np.float32)


def loss_gradient(
    axes: FloatArray,
    queries: FloatArray,
    documents: FloatArray,
    itself: _Mask,
    wanted: FloatArray,
    lengths: tuple[int, ...],
) -> FloatArray:
    """How the loss grows with each component of the axes, ``(D, D)``.

    Args:
        axes: ``(D, D)``, in columns.
        queries: ``(Q, D)``.
        documents: ``(N, D)``.
        itself: ``(Q, N)`` where query and document are one.
        wanted: ``(Q, N)`` the shares by full vectors, see :func:`_shares`.
        lengths: of the prefixes.
    """
    widest = max(lengths)
    asking, asked = queries @ axes[:, :widest], documents @ axes[:, :widest]
    to_asking, to_asked = np.zeros_like(asking), np.zeros_like(asked)
    for dims in lengths:
        (short, size), (other, other_size) = _unit(asking[:, :dims]), _unit(asked[:, :dims])
        error: FloatArray = _shares(short @ other.T, itself) - wanted
        error *= np.float32(1 / (_TEMPERATURE * len(queries)))
        to_asking[:, :dims] += _through_unit(error @ other, short, size)
        to_asked[:, :dims] += _through_unit(error.T @ short, other, other_size)
    gradient = np.zeros_like(axes)
    gradient[:, :widest] = queries.T @ to_asking + documents.T @ to_asked
    return gradient


def _shares(cosines: FloatArray, itself: _Mask) -> FloatArray:
    """Softmax of each row, at the temperature; a vector takes no share of itself."""
    cosines[itself] = _ITSELF
    cosines -= cosines.max(axis=1, keepdims=True)
    cosines *= 1 / _TEMPERATURE
    np.exp(cosines, out=cosines)
    cosines /= cosines.sum(axis=1, keepdims=True)
    return cosines


def _unit(rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rows of unit length, and what they were divided by, ``(N, 1)``."""
    size: FloatArray = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    unit: FloatArray = rows / size
    return unit, size


def _through_unit(gradient: FloatArray, unit: FloatArray, size: FloatArray) -> FloatArray:
    """The gradient by rows, from that by their unit vectors: what would only change a row's length falls out."""
    along = np.einsum("ij,ij->i", gradient, unit)[:, None]
    across: FloatArray = (gradient - along * unit) / size
    return across


def _orthogonal(matrix: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """The columns made orthonormal, from the first to the last, each as near to what it was as those before allow."""
    columns, triangle = np.linalg.qr(matrix)
    signed: npt.NDArray[np.floating] = columns * np.where(np.diag(triangle) < 0, -1, 1).astype(matrix.dtype)
    return signed
