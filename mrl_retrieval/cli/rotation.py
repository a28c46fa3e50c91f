"""``--rotation`` of several commands: ``auto``, or a file that ``mrl rotate --save`` or ``Rotation.save`` wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from mrl_retrieval.rotation import Rotation

__all__ = ["AUTO", "measured_line", "rotation_of"]

AUTO: Literal["auto"] = "auto"


def rotation_of(text: str) -> Rotation | Literal["auto"]:
    """What the option says. A file of that very name is ``./auto``.

    Raises:
        InvalidInput, CorruptionError: the file is not there, or no rotation.
    """
    return AUTO if text == AUTO else Rotation.load(text)


def measured_line(measured: Mapping[str, Any]) -> str:
    """What the manifest says was measured, in words."""
    return (
        f"top 10 in 100 candidates {measured['coverage']:.1%}, rotated {measured['rotated_coverage']:.1%} (measured on "
        f"{measured['at'][:10]} at {measured['vectors']:,} vectors)"
    )
