"""How rows are written to Qdrant, and read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from mrl_adapters._qdrant import points as _qdrant_points
from mrl_adapters._qdrant.filters import NATIVE, TAGS, point_id
from mrl_retrieval.documents import Row
from mrl_retrieval.errors import (
    BackendError,
    CorruptionError,
)
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import prefix
from mrl_retrieval.registry import open_backend
from tests.backends.common import COARSE, batch_of, manifest, queries, random_rows
from tests.backends.qdrant.helpers import BACKENDS, counted, filled


@pytest.mark.parametrize("scheme", BACKENDS)
def test_a_batch_is_split_into_requests_and_an_error_says_what_is_in(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = random_rows(10)
    with filled(f"{scheme}:") as backend:
        monkeypatch.setattr(_qdrant_points, "REQUEST_BYTES", 3_000)
        requests = counted(backend)
        backend.upsert(batch_of(rows))
        assert len(requests) > 3
        assert backend.count() == 10
        parts = list(_qdrant_points.requests_of(batch_of(rows), backend.manifest))
        write, calls = backend._upsert, []

        def fails_third(part: list[Any]) -> None:
            calls.append(len(part))
            if len(calls) == 3:
                raise BackendError("gone")
            write(part)

        monkeypatch.setattr(backend, "_upsert", fails_third)
        with pytest.raises(BackendError) as caught:
            backend.upsert(batch_of(rows))
        assert list(caught.value.indexed_ids) == parts[0][0] + parts[1][0]


@pytest.mark.parametrize("scheme", BACKENDS)
def test_a_foreign_point_is_named(scheme: str) -> None:
    with filled(f"{scheme}:") as backend:
        backend._upsert([{"id": point_id("x"), "vector": {}, "payload": {"x": 1}}])
        with pytest.raises(CorruptionError, match="did not write it"):
            list(backend.scan())


def test_how_it_lies_in_qdrant(tmp_path: Path) -> None:
    """The documented layout, seen with Qdrant's own client."""
    with open_backend(f"qdrant:{tmp_path}/kb?collection=notes") as backend:
        backend.write_manifest(manifest((12,)), None)
        meta = {"year": 2020, "by": {"name": "Ada"}, "float": 1.0}
        backend.upsert(batch_of([Row("doc-1", "text", meta, queries(1)[0]), Row("doc-2", None, {}, None)]))
    client = QdrantClient(path=str(tmp_path / "kb"))
    try:
        config = client.get_collection("notes").config
        vectors = config.params.vectors
        assert isinstance(vectors, dict)
        assert {name: params.size for name, params in vectors.items()} == {"coarse": 6, "prefix_12": 12, "full": 24}
        assert all(params.distance == models.Distance.DOT for params in vectors.values())
        graphs = {name: params.hnsw_config.m if params.hnsw_config else None for name, params in vectors.items()}
        assert graphs == {"coarse": None, "prefix_12": 0, "full": 0}
        assert config.metadata is not None
        assert Manifest.loads(config.metadata["mrl_retrieval"]).coarse_dims == COARSE
        one, two = client.retrieve("notes", [point_id("doc-1"), point_id("doc-2")], with_vectors=True)
        assert one.payload is not None
        assert one.payload["document"] == "text"
        assert one.payload[NATIVE] == meta
        assert '"year"=2020' in one.payload[TAGS]
        np.testing.assert_allclose(one.vector["coarse"], prefix(queries(1), COARSE)[0], atol=1e-6)
        assert two.vector == {}
    finally:
        client.close()
