"""Searches, on both Qdrant backends and over HTTP: one request, the answers of the core."""

from __future__ import annotations

import numpy as np
import pytest

from mrl_retrieval.documents import Row
from mrl_retrieval.filters import IdIn, parse_filter
from mrl_retrieval.registry import open_backend
from mrl_retrieval.scoring import exact_search
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.backends.common import COARSE, DIM, batch_of, manifest, queries, random_rows
from tests.backends.qdrant.helpers import BACKENDS, FUNNEL, connect, counted, filled
from tests.qdrant_server import QdrantServer


@pytest.mark.parametrize("scheme", BACKENDS)
def test_a_funnel_is_one_request(scheme: str) -> None:
    rows = random_rows(200)
    full = np.stack([row.vector for row in rows])
    with open_backend(f"{scheme}:") as backend:
        backend.write_manifest(manifest(FUNNEL), None)
        backend.upsert(batch_of(rows))
        requests = counted(backend)
        for stages in (
            (Stage(DIM, 5),),
            (Stage(COARSE, 200), Stage(DIM, 5)),
            (Stage(COARSE, 200), Stage(12, 100), Stage(DIM, 5)),
        ):
            requests.clear()
            found = backend.search(SearchRequest(queries(4), stages))
            assert requests == ["searching"]
            truth = exact_search(queries(4), full, [row.id for row in rows], 5)
            if len(stages) < 3:
                assert [[row.id for row in r.rows] for r in found] == [ids for ids, _ in truth]
            for ranking in found:
                for row, score in zip(ranking.rows, ranking.scores, strict=True):
                    assert abs(score - float(queries(4)[found.index(ranking)] @ full[int(row.id[3:])])) < 1e-5
        # A stage without a vector of its own, and explain, take the core's way, to the same answer.
        other = backend.search(SearchRequest(queries(4), (Stage(COARSE, 200), Stage(9, 100), Stage(DIM, 5))))
        assert len(requests) > 1
        assert all(len(ranking.rows) == 5 for ranking in other)
        told = backend.search(SearchRequest(queries(4), (Stage(COARSE, 200), Stage(DIM, 5)), explain=True))
        assert [[row.id for row in r.rows] for r in told] == [ids for ids, _ in truth]
        assert told[0].trace is not None
        assert told[0].coarse_scores is not None


@pytest.mark.parametrize("scheme", BACKENDS)
def test_the_funnel_in_one_request_equals_the_core_s(scheme: str) -> None:
    rows = random_rows(300)
    stages = (Stage(COARSE, 40), Stage(12, 15), Stage(DIM, 7))
    listed = IdIn(frozenset(row.id for row in rows[::7]))
    with open_backend(f"{scheme}:") as backend, open_backend("memory:") as memory:
        for each in (backend, memory):
            each.write_manifest(manifest(FUNNEL), None)
            each.upsert(batch_of(rows))
        for each in (None, parse_filter({"third": True}), listed):
            request = SearchRequest(queries(5), stages, each)
            for ours, oracle in zip(backend.search(request), memory.search(request), strict=True):
                assert [row.id for row in ours.rows] == [row.id for row in oracle.rows]
                np.testing.assert_allclose(ours.scores, oracle.scores, atol=1e-5)


@pytest.mark.parametrize("scheme", BACKENDS)
def test_ties_are_ordered_by_id_and_zero_vectors_score_zero(scheme: str) -> None:
    vector = queries(1)[0]
    rows = [Row(name, None, {}, vector) for name in ("c", "a", "é", "b", "Z")] + [Row("zero", None, {}, 0 * vector)]
    with filled(f"{scheme}:") as backend:
        backend.upsert(batch_of(rows))
        (found,) = backend.search(SearchRequest(vector[None], (Stage(COARSE, 10), Stage(DIM, 10))))
        assert [row.id for row in found.rows] == ["Z", "a", "b", "c", "é", "zero"]
        assert found.scores[-1] == 0
        (nothing,) = backend.search(SearchRequest(0 * vector[None], (Stage(DIM, 10),)))
        assert [row.id for row in nothing.rows] == sorted(row.id for row in rows)
        assert not nothing.scores.any()


@pytest.mark.parametrize("kind", ["none", "scalar", "binary", "turbo"])
def test_a_funnel_over_http_equals_the_core_s(server: QdrantServer, kind: str) -> None:
    stages = (Stage(COARSE, 300), Stage(12, 15), Stage(DIM, 7))
    with connect(server, 300, coarse_quantization=kind) as backend, open_backend("memory:") as memory:
        memory.write_manifest(manifest(FUNNEL), None)
        memory.upsert(batch_of(random_rows(300)))
        for asked in (None, parse_filter({"third": True}), parse_filter({"n": {"$gte": 250}})):
            request = SearchRequest(queries(5), stages, asked)
            for ours, oracle in zip(backend.search(request), memory.search(request), strict=True):
                assert [row.id for row in ours.rows] == [row.id for row in oracle.rows]
                np.testing.assert_allclose(ours.scores, oracle.scores, atol=1e-5)
        assert backend.stats().details["coarse_quantization"] == kind
    vectors = server.collections["default"].settings["vectors"]
    assert vectors["full"]["memory"] == "cold" and vectors["full"]["on_disk"] is True
    assert set(vectors["coarse"].get("quantization_config", {"none": 0})) == {kind}
    with connect(server) as again:
        assert again.stats().details["coarse_quantization"] == kind
