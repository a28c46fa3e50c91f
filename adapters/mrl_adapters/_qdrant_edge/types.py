"""Qdrant's REST words as the types of ``qdrant_edge``: filters, queries, points, settings.

Only what the adapters say is translated; anything else is a KeyError or TypeError, a fault of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import qdrant_edge as edge

from .._qdrant.filters import JSON

__all__ = ["config_of", "filter_of", "index_of", "point_of", "query_of"]

_MEMORY = {"cold": edge.Memory.Cold, "cached": edge.Memory.Cached, "pinned": edge.Memory.Pinned}
_INDEXES = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "integer": edge.PayloadSchemaType.Integer,
    "float": edge.PayloadSchemaType.Float,
    "bool": edge.PayloadSchemaType.Bool,
    "datetime": edge.PayloadSchemaType.Datetime,
    "text": edge.PayloadSchemaType.Text,
}
# Qdrant's own defaults, which this library cannot leave unsaid.
_EF_CONSTRUCT = 100
_FULL_SCAN_KB = 10_000


def filter_of(condition: JSON | None) -> edge.Filter | None:
    """A filter of clauses; None for none."""
    if condition is None:
        return None
    clauses: dict[str, Any] = {clause: [_condition(part) for part in parts] for clause, parts in condition.items()}
    return edge.Filter(**clauses)


def _condition(condition: JSON) -> Any:
    if "has_id" in condition:
        return edge.HasIdCondition(set(map(UUID, condition["has_id"])))
    if "has_vector" in condition:
        return edge.HasVectorCondition(condition["has_vector"])
    if "key" not in condition:
        return filter_of(condition)
    if "range" in condition:
        return edge.FieldCondition(condition["key"], range=edge.RangeFloat(**condition["range"]))
    match = condition["match"]
    wanted = edge.MatchValue(match["value"]) if "value" in match else edge.MatchAny(match["any"])
    return edge.FieldCondition(condition["key"], match=wanted)


def query_of(request: JSON) -> edge.QueryRequest:
    """A query with its nested prefetches."""
    return edge.QueryRequest(with_payload=request["with_payload"], **_stage(request))


def _stage(stage: JSON) -> dict[str, Any]:
    prefetch = stage.get("prefetch")
    return {
        "limit": stage["limit"],
        "query": edge.Query.Nearest(stage["query"], using=stage["using"]),
        "prefetches": None if prefetch is None else [edge.Prefetch(**_stage(prefetch))],
        "filter": filter_of(stage.get("filter")),
        "params": _params(stage.get("params")),
    }


def _params(params: JSON | None) -> edge.SearchParams | None:
    if params is None:
        return None
    quantization = params.get("quantization")
    return edge.SearchParams(
        hnsw_ef=params.get("hnsw_ef"),
        exact=params.get("exact", False),
        quantization=None if quantization is None else edge.QuantizationSearchParams(**quantization),
    )


def point_of(point: JSON) -> edge.Point:
    """A point to be written."""
    return edge.Point(UUID(point["id"]), point["vector"], point["payload"])


def index_of(kind: str) -> edge.PayloadSchemaType:
    """The type of a payload index."""
    return _INDEXES[kind]


def config_of(vectors: Mapping[str, JSON]) -> edge.EdgeConfig:
    """The settings of a new shard with these named vectors, its write-ahead log on."""
    return edge.EdgeConfig(vectors={name: _vector(params) for name, params in vectors.items()}, wal_enabled=True)


def _vector(params: JSON) -> edge.EdgeVectorParams:
    graph, quantization = params.get("hnsw_config"), params.get("quantization_config")
    return edge.EdgeVectorParams(
        params["size"],
        {"Dot": edge.Distance.Dot}[params["distance"]],
        memory=_MEMORY[params.get("memory", "cached")],
        hnsw_config=None if graph is None else edge.HnswIndexConfig(graph["m"], _EF_CONSTRUCT, _FULL_SCAN_KB),
        quantization_config=None if quantization is None else _quantization(quantization),
    )


def _quantization(config: JSON) -> Any:
    ((kind, said),) = config.items()
    memory = _MEMORY[said["memory"]]
    if kind == "scalar":
        return edge.ScalarQuantizationConfig(edge.ScalarType.Int8, quantile=said["quantile"], memory=memory)
    if kind == "binary":
        return edge.BinaryQuantizationConfig(
            encoding={"two_bits": edge.BinaryQuantizationEncoding.TwoBits}[said["encoding"]],
            query_encoding={"scalar8bits": edge.BinaryQuantizationQueryEncoding.Scalar8Bits}[said["query_encoding"]],
            memory=memory,
        )
    return {"turbo": edge.TurboQuantQuantizationConfig}[kind](memory=memory)
