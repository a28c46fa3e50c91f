"""Nested queries in Qdrant's local mode, whose candidates are rescored here.

Local mode takes nested queries itself, but finds the candidates of a stage again by going through all points of the
collection, with the filter, and looking up the id of each. Here they are read by their ids, and scored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from qdrant_client import QdrantClient, models

from mrl_retrieval.matryoshka import FloatArray

from .filters import JSON
from .points import vector_named

__all__ = ["query"]


def query(client: QdrantClient, collection: str, request: JSON) -> Sequence[models.ScoredPoint]:
    """The answer to one query, which may have a ``prefetch``, which may have one again.

    Args:
        client: of local mode.
        collection: Qdrant's name of it.
        request: in the words of Qdrant's REST interface. A filter is in the innermost stage only.
    """
    if "prefetch" not in request:
        return _asked(client, collection, request)
    ids, scores = _best(client, collection, request)
    found = {record.id: record for record in client.retrieve(collection, ids, with_payload=request["with_payload"])}
    return [
        models.ScoredPoint(id=id, version=0, score=score, payload=found[id].payload)
        for id, score in zip(ids, scores.tolist(), strict=True)
    ]


def _best(client: QdrantClient, collection: str, stage: JSON) -> tuple[list[models.ExtendedPointId], FloatArray]:
    """Qdrant's ids of what a stage keeps, best first, and how it scored them."""
    if "prefetch" not in stage:
        points = _asked(client, collection, {**stage, "with_payload": False})
        return [point.id for point in points], np.array([point.score for point in points], dtype=np.float32)
    candidates, _ = _best(client, collection, stage["prefetch"])
    name = stage["using"]
    records = client.retrieve(collection, candidates, with_payload=False, with_vectors=[name])
    kept = [(record.id, vector) for record in records if (vector := vector_named(record.vector, name)) is not None]
    if not kept:
        return [], np.empty(0, dtype=np.float32)
    matrix = np.array([vector for _, vector in kept], dtype=np.float32)
    scores: FloatArray = matrix @ np.array(stage["query"], dtype=np.float32)
    best = np.argsort(-scores, kind="stable")[: stage["limit"]]
    return [kept[i][0] for i in best], scores[best]


def _asked(client: QdrantClient, collection: str, request: JSON) -> Sequence[models.ScoredPoint]:
    (answer,) = client.query_batch_points(collection, requests=[models.QueryRequest.model_validate(request)])
    return answer.points
