"""Compiling with numba, the optional extra ``fast``, in the one way that all kernels are compiled."""

from __future__ import annotations

import contextlib
import logging
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

try:
    import numba
    from numba.core import caching as untyped_caching
except ImportError as error:
    from mrl_retrieval.errors import MissingExtra

    raise MissingExtra("compiled kernels", "fast") from error

import numpy as np

from .target import TARGET

__all__ = ["compiled"]

F = TypeVar("F", bound=Callable[..., Any])

_caching: Any = untyped_caching
_log = logging.getLogger(__name__)
_PACKAGE = __name__.split(".")[0]


def compiled(function: F) -> F:
    """A function compiled at its first call, kept on disk for the next process, that holds no interpreter lock.

    Arithmetic is as written: nothing is reordered or fused, so that NumPy can do the same to the last bit.
    """
    # numba keeps code by name, while the function's own file stays the same. What else it is made of is in the name.
    function.__qualname__ += f"_{_ingredients(function):08x}"
    made: Any = numba.njit(nogil=True, fastmath=False, error_model="numpy")(function)
    try:
        made._cache = _Cache(function)
    except RuntimeError:
        _log.info("no folder to keep compiled code in: each process compiles %s again", function.__name__)
    return cast(F, made)


class _Cache(_caching.FunctionCache):  # type: ignore[misc]
    """numba's cache of compiled code, except that a search never fails for it: it is compiled again instead."""

    def load_overload(self, signature: Any, context: Any) -> Any:
        try:
            found = super().load_overload(signature, context)
        except Exception as error:  # noqa: BLE001, a damaged pickle can raise anything
            _log.warning("compiled code in %s cannot be read, compiling again: %r", self.cache_path, error)
            with contextlib.suppress(OSError):
                self.flush()
            return None
        # Two processes that write at once can give code for different types the same number.
        return found if found is None or found.signature.args == tuple(signature) else None

    def save_overload(self, signature: Any, data: Any) -> None:
        try:
            super().save_overload(signature, data)
        except Exception as error:  # noqa: BLE001, as above, or a full disk
            _log.warning("compiled code cannot be kept in %s: %r", self.cache_path, error)


def _ingredients(function: Callable[..., Any]) -> int:
    """A checksum of what the code of ``function`` is made of besides its file: the processor that it is for, all of
    this package's sources, and, of what its module imports, other compiled functions and constants."""
    module = sys.modules[function.__module__]
    crc = zlib.crc32("".join(TARGET).encode())
    here = {str(path) for path in Path(__file__).parent.glob("*.py")}
    for path in sorted(here | _imported(module, {module.__name__})):
        crc = zlib.crc32(_source(path), crc)
    return zlib.crc32(repr(_constants(module)).encode(), crc)


def _imported(module: ModuleType, seen: set[str]) -> set[str]:
    """The files of other modules here whose functions, compiled or written as instructions, a module has imported."""
    found = set()
    for value in vars(module).values():
        name = str(getattr(value, "__module__", ""))
        ours = name.startswith(f"{_PACKAGE}.") and callable(value) and not isinstance(value, type)
        if ours and name not in seen:
            seen.add(name)
            other = sys.modules[name]
            found |= {str(other.__file__), *_imported(other, seen)}
    return found


def _constants(module: ModuleType) -> list[tuple[str, str]]:
    """The numbers that a module has imported or defined: code holds their values."""
    return sorted((name, repr(v)) for name, v in vars(module).items() if isinstance(v, (int, float, tuple, np.generic)))


@cache
def _source(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:  # only the compiled form of it is there, as in an archive: that does not change
        return b""
