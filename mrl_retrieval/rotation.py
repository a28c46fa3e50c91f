"""Rotations: short prefixes for models that were never trained for them.

A rotation is an orthogonal matrix. It changes no dot product and no cosine between full vectors, but it can put first
what the vectors differ in most: its rows are the principal axes of a sample, those of the second moment about zero
(and not about the mean: cosines are about zero too), in the order of their energy. Among all orthogonal matrices this
one keeps the most energy of the sample in every prefix (Eckart & Young 1936).

It has to come from the texts that it is for: fitted on another domain it helps little (``docs/rotation.md``).
"""

from __future__ import annotations

import hashlib
import logging
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .encoder import Encoder, as_encoder, encode_checked
from .errors import CorruptionError, DimensionError, InvalidInput
from .matryoshka import FloatArray, as_vectors, normalize

__all__ = ["Rotation", "SecondMoment", "fit_rotation", "warn_of_few"]

logger = logging.getLogger(__name__)

PER_DIM = 10
"""Vectors of a sample for each dim, at the least: the axes of fewer are those of the sample and not of the texts."""

_MAGIC = b"MRLROT\r\n"
_HEADER = struct.Struct("<8sIIq")  # magic, version, dim, vectors fitted on
_VERSION = 1
_BLOCK = 4096
_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False, slots=True)
class Rotation:
    """An orthogonal matrix, to be applied to documents and queries alike.

    Raises:
        InvalidInput: it is no array of numbers, not square, or not orthogonal: with it the cosines of full vectors
            would change; or the energy is not one number for each axis.
    """

    matrix: FloatArray
    """``(D, D)`` float32; row i is the axis of component i."""
    energy: npt.NDArray[np.float64]
    """``(D,)`` the share of the sample's energy on each axis, descending; adds up to 1 (or is all zeros)."""
    fitted_on: int = 0
    """Vectors of the sample."""

    def __post_init__(self) -> None:
        for name, value in (("matrix", self.matrix), ("energy", self.energy)):
            if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
                got = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
                raise InvalidInput(f"the {name} of a rotation is an array of real numbers, got {got}")
        object.__setattr__(self, "matrix", np.ascontiguousarray(self.matrix, dtype=np.float32))
        if self.matrix.ndim != 2 or self.matrix.shape[0] != self.matrix.shape[1]:
            raise InvalidInput(f"a rotation is a square matrix, got the shape {self.matrix.shape}")
        if self.energy.shape != (self.dim,):
            raise InvalidInput(f"the energy of {self.dim} axes is so many numbers, got the shape {self.energy.shape}")
        wide = self.matrix.astype(np.float64)
        off = float(np.abs(wide @ wide.T - np.eye(self.dim)).max())
        if not off <= _TOLERANCE:
            raise InvalidInput(
                f"the matrix is not orthogonal: its product with its transpose is off the identity by {off:.2g}, at "
                f"most {_TOLERANCE:g} is rounding; take the one of fit_rotation"
            )

    @property
    def dim(self) -> int:
        """Length of the vectors that it is for."""
        return len(self.matrix)

    @property
    def fingerprint(self) -> str:
        """Tells one rotation from another: BLAKE2b of the matrix, 32 hexadecimal digits."""
        return hashlib.blake2b(self.matrix.astype("<f4").tobytes(), digest_size=16).hexdigest()

    def apply(self, vectors: npt.NDArray[Any]) -> FloatArray:
        """Rotate rows ``(N, D)``: lengths and cosines stay.

        Raises:
            DimensionError: they have another length than D.
        """
        rotated: FloatArray = self._checked(vectors) @ self.matrix.T
        return rotated

    def undo(self, vectors: npt.NDArray[Any]) -> FloatArray:
        """Rotate rows ``(N, D)`` back."""
        back: FloatArray = self._checked(vectors) @ self.matrix
        return back

    def kept_energy(self, dims: int) -> float:
        """The share of the sample's energy that the first ``dims`` components hold, in 0..1."""
        return float(self.energy[:dims].sum())

    def to_bytes(self) -> bytes:
        """For a file or a database; :meth:`from_bytes` is its inverse."""
        head = _HEADER.pack(_MAGIC, _VERSION, self.dim, self.fitted_on)
        body = head + self.matrix.astype("<f4").tobytes() + self.energy.astype("<f8").tobytes()
        return body + struct.pack("<I", zlib.crc32(body))

    @classmethod
    def from_bytes(cls, content: bytes) -> Rotation:
        """Read :meth:`to_bytes`'s form.

        Raises:
            CorruptionError: it is damaged, or something else.
        """
        if len(content) < _HEADER.size + 4 or content[:8] != _MAGIC:
            raise CorruptionError(f"these {len(content)} bytes are no rotation: they begin with {content[:8]!r}")
        _, version, dim, fitted_on = _HEADER.unpack_from(content)
        expected = _HEADER.size + 4 * dim * dim + 8 * dim + 4
        if version != _VERSION or len(content) != expected:
            raise CorruptionError(
                f"a rotation of version {version} and {dim} dims has {len(content)} bytes, expected version {_VERSION} "
                f"and {expected}"
            )
        if struct.pack("<I", zlib.crc32(content[:-4])) != content[-4:]:
            raise CorruptionError("the checksum of the rotation is wrong: restore it from a backup, or fit it again")
        end = _HEADER.size + 4 * dim * dim
        matrix = np.frombuffer(content, "<f4", dim * dim, _HEADER.size).reshape(dim, dim).astype(np.float32)
        return cls(matrix, np.frombuffer(content, "<f8", dim, end).astype(np.float64), fitted_on)

    def save(self, path: str | Path) -> None:
        """Write it to a file, whole or not at all; what was there is replaced. ``mrl index --rotation FILE`` takes it.

        Raises:
            BackendError: the file cannot be written.
        """
        from .storage.files import os_errors, write_atomically  # here: the store is more than a rotation needs

        with os_errors(f"writing {path}"):
            write_atomically(Path(path).expanduser(), self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> Rotation:
        """Read what :meth:`save` wrote.

        Raises:
            InvalidInput: there is no file.
            CorruptionError: it is damaged, or something else.
        """
        from .storage.files import os_errors

        file = Path(path).expanduser()
        with os_errors(f"reading {path}"):
            if not file.is_file():
                raise InvalidInput(f"there is no file {path}; expected a rotation that 'mrl rotate --save' wrote")
            content = file.read_bytes()
        try:
            return cls.from_bytes(content)
        except CorruptionError as error:
            raise CorruptionError(f"{path} cannot be used: {error}") from error

    def _checked(self, vectors: npt.NDArray[Any]) -> FloatArray:
        rows = np.asarray(vectors, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise DimensionError(f"the rotation is for rows of {self.dim} components, got the shape {rows.shape}")
        return rows


class SecondMoment:
    """What a rotation is fitted on, taken in bit by bit: the mean of ``v vᵀ`` over unit vectors v.

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


def fit_rotation(encoder: Any, sample: Any, *, batch_size: int = 256) -> Rotation:
    """The rotation that orders the components of an encoder's vectors by their energy over a sample of documents.

    Args:
        encoder: as :class:`~mrl_retrieval.MatryoshkaRetriever` takes it, or None where ``sample`` holds vectors.
        sample: texts, or vectors ``(N, D)`` (an array, or an iterable of blocks of rows); read once and not kept. Best
            drawn at random from the collection's own documents, at least ten for each of the D dims: with fewer the
            library warns.
        batch_size: texts that are encoded at a time.

    Raises:
        InvalidInput: the sample is empty.
        EncoderError: the encoder failed.

    >>> from mrl_retrieval import load_encoder
    >>> texts = [f"{a} {b} {c}" for a in "xyz" for b in "uvw" for c in range(80)]
    >>> rotation = fit_rotation(load_encoder("hashing:64"), texts)
    >>> rotation.dim, rotation.fitted_on, rotation.kept_energy(64)
    (64, 720, 1.0)
    """
    moment: SecondMoment | None = None
    for block in _blocks(encoder, sample, batch_size):
        moment = moment or SecondMoment(block.shape[1])
        moment.add(block)
    if moment is None:
        raise InvalidInput("the sample is empty; give texts of the collection, ten or more for each dim")
    warn_of_few(moment.count, moment.dim)
    return moment.rotation()


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
