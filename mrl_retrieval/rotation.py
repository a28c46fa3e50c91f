"""Rotations: short prefixes for models that were never trained for them.

A rotation is an orthogonal matrix. It changes no dot product and no cosine between full vectors, but it can put first
what tells near vectors from far ones. How it is found is in ``rotation_fitting.py``, how a collection keeps it in
``rotations.py``.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import CorruptionError, DimensionError, InvalidInput
from .matryoshka import FloatArray

__all__ = ["Rotation"]

_MAGIC = b"MRLROT\r\n"
_HEADER = struct.Struct("<8sIIq")  # magic, version, dim, vectors fitted on
_VERSION = 1
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
    """``(D,)`` the share of the sample's energy on each axis; adds up to 1 (or is all zeros)."""
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
