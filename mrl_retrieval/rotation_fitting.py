"""Finding the rotation of a sample of vectors: its principal axes, turned until near neighbours stay near in prefixes.

The axes are those of the second moment about zero (and not about the mean: cosines are about zero too), in the order of
their energy. Among all orthogonal matrices this one keeps the most energy of the sample in every prefix (Eckart & Young
1936). From there ``turning.py`` goes on, since a search asks for neighbours and not for energy.

A rotation has to come from the texts that it is for: fitted on another domain it helps little (``docs/rotation.md``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .encoder import Encoder, as_encoder, encode_checked
from .errors import DimensionError, InvalidInput
from .matryoshka import FloatArray, as_vectors, normalize
from .rotation import Rotation
from .settings import check_positive
from .turning import LEAST, LONGEST, turned

__all__ = ["PER_DIM", "RotationFit", "SecondMoment", "fit_rotation", "warn_of_few"]

logger = logging.getLogger(__name__)

PER_DIM = 10
"""Vectors of a sample for each dim, at the least: the axes of fewer are those of the sample and not of the texts."""

_BLOCK = 4096
_KEPT_BYTES = 64 << 20
"""Of the vectors that neighbours are looked for among: 43,690 of 384 dims."""
_SHORTEST = 16
"""Prefixes below this are not worth a search, and nothing is turned for them unless they are asked for."""

Method = Literal["neighbours", "axes"]


class SecondMoment:
    """The mean of ``v vᵀ`` over unit vectors v, taken in bit by bit.

    >>> moment = SecondMoment(2)
    >>> moment.add(np.array([[0.0, 2.0], [0.0, -1.0], [1.0, 0.0]]))
    >>> rotation = moment.rotation()
    >>> rotation.matrix.tolist(), rotation.energy.round(3).tolist()
    ([[0.0, 1.0], [1.0, 0.0]], [0.667, 0.333])
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.count = 0
        """Vectors taken in, those of length zero included."""
        self._sum = np.zeros((dim, dim))

    def add(self, vectors: npt.NDArray[Any]) -> None:
        """Take in rows ``(N, D)`` of any length; each counts as its unit vector.

        Raises:
            DimensionError: they have another length than D.
        """
        rows = as_vectors(vectors, dim=self.dim, what="the sample's vectors")
        for start in range(0, len(rows), _BLOCK):
            block = normalize(rows[start : start + _BLOCK]).astype(np.float64)
            self._sum += block.T @ block
        self.count += len(rows)

    def energy(self, axes: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The share of the energy on each of D orthogonal axes, the rows of ``(D, D)``; all zeros if there is none."""
        wide = axes.astype(np.float64)
        energy = np.maximum(np.einsum("ij,ij->i", wide @ self._sum, wide), 0.0)
        total = float(energy.sum())
        shares: npt.NDArray[np.float64] = energy / total if total else energy
        return shares

    def rotation(self) -> Rotation:
        """The principal axes, the one of most energy first. Signs are such that the largest component of each axis is
        positive, so that equal samples give equal rotations.

        Raises:
            InvalidInput: there was no vector.
        """
        if not self.count:
            raise InvalidInput("a rotation cannot be fitted on no vectors; give a sample of the collection's texts")
        energies, axes = np.linalg.eigh(self._sum)
        order = np.argsort(-energies, kind="stable")
        matrix = axes[:, order].T
        largest = np.abs(matrix).argmax(axis=1)
        matrix *= np.where(matrix[np.arange(self.dim), largest] < 0, -1.0, 1.0)[:, None]
        energy = np.maximum(energies[order], 0.0)
        total = energy.sum()
        matrix32 = np.ascontiguousarray(matrix, dtype=np.float32) + np.float32(0)  # no negative zeros
        return Rotation(matrix32, energy / total if total else energy, self.count)


class RotationFit:
    """A rotation in the making: takes in a sample bit by bit, all of it for the axes and a part for the neighbours.

    Args:
        dim: length D of the vectors.
        dims: lengths of the prefixes that will be searched; None: an eighth, a quarter and a half of D.
        method: see :func:`fit_rotation`.
    """

    def __init__(self, dim: int, dims: Sequence[int] | None = None, method: Method = "neighbours") -> None:
        if method not in ("neighbours", "axes"):
            raise InvalidInput(f"method is {method!r}; pass 'neighbours' or 'axes'")
        self._moment = SecondMoment(dim)
        self._lengths = () if method == "axes" else _lengths(dim, dims)
        self._draw = np.random.default_rng(0)
        self._kept = np.zeros((0, dim), dtype=np.float32)
        self._keys = np.zeros(0)

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._moment.dim

    @property
    def count(self) -> int:
        """Vectors taken in."""
        return self._moment.count

    def add(self, vectors: npt.NDArray[Any]) -> None:
        """Take in rows ``(N, D)`` of any length; each counts as its unit vector.

        Raises:
            DimensionError: they have another length than D.
        """
        self._moment.add(vectors)
        if self._lengths:
            for start in range(0, len(vectors), _BLOCK):
                self._keep(normalize(np.asarray(vectors[start : start + _BLOCK], dtype=np.float32)))

    def rotation(self) -> Rotation:
        """What was found.

        Raises:
            InvalidInput: there was no vector.
        """
        axes = self._moment.rotation()
        if not self._lengths or len(self._kept) < LEAST:
            return axes
        matrix = turned(axes.matrix, self._kept, self._lengths)
        return Rotation(matrix, self._moment.energy(matrix), self.count)

    def _keep(self, rows: FloatArray) -> None:
        """Every vector has the same chance to be kept: those of the least random keys are."""
        keys = self._draw.random(len(rows))
        there = np.einsum("ij,ij->i", rows, rows) > 0.5  # one of length zero is nobody's neighbour
        self._kept = np.concatenate([self._kept, rows[there]])
        self._keys = np.concatenate([self._keys, keys[there]])
        most = max(_KEPT_BYTES // (4 * self.dim), LEAST)
        if len(self._keys) > most:
            least = np.sort(np.argpartition(self._keys, most)[:most])
            self._kept, self._keys = self._kept[least], self._keys[least]


def fit_rotation(
    encoder: Any,
    sample: Any,
    *,
    dims: Sequence[int] | None = None,
    method: Method = "neighbours",
    batch_size: int = 256,
) -> Rotation:
    """The rotation that puts first what a search by short prefixes needs, learned from a sample of documents.

    Args:
        encoder: as :class:`~mrl_retrieval.MatryoshkaRetriever` takes it, or None where ``sample`` holds vectors.
        sample: texts, or vectors ``(N, D)`` (an array, or an iterable of blocks of rows); read once, and at most 64 MiB
            of vectors are kept meanwhile. Best drawn at random from the collection's own documents, at least ten for
            each of the D dims: with fewer the library warns.
        dims: lengths of the prefixes that will be searched; None: an eighth, a quarter and a half of D.
        method: ``"axes"``: the principal axes, in the order of their energy. ``"neighbours"``: these, turned until the
            neighbours by full vectors are the neighbours by prefixes too; takes some ten seconds at 384 dims, finds
            more, and needs 500 vectors and prefixes of 16 dims at least: without them it is the same as ``"axes"``.
        batch_size: texts that are encoded at a time.

    Raises:
        InvalidInput: the sample is empty, or an argument cannot be used.
        EncoderError: the encoder failed.

    >>> from mrl_retrieval import load_encoder
    >>> texts = [f"{a} {b} {c}" for a in "xyz" for b in "uvw" for c in range(80)]
    >>> rotation = fit_rotation(load_encoder("hashing:64"), texts, method="axes")
    >>> rotation.dim, rotation.fitted_on, rotation.kept_energy(64)
    (64, 720, 1.0)
    """
    fit: RotationFit | None = None
    for block in _blocks(encoder, sample, check_positive(batch_size, "batch_size")):
        fit = fit or RotationFit(block.shape[1], dims, method)
        fit.add(block)
    if fit is None:
        raise InvalidInput("the sample is empty; give texts of the collection, ten or more for each dim")
    warn_of_few(fit.count, fit.dim)
    return fit.rotation()


def warn_of_few(vectors: int, dim: int) -> None:
    """Say so where a sample has fewer vectors than ten for each dim."""
    if vectors < PER_DIM * dim:
        logger.warning(
            "a rotation of %d dims was fitted on %d vectors: with fewer than %d it fits the sample rather than what "
            "the sample was drawn from",
            dim,
            vectors,
            PER_DIM * dim,
        )


def _lengths(dim: int, dims: Sequence[int] | None) -> tuple[int, ...]:
    """The prefixes that axes are turned for: shorter than the vectors, and no longer than what is turned."""
    if dims is None:
        return tuple(length for length in (dim // 8, dim // 4, dim // 2) if _SHORTEST <= length <= LONGEST)
    asked = sorted({check_positive(length, "a prefix length in dims") for length in dims})
    if asked and asked[-1] > dim:
        raise DimensionError(f"dims has the prefix length {asked[-1]}, the vectors have {dim} components")
    return tuple(length for length in asked if length < min(dim, LONGEST + 1))


def _blocks(encoder: Any, sample: Any, batch_size: int) -> Iterator[FloatArray]:
    if isinstance(sample, (str, bytes)) or not isinstance(sample, (Iterable, np.ndarray)):
        raise InvalidInput(f"the sample is {type(sample).__name__}; pass texts, or an array of vectors (N, D)")
    if isinstance(sample, np.ndarray):
        if sample.ndim != 2:
            raise DimensionError(f"the sample has the shape {sample.shape}, expected (N, D)")
        yield from (sample[start : start + _BLOCK] for start in range(0, len(sample), _BLOCK))
    elif encoder is None:
        yield from (as_vectors(block, what="the sample's vectors") for block in sample)
    else:
        model: Encoder = as_encoder(encoder)
        texts = iter(sample)
        while batch := list(islice(texts, batch_size)):
            if wrong := [text for text in batch if not isinstance(text, str)]:
                raise InvalidInput(f"the sample holds {wrong[0]!r:.80}; pass texts, or vectors with encoder=None")
            yield encode_checked(model, batch, queries=False)
