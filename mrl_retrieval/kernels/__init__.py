"""Compiled inner loops. They need numba (extra ``fast``); whoever uses one has a NumPy path with the same results."""

from __future__ import annotations

import importlib.util

__all__ = ["available"]


def available() -> bool:
    """Whether numba is installed, without importing it."""
    return importlib.util.find_spec("numba") is not None
