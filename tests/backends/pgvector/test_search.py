"""All stages in one statement, and the indexes it uses."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'mrl-retrieval[pgvector]'")

import psycopg
from psycopg import sql

from mrl_retrieval.documents import Row
from mrl_retrieval.filters import parse_filter
from mrl_retrieval.matryoshka import prefix
from mrl_retrieval.scoring import exact_search
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.backends.common import DIM, batch_of
from tests.backends.pgvector.helpers import COARSE, Connect, plan, rows, steps, vectors


class TestOneStatement:
    N = 5000

    @pytest.mark.parametrize("quantization", ["none", "halfvec", "binary"])
    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_the_graph_answers_and_its_answer_is_rescored(self, made: Connect, quantization: str, dtype: str) -> None:
        backend = made(coarse_quantization=quantization, fine_dtype=dtype, oversampling=10)
        stored = rows(self.N)
        backend.upsert(batch_of(stored))
        planned = plan(backend, quantized=10 if quantization == "binary" else 1)
        assert "Index Scan using" in steps(planned, "graph") and "Order By" in steps(planned, "graph"), planned
        assert "never executed" in steps(planned, "flat"), planned
        full = np.array([row.vector for row in stored])
        queries = vectors(8, 5)
        ids = [row.id for row in stored]
        truth = exact_search(queries, full, ids, 10)
        found = backend.search(SearchRequest(queries, (Stage(COARSE, 400), Stage(16, 100), Stage(DIM, 10))))
        shares = []
        for ranking, (expected, _), query in zip(found, truth, queries, strict=True):
            shares.append(len({row.id for row in ranking.rows} & set(expected)) / 10)
            for row, score in zip(ranking.rows, ranking.scores, strict=True):
                assert score == pytest.approx(
                    float(query @ full[int(row.id[2:])]), abs=1e-3 if dtype == "float16" else 1e-5
                )
        assert np.mean(shares) > (0.5 if quantization == "binary" else 0.95)  # 8 dims are but 8 bits
        coarse = backend.coarse_search(prefix(queries, COARSE), 50, None)
        for got, (expected, scores) in zip(
            coarse, exact_search(prefix(queries, COARSE), prefix(full, COARSE), ids, 50), strict=True
        ):
            assert len(got.ids) == 50 and got.scores.dtype == np.float32
            if quantization != "binary":
                assert len(set(got.ids) & set(expected)) >= 48
                assert np.allclose(got.scores[:5], scores[:5], atol=1e-3)

    def test_a_selective_filter_uses_the_index_of_metadata(self, made: Connect) -> None:
        backend = made()
        stored = [
            replace(row, metadata={"i": i, "rare": i % 500, "tags": [f"t{i % 500}"]})
            for i, row in enumerate(rows(self.N))
        ]
        backend.upsert(batch_of(stored))
        for asked in (
            {"rare": 7},
            {"tags": {"$contains": "t7"}},
            {"rare": {"$in": [7, 8]}},
            {"rare": {"$any": [1]}},
            {"gone": {"$exists": True}},
        ):
            planned = plan(backend, asked)
            assert "Bitmap Index Scan" in planned and "kinds_idx" in planned, planned

    def test_all_that_match_come_back_where_the_graph_gives_up(self, made: Connect) -> None:
        """The planner is made to take the graph, and the graph to stop at its first try."""
        only_graph = {"options": "-c enable_bitmapscan=off -c enable_seqscan=off -c enable_sort=off"}
        backend = made(iterative_scan="off", ef_search=10, connection=only_graph)
        full = vectors(self.N)
        far = set(np.argsort(full @ full[0])[:40].tolist())
        backend.upsert(batch_of([Row(f"id{i}", None, {"far": i in far}, v) for i, v in enumerate(full)]))
        planned = plan(backend, {"far": True})
        assert "Order By" in steps(planned, "graph") and "never executed" not in steps(planned, "flat"), planned
        (found,) = backend.coarse_search(prefix(full[:1], COARSE), 25, parse_filter({"far": True}))
        kept = sorted(far)
        ((expected, scores),) = exact_search(
            prefix(full[:1], COARSE), prefix(full[kept], COARSE), [f"id{i}" for i in kept], 25
        )
        assert len(found.ids) == 25 and np.allclose(found.scores, scores, atol=1e-6)
        assert set(found.ids[:20]) == set(expected[:20])
        (found,) = backend.coarse_search(prefix(full[:1], COARSE), 100, parse_filter({"far": True}))
        assert set(found.ids) == {f"id{i}" for i in far}

    def test_no_worker_is_started_for_what_is_not_run(self, made: Connect) -> None:
        """Starting parallel workers takes longer than a search by the graph."""
        eager = "-c parallel_setup_cost=0 -c parallel_tuple_cost=0 -c min_parallel_table_scan_size=0"
        backend = made(connection={"options": eager})
        backend.upsert(batch_of(rows(self.N)))
        planned = plan(backend)
        assert "Order By" in steps(planned, "graph"), planned
        assert re.search(r"Gather Merge .*\(never executed\)", steps(planned, "flat")), planned
        assert set(re.findall(r"Workers Launched: (\d+)", planned)) == {"0"}, planned

    def test_deleted_rows_leave_no_hole(self, made: Connect) -> None:
        backend = made(ef_search=10)
        full = vectors(2000)
        backend.upsert(batch_of([Row(f"id{i}", None, {}, v) for i, v in enumerate(full)]))
        near = np.argsort(-(prefix(full, COARSE) @ prefix(full[:1], COARSE)[0]))[:1900]
        assert backend.delete([f"id{i}" for i in near]) == 1900
        (found,) = backend.coarse_search(prefix(full[:1], COARSE), 100, None)
        assert len(found.ids) == 100

    def test_zero_vectors_are_candidates(self, made: Connect) -> None:
        for quantization in ("none", "halfvec", "binary"):
            for dtype in ("float32", "float16"):
                backend = made(f"{quantization}-{dtype}", coarse_quantization=quantization, fine_dtype=dtype)
                tail = np.zeros(DIM, np.float32)
                tail[-1] = 1.0
                stored = [
                    Row("zero", None, {}, np.zeros(DIM, np.float32)),
                    Row("tail", None, {}, tail),
                    Row("none", None),
                ]
                backend.upsert(batch_of(stored))
                for query in (tail, np.zeros(DIM, np.float32)):
                    for stages in ((Stage(COARSE, 5), Stage(DIM, 5)), (Stage(DIM, 5),)):
                        (ranking,) = backend.search(SearchRequest(query[None], stages))
                        scores = {row.id: float(s) for row, s in zip(ranking.rows, ranking.scores, strict=True)}
                        assert scores == {"tail": float(query[-1]), "zero": 0.0}
                assert backend.search(SearchRequest(tail[None], (Stage(DIM, 5),)))[0].rows[1].id == "zero"

    @pytest.mark.parametrize(
        ("quantization", "dtype"),
        [("none", "float32"), ("none", "float16"), ("halfvec", "float16"), ("binary", "float32")],
    )
    def test_a_collection_without_a_column_of_prefixes(
        self, made: Connect, connect: Connect, superuser: psycopg.Connection[Any], quantization: str, dtype: str
    ) -> None:
        """As they were once made: the graph is over an expression. It answers as one that is made today."""
        today = made("today", coarse_quantization=quantization, fine_dtype=dtype)
        backend = made("old", coarse_quantization=quantization, fine_dtype=dtype)
        old = replace(backend._session.layout.settings, stored_prefix=False)
        layout = replace(backend._session.layout, settings=old)
        text = json.dumps({name: value for name, value in asdict(old).items() if name != "stored_prefix"})
        for query in (
            sql.SQL("ALTER TABLE {} DROP COLUMN coarse").format(layout.table),
            sql.SQL("CREATE INDEX ON {} USING hnsw (({}) {}) WITH (m = 16, ef_construction = 128)").format(
                layout.table, layout.graph_key(layout.name), layout.operator_class
            ),
            sql.SQL("UPDATE {} SET settings = {} WHERE name = 'old'").format(
                sql.Identifier(layout.schema, "mrl_collections"), text
            ),
        ):
            superuser.execute(query)
        backend = connect("old")
        backend.read_manifest()
        assert backend._session.layout == layout
        stored = rows(1000)
        for each in (today, backend):
            each.upsert(batch_of(stored))
        planned = plan(backend)
        assert "l2_normalize" in steps(planned, "graph") or quantization == "binary", planned
        assert "Order By" in steps(planned, "graph") and "never executed" in steps(planned, "flat"), planned
        for filter in (None, {"i": {"$lt": 40}}):
            for stages in ((Stage(COARSE, 1000), Stage(12, 100), Stage(DIM, 10)), (Stage(DIM, 10),)):
                request = SearchRequest(vectors(5, 8), stages, parse_filter(filter))
                for one, other in zip(today.search(request), backend.search(request), strict=True):
                    assert [row.id for row in one.rows] == [row.id for row in other.rows]
                    assert np.allclose(one.scores, other.scores, atol=1e-6)
        assert backend.stats().rows == today.stats().rows == 1000

    def test_answers_are_right_while_there_is_no_graph(self, made: Connect, superuser: psycopg.Connection[Any]) -> None:
        """For a large load, a user may drop it, and make it again afterwards."""
        backend = made()
        table = backend._session.layout.table.as_string()
        query = (
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = %s::regclass"
        )
        ((name, definition),) = [row for row in superuser.execute(query, [table]) if "USING hnsw" in row[1]]
        assert "_coarse_idx" in name
        superuser.execute(sql.SQL("DROP INDEX {}").format(sql.SQL(name)))
        stored = rows(600)
        backend.upsert(batch_of(stored))
        full, ids = np.array([row.vector for row in stored]), [row.id for row in stored]
        assert backend.stats().rows == 600
        for then in (sql.SQL(definition), None):
            (found,) = backend.coarse_search(prefix(vectors(1, 6), COARSE), 20, None)
            ((expected, scores),) = exact_search(prefix(vectors(1, 6), COARSE), prefix(full, COARSE), ids, 20)
            assert np.allclose(found.scores, scores, atol=1e-6) and found.ids[:5] == expected[:5]
            if then is not None:
                superuser.execute(then)
        assert "Order By" in steps(plan(backend), "graph")
