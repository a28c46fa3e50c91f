"""The settings a collection is made with in Qdrant: its named vectors, how they are stored, and payload indexes.

Only the coarse vectors have a graph, and they may be quantised; the others rescore what was found, and lie on disk.
All of it is JSON in the words of Qdrant's REST interface.
"""

from __future__ import annotations

from collections.abc import Mapping

from mrl_retrieval.manifest import Manifest

from .filters import ID, JSON, TAGS, metadata_path
from .points import COARSE, vector_dims

__all__ = ["INDEX_TYPES", "QUANTIZATIONS", "oversampling_of", "payload_indexes", "vectors_config"]

QUANTIZATIONS = ("none", "scalar", "binary", "turbo")
"""What ``coarse_quantization`` may be."""
INDEX_TYPES = frozenset({"integer", "float", "keyword", "bool", "datetime", "text"})
"""What ``index_fields`` may ask for."""

_OVERSAMPLING = {"none": 1.0, "scalar": 2.0, "binary": 8.0, "turbo": 2.0}
"""How many times the candidates are looked up in the quantised vectors, before the originals rescore them. Measured:
docs/qdrant-edge.md."""


def vectors_config(manifest: Manifest, *, on_disk: bool, coarse_quantization: str) -> dict[str, JSON]:
    """The settings of each named vector.

    Where a component lies is said twice: ``memory`` is heeded by Qdrant from 1.20 on, where it goes before ``on_disk``
    and ``always_ram``, which older versions know.
    """
    config = {}
    for name, dims in vector_dims(manifest).items():
        params: JSON = {"size": dims, "distance": "Dot"}
        if name == COARSE:
            if coarse_quantization != "none":
                params["quantization_config"] = _quantization(coarse_quantization)
        else:
            params["hnsw_config"] = {"m": 0, "payload_m": 0}
            params |= {"on_disk": on_disk, "memory": "cold" if on_disk else "cached"}
        config[name] = params
    return config


def _quantization(kind: str) -> JSON:
    in_ram = {"always_ram": True, "memory": "pinned"}
    if kind == "scalar":
        return {"scalar": {"type": "int8", "quantile": 0.99, **in_ram}}
    if kind == "binary":
        # One bit a dimension is too coarse for vectors as short as ours.
        return {"binary": {"encoding": "two_bits", "query_encoding": "scalar8bits", **in_ram}}
    return {"turbo": in_ram}


def oversampling_of(kind: str) -> float:
    """How many times as many candidates are read from vectors quantised like this."""
    return _OVERSAMPLING.get(kind, 2.0)


def payload_indexes(index_fields: Mapping[str, str]) -> dict[str, str]:
    """The payload keys to index, and how: the tags and ids always, then what the user named."""
    kinds = {TAGS: "keyword", ID: "keyword"}
    for path, kind in index_fields.items():
        # An index of integers would not find 2020.5, one of floats finds both.
        kinds[metadata_path(path.split("."))] = "float" if kind == "integer" else kind
    return kinds
