"""What the processor has that compiled code is made for. An instruction that it lacks ends the process."""

from __future__ import annotations

from typing import Any

from numba.core.registry import cpu_target

__all__ = ["TARGET", "has", "is_arm64"]

# numba's word for it, as it goes to LLVM: this machine, or what NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say.
_codegen: Any = cpu_target.target_context.codegen()
TARGET: tuple[str, str, str] = _codegen.magic_tuple()
"""Triple, processor and features, as in ``+avx2,-avx512f``. An empty list of features leaves those that the processor
always has, of which this module knows none: code is then slower than it could be, and right."""

_FEATURES = frozenset(feature.strip() for feature in TARGET[2].split(","))


def has(feature: str) -> bool:
    """Whether there is the instruction set with LLVM's name ``feature``."""
    return f"+{feature}" in _FEATURES and f"-{feature}" not in _FEATURES


def is_arm64() -> bool:
    """Whether it is a 64-bit ARM processor."""
    return TARGET[0].startswith(("aarch64", "arm64"))
