"""What is certain about an answer."""

from __future__ import annotations

from typing import Literal

__all__ = ["Certificate"]


class Certificate(str):
    """``"exact"`` or ``"candidates"``, and over which vectors. A result about which nothing is certain has none (None).

    It is that string, so it compares, prints and goes into JSON as such.

    >>> certificate = Certificate("exact", 768, "float16")
    >>> certificate == "exact", certificate.dims
    (True, 768)
    >>> print(certificate.explained)
    exact over all stored float16 vectors at 768 dims
    """

    __slots__ = ("dims", "dtype")

    dims: int
    """Components that were scored."""
    dtype: str | None
    """How the vectors are stored, where that is known."""

    def __new__(cls, kind: Literal["exact", "candidates"], dims: int, dtype: str | None = None) -> Certificate:
        """Of a kind, over vectors cut to ``dims`` and stored as ``dtype``."""
        made = super().__new__(cls, kind)
        object.__setattr__(made, "dims", dims)
        object.__setattr__(made, "dtype", dtype)
        return made

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a certificate cannot be changed, {name!r} neither")

    def __reduce__(self) -> tuple[type[Certificate], tuple[str, int, str | None]]:
        return Certificate, (str(self), self.dims, self.dtype)

    @property
    def explained(self) -> str:
        """In words."""
        whose = "all stored" if self == "exact" else "the candidates' stored"
        return f"exact over {whose} {self.dtype + ' ' if self.dtype else ''}vectors at {self.dims} dims"
