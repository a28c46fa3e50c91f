"""The qdrant backend against a real server, where MRL_QDRANT_URL names one."""

from __future__ import annotations

import numpy as np
import pytest

from mrl_retrieval.documents import Row
from mrl_retrieval.errors import (
    FilterError,
)
from mrl_retrieval.filters import parse_filter
from mrl_retrieval.scoring import exact_search
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.backends.common import COARSE, DIM, batch_of, queries, random_rows
from tests.backends.qdrant.checking import NUMBERS, TEXTS, check_filter
from tests.backends.qdrant.helpers import filled


@pytest.mark.parametrize("prefer_grpc", [False, True])
def test_a_live_server_agrees_with_the_core(live: str, prefer_grpc: bool) -> None:
    rows = random_rows(500)
    odd = [{"v": v} for v in [*NUMBERS, *TEXTS, None, True, [], [1], {}, {"k": None}]]
    rows += [Row(f"odd-{i}", None, meta, None) for i, meta in enumerate(odd)]
    with filled(live, prefer_grpc=prefer_grpc, index_fields={"n": "integer"}) as backend:
        backend.upsert(batch_of(rows))
        back = backend.get([row.id for row in rows])
        assert [repr(row and row.metadata) for row in back] == [repr(row.metadata) for row in rows]
        asked = [{"v": {"$eq": value["v"]}} for value in odd] + [{"n": {"$gte": 490}}, {"n": {"$lt": 3.5}}]
        asked += [{"v": {"$exists": True}}, {"v": {"$is_empty": True}}, {"v": {"$contains": 1}}, {"third": False}]
        for each in asked:
            check_filter(backend, parse_filter(each), rows)
            check_filter(backend, parse_filter({"$not": each}), rows)
        with pytest.raises(FilterError):
            backend.count(parse_filter({"v": {"$gt": 1}}))
        full = np.stack([row.vector for row in rows if row.vector is not None])
        truth = exact_search(queries(3), full, [row.id for row in rows[:500]], 10)
        for stages in ((Stage(DIM, 10),), (Stage(COARSE, 500), Stage(DIM, 10))):
            for found, (ids, scores) in zip(backend.search(SearchRequest(queries(3), stages)), truth, strict=True):
                assert [row.id for row in found.rows] == ids
                np.testing.assert_allclose(found.scores, scores, atol=1e-5)
        assert backend.delete(["id-0", "unknown"]) == 1
        assert backend.stats().vectors == 499
