"""A server whose strict mode forbids what the qdrant backend would ask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mrl_adapters.qdrant import QdrantBackend
from mrl_retrieval.documents import Row
from mrl_retrieval.errors import (
    BackendError,
    BackendUnavailable,
)
from mrl_retrieval.filters import IdIn, parse_filter
from mrl_retrieval.matryoshka import prefix
from mrl_retrieval.registry import open_backend
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.backends.common import COARSE, DIM, batch_of, manifest, queries, random_rows
from tests.backends.qdrant.helpers import TWO_STAGES, connect, counted
from tests.qdrant_server import QdrantServer


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"search_allow_exact": False}, "This is search_allow_exact .* search without exact=True"),
        ({"search_max_hnsw_ef": 100}, "400 > 100.*This is search_max_hnsw_ef .* smaller hnsw_ef="),
        ({"search_max_oversampling": 1.5}, "This is search_max_oversampling .* smaller oversampling="),
        ({"max_query_limit": 20}, "This is max_query_limit .* smaller coarse_top_k and top_k"),
        ({"upsert_max_batchsize": 5}, "This is upsert_max_batchsize .* smaller batch_size="),
    ],
)
def test_strict_mode_is_explained_by_its_setting(server: QdrantServer, limits: dict[str, Any], words: str) -> None:
    with connect(server, 5, coarse_quantization="scalar") as backend:
        server.strict = limits
        with pytest.raises(BackendError, match=words) as caught:
            if "search_allow_exact" in limits:
                backend.search(SearchRequest(queries(1), (Stage(DIM, 5),)))
            elif "upsert_max_batchsize" in limits:
                backend.upsert(batch_of(random_rows(6)))
            else:
                backend.search(SearchRequest(queries(1), TWO_STAGES))
        assert not isinstance(caught.value, BackendUnavailable)
    with connect(server, hnsw_ef=100, oversampling=1.5) as obeying:
        if set(limits) & {"search_max_hnsw_ef", "search_max_oversampling"}:
            assert len(obeying.search(SearchRequest(queries(1), TWO_STAGES))[0].rows) == 5


@pytest.mark.parametrize(
    ("said", "setting"),
    [
        ('Index required but not found for "metadata.year" of one of the following types: [float]. Help: Create an '
         "index for this key or use a different filter.", "unindexed_filtering_retrieve"),
        ("Filter condition limit reached (9 > 4). Help: Reduce the amount of conditions of your filter.",
         "filter_max_conditions"),
        ("Condition size limit reached (900 > 4). Help: Reduce the size of your condition.", "condition_max_size"),
        ("Max vector storage size limit of 1MB reached!", "max_collection_vector_size_bytes"),
        ('Limit exceeded 9 > 4 for "search batch size". Help: Reduce it.', "search_max_batchsize"),
        ("Something new. Help: Do not.", "strict mode"),
    ],
)  # fmt: skip
def test_every_strict_mode_setting_is_known_by_its_words(said: str, setting: str) -> None:
    with open_backend("qdrant+http://127.0.0.1:1") as backend:
        assert isinstance(backend, QdrantBackend)
        error = backend._connection._failures._refused("searching", 400, f"400 Bad request: {said}")
    assert type(error) is BackendError
    assert said in str(error) and setting in str(error)


def test_who_asks_for_all_candidates_is_not_refused_for_it(server: QdrantServer) -> None:
    """The graph is left out then, which nobody asked for: where that is forbidden, it is gone over."""
    everything = (Stage(COARSE, 1000), Stage(DIM, 5))
    with connect(server, 300) as backend, open_backend("memory:") as memory:
        memory.write_manifest(manifest(), None)
        memory.upsert(batch_of(random_rows(300)))
        server.strict = {"search_allow_exact": False}
        for _ in range(2):
            request = SearchRequest(queries(3), everything)
            for ours, oracle in zip(backend.search(request), memory.search(request), strict=True):
                assert [row.id for row in ours.rows] == [row.id for row in oracle.rows]
        with pytest.raises(BackendError, match="search without exact=True"):
            backend.search(SearchRequest(queries(1), (Stage(DIM, 5),)))
        server.strict = {"search_max_hnsw_ef": 100}
        with pytest.raises(BackendError, match="search_max_hnsw_ef"):
            backend.search(SearchRequest(queries(1), everything))


@pytest.mark.parametrize("limits", [{}, {"search_allow_exact": False}])
def test_with_a_filter_all_hits_come_also_where_the_graph_may_not_be_left_out(
    server: QdrantServer, limits: dict[str, Any]
) -> None:
    """Then what matches is read page by page, no page of it larger than the query was allowed to be."""
    rows = [*random_rows(300), Row("bare", None, {"third": True}, None)]
    some = parse_filter({"third": True})  # 100 with a vector
    listed = IdIn(frozenset(row.id for row in rows[::2]))
    with connect(server) as backend, open_backend("memory:") as memory:
        memory.write_manifest(manifest((12,)), None)
        for each in (backend, memory):
            each.upsert(batch_of(rows))
        server.strict, server.thinned = limits | {"max_query_limit": 70}, 9
        for filter in (some, listed):
            for limit in (10, 40, 70):
                found = backend.coarse_search(prefix(queries(3), COARSE), limit, filter)
                truth = memory.coarse_search(prefix(queries(3), COARSE), limit, filter)
                for ours, oracle in zip(found, truth, strict=True):
                    assert ours.ids == oracle.ids
                    np.testing.assert_allclose(ours.scores, oracle.scores, atol=1e-5)
            for stages in ((Stage(COARSE, 40), Stage(12, 30), Stage(DIM, 20)), (Stage(COARSE, 40), Stage(DIM, 5))):
                for explain in (False, True):
                    request = SearchRequest(queries(3), stages, filter, explain=explain)
                    for mine, right in zip(backend.search(request), memory.search(request), strict=True):
                        assert len(mine.rows) == stages[-1].limit
                        if stages[-1].limit > server.thinned:
                            assert [row.id for row in mine.rows] == [row.id for row in right.rows]
        # Fewer match than are asked for.
        for filter, n in ((parse_filter({"n": {"$lt": 30}}), 30), (parse_filter({"n": -1}), 0)):
            found = backend.coarse_search(prefix(queries(2), COARSE), 70, filter)
            assert [len(each.ids) for each in found] == [n, n]


def test_refusals_other_than_of_exactness_are_raised(server: QdrantServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(server, 300) as backend:
        server.thinned = 9
        ask = backend._query_batch

        def refuse(requests: list[Any]) -> Any:
            if requests[0].get("params", {}).get("exact"):
                raise BackendError("disk")
            return ask(requests)

        monkeypatch.setattr(backend, "_query_batch", refuse)
        with pytest.raises(BackendError, match="disk"):
            backend.coarse_search(prefix(queries(1), COARSE), 20, parse_filter({"third": True}))


def test_an_exact_search_that_is_refused_is_asked_once(server: QdrantServer) -> None:
    with connect(server, 3) as backend:
        server.strict = {"search_allow_exact": False}
        doing = counted(backend)
        with pytest.raises(BackendError, match="search_allow_exact"):
            backend.search(SearchRequest(queries(1), (Stage(DIM, 5),)))
        assert doing == ["searching"]
