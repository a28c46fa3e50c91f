"""A whole search: on one version of the table whatever others write, in few requests, and equal to the oracle."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lancedb", reason="lancedb is not installed: pip install 'mrl-retrieval[lancedb]'")

from lancedb.db import LanceDBConnection
from lancedb.table import LanceTable

from mrl_adapters._lancedb import search as searches
from mrl_adapters._lancedb import snapshot as snapshots
from mrl_adapters._lancedb import upkeep
from mrl_adapters.lancedb import LanceDBBackend
from mrl_retrieval.documents import Row
from mrl_retrieval.filters import Filter, IdIn, matches, parse_filter
from mrl_retrieval.matryoshka import prefix
from mrl_retrieval.registry import open_backend
from mrl_retrieval.scoring import exact_search
from mrl_retrieval.two_stage import Ranking, SearchRequest, Stage
from tests.backends.lancedb.helpers import COARSE, DIM, MANIFEST, batch, made, rows, vectors

LONG = IdIn(frozenset(f"id{i}" for i in range(1500)))
FILTERS = [
    None,
    {"third": 1},
    {"i": {"$lt": 60}},
    {"i": {"$in": [3, 5]}},
    {"word": {"$text": "text 1"}},
    {"no": 1},
    LONG,
]


def request(n: int, k: int, candidates: int, filter: Any = None, **options: Any) -> SearchRequest:
    parsed = filter if isinstance(filter, IdIn) else parse_filter(filter)
    return SearchRequest(vectors(n, seed=7), (Stage(COARSE, candidates), Stage(DIM, k)), parsed, **options)


def exactly(n: int, k: int) -> SearchRequest:
    return SearchRequest(vectors(n, seed=7), (Stage(DIM, k),))


def oracle(stored: list[Row], asked: SearchRequest) -> list[tuple[list[str], Any]]:
    """Two stages by hand."""
    kept = [row for row in stored if row.vector is not None and matches_all(asked.filter, row)]
    if not kept:
        return [([], np.empty(0))] * len(asked.vectors)
    full, ids = np.array([row.vector for row in kept]), [row.id for row in kept]
    answers = []
    for query in asked.vectors:
        limit = asked.stages[0].limit
        (first,) = exact_search(query[None], full, ids, limit, dim=asked.stages[0].dims)
        among = [ids.index(id) for id in first[0]]
        answers += exact_search(query[None], full[among], first[0], asked.k)
    return answers


def matches_all(filter: Filter | None, row: Row) -> bool:
    return filter is None or matches(filter, row.id, row.metadata)


def check(rankings: list[Ranking], expected: list[tuple[list[str], Any]], stored: list[Row]) -> None:
    by_id = {row.id: row for row in stored}
    for ranking, (ids, scores) in zip(rankings, expected, strict=True):
        assert [row.id for row in ranking.rows] == ids
        np.testing.assert_allclose(ranking.scores, scores, atol=2e-6)
        for row in ranking.rows:
            assert (row.document, row.metadata) == (by_id[row.id].document, by_id[row.id].metadata)
            assert row.vector is None


class TestOracle:
    @pytest.mark.parametrize("filter", FILTERS, ids=lambda f: "ids" if f is LONG else str(f))
    @pytest.mark.parametrize("queries", [1, 3, 9])
    @pytest.mark.parametrize("few", [0, 128, 10_000])
    def test_a_search_equals_two_stages_by_hand(
        self, memory: LanceDBBackend, monkeypatch: pytest.MonkeyPatch, filter: Any, queries: int, few: int
    ) -> None:
        """However many matching rows are read at once: the candidates are as many as were asked for."""
        monkeypatch.setattr(upkeep, "_SCALARS_FROM", 1)
        monkeypatch.setattr(searches, "_FEW", few)
        if few == 10_000:
            monkeypatch.setattr(searches, "_FULL_AT_ONCE", 0)
        worded = [replace(row, metadata=row.metadata | {"word": row.document}) for row in rows(500)]
        stored = [*worded, Row("bare", "text 1", {"third": 1, "i": 5}, None), Row("empty", None, {}, None)]
        memory.upsert(batch(stored))
        memory.flush()
        for candidates, k in ((20, 20), (30, 4), (1000, 500)):
            asked = request(queries, k, candidates, filter)
            found = memory.search(asked)
            check(found, oracle(stored, asked), stored)
            coarse = prefix(asked.vectors, COARSE)
            for query, ranking in zip(coarse, found, strict=True):
                short = prefix(np.array([vectors(500)[int(row.id[2:])] for row in ranking.rows] or [query]), COARSE)
                assert ranking.coarse_scores is not None
                np.testing.assert_allclose(ranking.coarse_scores, (short @ query)[: len(ranking.rows)], atol=2e-6)

    def test_a_funnel_and_what_explain_tells(self, memory: LanceDBBackend) -> None:
        stored = rows(400)
        memory.upsert(batch(stored))
        stages = (Stage(COARSE, 400), Stage(16, 400), Stage(DIM, 7))
        asked = SearchRequest(vectors(2, seed=7), stages, None, explain=True)
        found = memory.search(asked)
        check(found, exact_search(asked.vectors, vectors(400), [row.id for row in stored], 7), stored)
        assert found[0].trace is not None and [stage.candidates_out for stage in found[0].trace.stages] == [400, 400, 7]

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_exact(self, dtype: str) -> None:
        with made("lancedb:", fine_dtype=dtype) as backend:
            backend.upsert(batch(rows(400)))
            stored = [row for part in backend.scan(vectors=True) for row in part.rows()]
            full = np.array([row.vector for row in stored])
            for queries in (1, 9):
                asked = exactly(queries, 11)
                check(backend.search(asked), exact_search(asked.vectors, full, [r.id for r in stored], 11), stored)

    def test_an_empty_collection(self, memory: LanceDBBackend) -> None:
        for asked in (
            request(2, 3, 9),
            request(2, 3, 9, {"a": 1}),
            request(2, 3, 9, {"b": {"$text": "a"}}),
            exactly(2, 3),
        ):
            assert [ranking.rows for ranking in memory.search(asked)] == [[], []]


class TestOneVersion:
    def test_rows_removed_between_the_stages_are_hits_still(
        self, memory: LanceDBBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stored = rows(300)
        memory.upsert(batch(stored))
        nearest, exact = snapshots.Snapshot.nearest, snapshots.Snapshot.exactly

        def then_delete(search: Any) -> Any:
            def searching(self: Any, *args: Any, **kwargs: Any) -> Any:
                found = search(self, *args, **kwargs)
                memory.delete([id for each in found for id in each.ids])
                memory.flush()
                return found

            return searching

        monkeypatch.setattr(snapshots.Snapshot, "nearest", then_delete(nearest))
        monkeypatch.setattr(snapshots.Snapshot, "exactly", then_delete(exact))
        for asked in (request(1, 5, 20), request(1, 5, 20, {"third": 1}), request(5, 5, 20), exactly(1, 5)):
            memory.upsert(batch(stored))
            found = memory.search(asked)
            expected = oracle(stored, asked) if len(asked.stages) == 2 else None
            if expected is not None:
                check(found, expected, stored)
            assert [len(ranking.rows) for ranking in found] == [5] * len(found)
        assert memory.count() < 300

    @pytest.mark.parametrize("options", [{"index": "flat"}, {"index": "ivf", "index_threshold": 256}], ids=str)
    def test_searches_beside_deletes_have_all_their_hits(self, tmp_path: Path, options: dict[str, Any]) -> None:
        """At every moment at least 150 rows match; each half is of one round at a time."""
        address = f"lancedb:{tmp_path}"
        halves = {name: [f"{name}{i}" for i in range(150)] for name in ("left", "right")}

        def half(name: str, round: int) -> list[Row]:
            full = vectors(150, seed=len(name))
            return [
                Row(id, f"{id} {round}", {"half": name, "round": round, "all": True}, v)
                for id, v in zip(halves[name], full, strict=True)
            ]

        with made(address, **options) as backend, open_backend(address) as other:
            for name in halves:
                backend.upsert(batch(half(name, 0)))
            stop, failures, seen = threading.Event(), list[BaseException](), list[int]()

            def write() -> None:
                try:
                    for round in range(1, 25):
                        for name, ids in halves.items():
                            assert other.delete(ids) == 150
                            other.upsert(batch(half(name, round)))
                except BaseException as error:
                    failures.append(error)
                finally:
                    stop.set()

            def search() -> None:
                try:
                    while not stop.is_set():
                        for one in asked:
                            for ranking in backend.search(one):
                                seen.append(len(ranking.rows))
                                rounds = {(row.metadata["half"], row.metadata["round"]) for row in ranking.rows}
                                assert len(rounds) == len({name for name, _ in rounds})
                                assert len(ranking.rows) == 100 or (one is only_left and not ranking.rows)
                except BaseException as error:
                    failures.append(error)
                    stop.set()

            only_left = request(1, 100, 100, {"half": {"$text": "left"}})
            asked = [
                request(1, 100, 100),
                request(2, 100, 140, {"all": True}),
                request(5, 100, 120, {"round": {"$gte": 0}}),
                only_left,
                exactly(1, 100),
            ]
            threads = [threading.Thread(target=target) for target in (write, search, search)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not failures, failures[0]
            assert seen


class TestRequests:
    def test_one_look_for_the_newest_version_and_two_queries(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made_: dict[str, int] = {}

        def counted(owner: type, name: str) -> None:
            real = getattr(owner, name)

            def call(*args: Any, **kwargs: Any) -> Any:
                made_[name] = made_.get(name, 0) + 1
                return real(*args, **kwargs)

            monkeypatch.setattr(owner, name, call)

        with made(f"lancedb:{tmp_path}", index="ivf", index_threshold=256) as backend:
            backend.upsert(batch(rows(2500)))
            backend.flush()
            backend.search(request(1, 5, 50))
            counted(LanceDBConnection, "open_table")
            for name in ("checkout_latest", "_execute_query", "take_row_ids"):
                counted(LanceTable, name)
            for filter in (None, {"third": 1}, {"i": 9}):
                made_.clear()
                assert backend.search(request(1, 5, 50, filter))[0].rows
                assert made_ == {"checkout_latest": 1, "_execute_query": 1, "take_row_ids": 1}

    def test_what_others_commit_is_found_by_the_next_search(self, tmp_path: Path) -> None:
        with made(f"lancedb:{tmp_path}") as a, open_backend(f"lancedb:{tmp_path}") as b:
            a.upsert(batch(rows(50)))
            for i in range(20):
                new = Row("new", f"round {i}", {"i": i}, vectors(1, seed=7)[0])
                a.upsert(batch([new]))
                for filter in (None, {"i": i}):
                    first = b.search(request(1, 1, 10, filter))[0].rows[0]
                    assert (first.id, first.document) == ("new", f"round {i}")
                assert a.delete(["new"]) == 1
                assert b.search(request(1, 50, 60))[0].rows[0].id != "new"

    def test_a_search_meets_a_collection_dropped_and_made_anew(self, tmp_path: Path) -> None:
        with made(f"lancedb:{tmp_path}") as a, open_backend(f"lancedb:{tmp_path}") as b:
            for n in (30, 7, 12):
                a.upsert(batch(rows(n)))
                assert len(b.search(request(1, 50, 50))[0].rows) == n
                a.drop()
                a.write_manifest(MANIFEST, None)
