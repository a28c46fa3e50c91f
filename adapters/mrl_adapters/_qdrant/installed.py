"""What Qdrant's client says of a collection, and what the installed version of it knows."""

from __future__ import annotations

from collections.abc import Mapping

from qdrant_client import models

from .filters import JSON
from .layout import QUANTIZATIONS
from .points import COARSE

__all__ = ["MANIFEST", "filter_of", "known", "manifest_text", "quantization_of", "quantizations"]

MANIFEST = "mrl_retrieval"
"""Key of the manifest's text in the metadata of a Qdrant collection."""


def filter_of(condition: JSON | None) -> models.Filter | None:
    """A filter in the client's own words."""
    return None if condition is None else models.Filter.model_validate(condition)


def manifest_text(info: models.CollectionInfo | None) -> str | None:
    """The manifest in a Qdrant collection's metadata; None where it is not ours."""
    text = None if info is None else (info.config.metadata or {}).get(MANIFEST)
    return text if isinstance(text, str) else None


def quantization_of(info: models.CollectionInfo | None) -> str:
    """How the coarse vectors of a collection are quantised."""
    vectors = None if info is None else info.config.params.vectors
    coarse = vectors.get(COARSE) if isinstance(vectors, Mapping) else None
    found = None if coarse is None else coarse.quantization_config
    return "none" if found is None else next(iter(type(found).model_fields))


def quantizations() -> frozenset[str]:
    """What the installed client knows."""
    return frozenset(QUANTIZATIONS) - (set() if hasattr(models, "TurboQuantization") else {"turbo"})


def known(params: JSON) -> JSON:
    """Settings without ``memory`` where the installed client, older than 1.20, does not know it."""
    if "memory" in models.VectorParams.model_fields:
        return params
    return {key: known(value) if isinstance(value, dict) else value for key, value in params.items() if key != "memory"}
