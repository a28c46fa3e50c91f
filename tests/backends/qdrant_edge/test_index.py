"""When the qdrant-edge backend indexes, and that searches are right before, while and after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import qdrant_edge

from mrl_adapters._qdrant_edge import shard as _qdrant_edge_shard
from mrl_retrieval.backend import Backend
from mrl_retrieval.documents import Row
from mrl_retrieval.filters import parse_filter
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import normalize, prefix
from mrl_retrieval.registry import open_backend
from mrl_retrieval.scoring import exact_search
from mrl_retrieval.testing.base import clustered
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.backends.common import batch_of, random_rows
from tests.backends.qdrant.helpers import filled


@pytest.fixture
def indexes_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph and quantised vectors from a few hundred rows on, where the engine would wait for megabytes."""
    optimizers = qdrant_edge.EdgeOptimizersConfig(indexing_threshold=100)
    graph = qdrant_edge.HnswIndexConfig(16, 100, 10)
    make = qdrant_edge.EdgeConfig
    monkeypatch.setattr(
        qdrant_edge, "EdgeConfig", lambda **known: make(**known, optimizers=optimizers, hnsw_config=graph)
    )


@pytest.mark.usefixtures("indexes_early")
@pytest.mark.parametrize(("kind", "least"), [("none", 0.99), ("scalar", 0.99), ("turbo", 0.99), ("binary", 0.8)])
def test_searches_are_right_before_and_after_indexing(kind: str, least: float, tmp_path: Path) -> None:
    dim, short, n = 96, 32, 2000
    vectors = normalize(clustered(n, dim, seed=3))
    ids = [f"id-{i}" for i in range(n)]
    asked = normalize(clustered(20, dim, seed=4))
    rows = [Row(id, None, {"even": i % 2 == 0, "rare": i % 500 == 3}, vectors[i]) for i, id in enumerate(ids)]
    address = f"qdrant-edge:{tmp_path}/kb"

    def check(backend: Backend, kept: list[int]) -> None:
        names, matrix = [ids[i] for i in kept], vectors[kept]
        truth = exact_search(asked, matrix, names, 50, dim=short)
        found = backend.coarse_search(prefix(asked, short), 50, None)
        shares = [len(set(one.ids) & set(best)) / 50 for one, (best, _) in zip(found, truth, strict=True)]
        assert np.mean(shares) >= least
        best = exact_search(asked, matrix, names, 10)
        for stages in ((Stage(short, len(kept)), Stage(dim, 10)), (Stage(dim, 10),)):
            for ranking, (right, scores) in zip(backend.search(SearchRequest(asked, stages)), best, strict=True):
                assert [row.id for row in ranking.rows] == right
                np.testing.assert_allclose(ranking.scores, scores, atol=1e-5)
        for field, matching in (("even", [i for i in kept if i % 2 == 0]), ("rare", [i for i in kept if i % 500 == 3])):
            request = SearchRequest(asked, (Stage(short, 10), Stage(dim, 10)), parse_filter({field: True}))
            for ranking in backend.search(request):
                assert len(ranking.rows) == min(10, len(matching))
                assert {int(row.id[3:]) for row in ranking.rows} <= set(matching)

    everything = list(range(n))
    kept = [i for i in everything if i % 5]
    with open_backend(address, coarse_quantization=kind) as backend:
        backend.write_manifest(Manifest(dim=dim, coarse_dims=short, fine_dims=dim), None)
        backend.upsert(batch_of(rows, dim))
        assert backend.stats().details["indexed_vectors"] == 0
        check(backend, everything)
        backend.flush()
        assert backend.stats().details["indexed_vectors"] > 0
        check(backend, everything)
        assert backend.delete(ids[::5]) == n // 5
        check(backend, kept)
        backend.flush()
        check(backend, kept)
    with open_backend(address) as again:
        assert again.read_manifest() is not None
        assert again.stats().details["coarse_quantization"] == kind
        check(again, kept)


def test_many_new_rows_are_indexed_by_the_write_that_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_qdrant_edge_shard, "_UNINDEXED", 100)
    calls: list[int] = []
    optimize = _qdrant_edge_shard.SharedShard._optimize
    monkeypatch.setattr(
        _qdrant_edge_shard.SharedShard, "_optimize", lambda self, shard: (calls.append(1), optimize(self, shard))[1]
    )
    rows = random_rows(400)
    with filled("qdrant-edge:") as backend:
        for start in (0, 60, 120, 180, 240, 300, 360):  # 120, and then as many again
            backend.upsert(batch_of(rows[start : start + 60]))
        assert len(calls) == 2
        assert backend.count() == 400
    assert len(calls) == 2  # too few new ones to make closing slow
