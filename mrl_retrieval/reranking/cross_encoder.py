"""A sentence-transformers ``CrossEncoder`` by its name. Needs the extra ``sentence-transformers``."""

from __future__ import annotations

from typing import Any

from ..errors import MissingExtra, RerankerError

try:
    from sentence_transformers import CrossEncoder
except ImportError as error:
    raise MissingExtra("a cross-encoder", "sentence-transformers") from error

__all__ = ["load_cross_encoder"]


def load_cross_encoder(name: str) -> Any:
    """The model of a folder, or of a name on the Hub.

    Raises:
        RerankerError: there is none, or it cannot be loaded.
    """
    try:
        return CrossEncoder(name)
    except Exception as error:  # its parts raise whatever they like
        raise RerankerError(
            f"the cross-encoder {name!r} cannot be loaded: {error}; check the name or folder"
        ) from error
