"""Approximate where the graph is searched, exact where it can be, and complete in any case."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("chromadb", reason="chromadb is not installed: pip install 'mrl-retrieval[chroma]'")

from chromadb.errors import InternalError

from mrl_adapters._chroma import search as _chroma_search
from mrl_adapters.chroma import ChromaBackend
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.filters import IdIn, parse_filter
from mrl_retrieval.matryoshka import prefix
from mrl_retrieval.scoring import exact_search
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.backends.chroma.helpers import Failing, made, rows, vectors
from tests.backends.common import COARSE, DIM, batch_of


def test_the_two_stages_over_all_rows_are_the_exact_answer(opener: Callable[[], str]) -> None:
    stored = rows(300)
    queries = vectors(7, seed=1)
    with made(opener()) as backend:
        backend.upsert(batch_of(stored))
        full = np.array([row.vector for row in stored])
        expected = exact_search(queries, full, [row.id for row in stored], 10)
        for stages in [(Stage(COARSE, 300), Stage(DIM, 10)), (Stage(DIM, 10),)]:
            got = backend.search(SearchRequest(queries, stages))
            for ranking, (ids, scores) in zip(got, expected, strict=True):
                assert [row.id for row in ranking.rows] == ids
                np.testing.assert_allclose(ranking.scores, scores, atol=1e-6)
                assert ranking.rows[0].document == f"text {ids[0][2:]}"


def test_coarse_scores_are_the_cosines_of_the_prefixes(opener: Callable[[], str]) -> None:
    stored, query = rows(50), prefix(vectors(2, seed=3), COARSE)
    with made(opener()) as backend:
        backend.upsert(batch_of(stored))
        short = prefix(np.array([row.vector for row in stored]), COARSE)
        expected = exact_search(query, short, [row.id for row in stored], 20)
        for got, (ids, scores) in zip(backend.coarse_search(query, 20, None), expected, strict=True):
            assert got.ids == ids
            np.testing.assert_allclose(got.scores, scores, atol=1e-6)


def test_equal_vectors_do_not_hide_the_others(memory: ChromaBackend) -> None:
    """A graph over thousands of equal points falls apart; everything must be found nonetheless."""
    n = 3000
    full = np.zeros((n, DIM), dtype=np.float32)
    full[:10, 0] = 1
    full[10, 1] = 1
    ids = [f"{i:04d}" for i in range(n)]
    stored = RowBatch(ids, [None] * n, [{"even": i % 2 == 0} for i in range(n)], full, np.ones(n, bool))
    memory.upsert(stored)
    query = np.eye(COARSE, dtype=np.float32)[:1]
    for filter, expected in (
        (None, ids),
        (parse_filter({"even": True}), ids[::2]),
        (IdIn(frozenset(ids[::2])), ids[::2]),
    ):
        found = memory.coarse_search(query, n, filter)[0]
        assert sorted(found.ids) == expected
        assert (found.scores[:5] == 1).all()


def test_more_candidates_than_chroma_can_count(opener: Callable[[], str]) -> None:
    query = vectors(2, seed=3)
    with made(opener()) as backend:
        for stored in ([], rows(1200)):
            backend.upsert(batch_of(stored)) if stored else None
            for filter in (
                None,
                parse_filter({"third": {"$in": [0, 1, 2]}}),
                IdIn(frozenset(r.id for r in stored)),
            ):
                for stages in [(Stage(COARSE, 10**20), Stage(DIM, 10**20)), (Stage(DIM, 10**20),)]:
                    for ranking in backend.search(SearchRequest(query, stages, filter)):
                        assert len(ranking.rows) == len(stored)


def test_small_collections_are_searched_exactly(memory: ChromaBackend) -> None:
    full = np.zeros((900, DIM), dtype=np.float32)
    full[700:705, 0] = 1
    ids = [f"{i:04d}" for i in range(900)]
    memory.upsert(RowBatch(ids, [None] * 900, [{}] * 900, full, np.ones(900, bool)))
    assert memory.coarse_search(np.eye(COARSE, dtype=np.float32)[:1], 5, None)[0].ids == ids[700:705]


def test_an_empty_collection(memory: ChromaBackend) -> None:
    query = vectors(2)
    for stages in [(Stage(COARSE, 10), Stage(DIM, 5)), (Stage(DIM, 5),)]:
        assert [r.rows for r in memory.search(SearchRequest(query, stages))] == [[], []]
        filtered = SearchRequest(query, stages, parse_filter({"a": {"$gt": 1}}))
        assert [r.rows for r in memory.search(filtered)] == [[], []]
    assert memory.count() == 0 and list(memory.scan()) == [] and memory.delete(["a"]) == 0


@pytest.mark.parametrize(("part", "verb"), [("coarse", "query"), ("full", "get")])
def test_a_delete_in_the_middle_of_a_read_is_waited_out(memory: ChromaBackend, part: str, verb: str) -> None:
    """Chroma fails a read whose rows go between its look into SQLite and its look into the graph."""
    stored = rows(20)
    memory.upsert(batch_of(stored))
    whole = memory._pair()
    error = InternalError("Error executing plan: Internal error: Error finding id")
    memory._collections._pair = replace(whole, **{part: Failing(getattr(whole, part), verb, error)})
    query = stored[3].vector
    assert query is not None
    [ranking] = memory.search(SearchRequest(query[None, :], (Stage(COARSE, 10), Stage(DIM, 1))))
    assert ranking.rows[0].id == "id3"


def test_threads_write_and_read_at_once(memory: ChromaBackend) -> None:
    stored, errors = rows(200), []

    def work(start: int) -> None:
        try:
            for i in range(start, 200, 4):
                memory.upsert(batch_of([stored[i]]))
                [ranking] = memory.search(SearchRequest(stored[i].vector[None, :], (Stage(COARSE, 50), Stage(DIM, 1))))
                assert ranking.rows[0].id == stored[i].id
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert memory.count() == 200


class Watched:
    """A Chroma collection that keeps what it was asked for."""

    def __init__(self, collection: Any) -> None:
        self._collection = collection
        self.queries: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)

    def query(self, **asked: Any) -> Any:
        self.queries.append(asked)
        return self._collection.query(**asked)


@pytest.fixture
def watched(memory: ChromaBackend) -> Watched:
    """The coarse Chroma collection of 2,500 rows in memory."""
    memory.upsert(batch_of(rows(2500)))
    pair = memory._pair()
    watched = Watched(pair.coarse)
    memory._collections._pair = replace(pair, coarse=watched)
    return watched


def test_no_more_is_asked_for_than_is_needed(memory: ChromaBackend, watched: Watched) -> None:
    query = prefix(vectors(1, seed=4), COARSE)
    expected = exact_search(query, prefix(vectors(2500), COARSE), [f"id{i}" for i in range(2500)], 1500)[0][0]
    for limit, asked in [(10, 1000), (10, 10), (200, 200), (300, 600), (700, 1000), (1500, 1500), (10, 10)]:
        found = memory.coarse_search(query, limit, None)[0]
        assert watched.queries[-1]["n_results"] == asked
        assert len(set(found.ids) & set(expected[:limit])) > 0.99 * limit
    memory.delete([f"id{i}" for i in range(1600)])
    memory.coarse_search(query, 10, None)  # there may be few rows now, which are searched exactly
    assert watched.queries[-1]["n_results"] == 1000


def test_a_narrow_graph_is_searched_more_widely(memory: ChromaBackend, watched: Watched) -> None:
    memory._collections._pair = replace(memory._pair(), ef_search=50)
    query = prefix(vectors(1, seed=4), COARSE)
    for limit, asked in [(10, 1000), (10, 400), (200, 400), (300, 600), (1500, 1500)]:
        assert len(memory.coarse_search(query, limit, None)[0].ids) == limit
        assert watched.queries[-1]["n_results"] == asked


def test_few_that_match_are_scored_exactly(memory: ChromaBackend, watched: Watched) -> None:
    queries = prefix(vectors(3, seed=4), COARSE)
    full, n = vectors(2500), 0
    for matching in (0, 1, 9, 400, 500, 501, 2400):
        for filter in (parse_filter({"i": {"$lt": matching}}), IdIn(frozenset(f"id{i}" for i in range(matching)))):
            n += matching > 500
            found = memory.coarse_search(queries, 10, filter)
            expected = exact_search(queries, prefix(full[:matching], COARSE), [f"id{i}" for i in range(matching)], 10)
            for got, (ids, scores) in zip(found, expected, strict=True):
                assert got.ids == ids
                np.testing.assert_allclose(got.scores, scores, atol=1e-6)
            assert len(watched.queries) == n


def test_more_ids_than_a_request_takes(
    memory: ChromaBackend, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_chroma_search, "_IDS_PER_QUERY", 600)
    queries, ids = prefix(vectors(3, seed=4), COARSE), [f"id{i}" for i in range(2500)]
    expected = exact_search(queries, prefix(vectors(2500), COARSE), ids, 10)
    for filter in (parse_filter({"i": {"$gte": 0}}), IdIn(frozenset(ids))):
        watched.queries.clear()
        found = memory.coarse_search(queries, 10, filter)
        assert [c.ids for c in found] == [ids for ids, _ in expected]
        assert [len(asked["ids"]) for asked in watched.queries] == [600] * 4  # the last 100 are scored


def first_ids(n: int) -> list[str]:
    return [f"id{i}" for i in range(n)]


def asked_next(memory: ChromaBackend, watched: Watched) -> int:
    """How many results the next search for 10 candidates asks Chroma for: 1,000 where there may be so few rows."""
    memory.coarse_search(prefix(vectors(1, seed=4), COARSE), 10, None)
    return int(watched.queries[-1]["n_results"])


@pytest.mark.parametrize("way", ["delete", "upsert"])
@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_a_collection_that_becomes_small_is_searched_exactly_again(
    memory: ChromaBackend, watched: Watched, monkeypatch: pytest.MonkeyPatch, way: str, when: str
) -> None:
    """Also where a search is on its way when the rows go, or comes in the middle of that."""
    assert (asked_next(memory, watched), asked_next(memory, watched)) == (1000, 10)
    remove, query = watched._collection.delete, watched._collection.query

    def shrink() -> None:
        if way == "delete":
            memory.delete(first_ids(2000))
        else:
            memory.upsert(batch_of([Row(id, None, {}, None) for id in first_ids(2000)]))

    def removing(**which: Any) -> None:
        asked_next(memory, watched)
        remove(**which)

    def querying(**asked: Any) -> Any:
        monkeypatch.setattr(watched._collection, "query", query)
        answer = query(**asked)
        shrink()
        return answer

    if when == "during":
        monkeypatch.setattr(watched._collection, "delete", removing)
        shrink()
    elif when == "before":
        monkeypatch.setattr(watched._collection, "query", querying)
        asked_next(memory, watched)
    else:
        shrink()
    assert memory._pair().coarse.count() == 500
    assert asked_next(memory, watched) == 1000


def test_what_another_process_removed_is_noticed_at_the_next_reading_of_the_manifest(
    memory: ChromaBackend, watched: Watched
) -> None:
    assert (asked_next(memory, watched), asked_next(memory, watched)) == (1000, 10)
    watched._collection.delete(ids=first_ids(2000))
    memory.read_manifest()
    memory._collections._pair = replace(memory._pair(), coarse=watched)
    assert asked_next(memory, watched) == 1000
