"""4-bit codes of prefixes: what they mean, and the one place that chooses compiled or NumPy loops.

A prefix is turned by a random rotation, so that its energy spreads over all components, and the centroid of its list
is taken off. The residual r (d components) is stored as codes ``c`` in 0..15 and one scale ``s`` (float16), which stand
for ``s * (c - 7.5)``. The codes are those, among eight ranges from the largest component down, whose direction is
nearest to that of r. The scale is ``|r|^2 / <r, c - 7.5>``, with which the estimate of ``<r, r>`` is exact and that of
``<q, r>`` is unbiased over rotations (Gao and Long, "RaBitQ", SIGMOD 2024, and its extension to several bits, SIGMOD
2025).

The query is stored as signed bytes with one unit ``t``, so that a score is a sum of integer products:
``<q, centroid> + s * (t * sum(c * q8) - 7.5 * t * sum(q8))``.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
import numpy.typing as npt

from mrl_retrieval.kernels import available
from mrl_retrieval.matryoshka import FloatArray

__all__ = ["ByteCentroids", "Codes", "byte_centroids", "loops", "padded", "random_rotation"]

Codes = npt.NDArray[np.uint8]

GROUP = 8
"""Components in a group of codes; prefixes are filled up to whole groups with zeros."""


def loops(compiled: bool | None = None) -> ModuleType:
    """The module with the loops: ``kernels`` where numba is installed (or ``compiled`` says so), else ``reference``."""
    if available() if compiled is None else compiled:
        from . import kernels

        return kernels
    from . import reference

    return reference


def padded(dims: int) -> int:
    """``dims``, up to whole groups."""
    return dims + -dims % GROUP


def random_rotation(dims: int, seed: int = 20261) -> FloatArray:
    """A random orthogonal matrix (padded, padded) of which only the first ``dims`` rows are needed: (dims, padded)."""
    width = padded(dims)
    drawn = np.random.default_rng(seed).standard_normal((width, width))
    orthogonal, upper = np.linalg.qr(drawn)
    turned: FloatArray = (orthogonal * np.sign(np.diag(upper)))[:dims].astype(np.float32)
    return turned


class ByteCentroids:
    """Centroids (n, d) in 8 bits, in blocks of 16, as the loops read them. ``values`` are what they stand for."""

    def __init__(self, codes: Codes, scales: FloatArray) -> None:
        self.codes = codes
        """(n / 16, d / 4, 64): block, group of 4 components, document and component; filled up with code 128."""
        self.scales = scales
        """(n rounded up to 16,)"""
        groups = codes.shape[1]
        levels = codes.reshape(len(codes), groups, 16, 4).transpose(0, 2, 1, 3).reshape(len(scales), 4 * groups)
        values = (levels.astype(np.float32) - np.float32(128)) * scales[:, None]
        self.values: FloatArray = values
        self.half_squares: FloatArray = np.einsum("nd,nd->n", values, values) / np.float32(2)


def byte_centroids(centroids: FloatArray) -> ByteCentroids:
    """Quantise centroids (n, d) to ``scale * (code - 128)`` with codes 1..255."""
    n, d = centroids.shape
    rows = np.zeros((n + -n % 16, d), dtype=np.float32)
    rows[:n] = centroids
    scales = (np.abs(rows).max(axis=1, initial=0) / np.float32(127)).astype(np.float32)
    levels = np.rint(np.divide(rows, scales[:, None], out=np.zeros_like(rows), where=scales[:, None] > 0))
    codes = (levels + 128).astype(np.uint8).reshape(len(rows) // 16, 16, d // 4, 4).transpose(0, 2, 1, 3)
    return ByteCentroids(np.ascontiguousarray(codes).reshape(len(rows) // 16, d // 4, 64), scales)
