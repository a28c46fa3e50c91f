"""Compiling with numba, the optional extra ``fast``, in the one way that all kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

try:
    import numba
except ImportError as error:
    from mrl_retrieval.errors import MissingExtra

    raise MissingExtra("compiled kernels", "fast") from error

__all__ = ["compiled"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """A function compiled at its first call, kept on disk for the next process, that holds no interpreter lock.

    Arithmetic is as written: nothing is reordered or fused, so that NumPy can do the same to the last bit.
    """
    return cast(F, numba.njit(nogil=True, cache=True, fastmath=False, error_model="numpy")(function))
