"""Answers: exact scores of what is stored, ties, filters, and collections with nothing to find."""

from dataclasses import replace

import numpy as np
import pytest

from mrl_retrieval.errors import BackendError, DimensionError, FilterError
from mrl_retrieval.filters import IdIn, parse_filter
from mrl_retrieval.matryoshka import prefix
from mrl_retrieval.scoring import exact_search
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.backends.faiss.helpers import COARSE, DIM, exact, ids_of, rows, two_stages, vectors_of


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
@pytest.mark.parametrize("n", [1, 7, 500])
def test_scores_are_the_exact_cosines_of_the_stored_vectors(opened, address, manifest, dtype, n):
    backend = opened(address, fine_dtype=dtype)
    backend.write_manifest(manifest, None)
    vectors, queries = vectors_of(n), vectors_of(4, seed=9)
    ids = [f"d{i:03}" for i in range(n)]
    backend.upsert(rows(ids, vectors))
    stored = vectors.astype({"float16": "<f2"}.get(dtype, "<f4")).astype(np.float32)
    if dtype == "int8":
        scales = np.abs(vectors).max(axis=1, keepdims=True) / np.float32(127)
        stored = np.rint(vectors / scales) * scales
    expected = exact_search(queries, stored, ids, 10)
    coarse = dict(zip(ids, prefix(stored, COARSE) @ prefix(queries, COARSE).T, strict=True))
    for request in (two_stages(queries, 10, candidates=n + 5), exact(queries, 10)):
        for q, (ranking, (want, scores)) in enumerate(zip(backend.search(request), expected, strict=True)):
            assert [row.id for row in ranking.rows] == want
            np.testing.assert_allclose(ranking.scores, scores, atol=2e-6)
            assert ranking.trace is None
            if not request.exact:
                np.testing.assert_allclose(ranking.coarse_scores, [coarse[id][q] for id in want], atol=2e-6)
    got, found = backend.fetch_vectors([*ids[:3], "nobody"])
    np.testing.assert_array_equal(got[:-1], stored[:3])
    assert found.tolist() == [True] * min(n, 3) + [False] and not got[-1].any()


def test_ties_are_ordered_by_id_in_both_kinds_of_search(kb):
    same = np.repeat(vectors_of(1), 9, axis=0)
    kb.upsert(rows(["i", "c", "a", "h", "b", "g", "f", "e", "d"], same))
    kb.upsert(rows([f"z{i}" for i in range(40)], vectors_of(40, 3)))
    for request in (two_stages(same[:1], 4), exact(same[:1], 4)):
        ranking = kb.search(request)[0]
        assert [row.id for row in ranking.rows] == ["a", "b", "c", "d"]
        assert len(set(ranking.scores.tolist())) == 1
    assert kb.coarse_search(prefix(same[:1], COARSE), 3, None)[0].ids == sorted(
        kb.coarse_search(prefix(same[:1], COARSE), 3, None)[0].ids
    )


def test_explain(kb):
    kb.upsert(rows([f"d{i}" for i in range(30)]))
    queries = vectors_of(3, 5)
    request = SearchRequest(queries, (Stage(COARSE, 20), Stage(12, 8), Stage(DIM, 5)), None, True)
    trace = kb.search(request)[0].trace
    assert trace.queries == 3
    assert [(s.name, s.dims, s.candidates_in, s.candidates_out, s.bytes_read) for s in trace.stages] == [
        ("coarse", 6, 30, 20, 30 * 6 * 4), ("rerank", 12, 20, 8, 20 * DIM * 2), ("rerank", 24, 8, 5, 8 * DIM * 2),
    ]  # fmt: skip
    trace = kb.search(SearchRequest(queries, (Stage(DIM, 5),), None, True))[0].trace
    assert [(s.name, s.dims, s.candidates_in, s.candidates_out) for s in trace.stages] == [("exact", 24, 30, 5)]
    assert trace.stages[0].bytes_read >= 30 * DIM * 2


def test_nothing_to_find(kb):
    query = vectors_of(1)
    everything = [two_stages(query), exact(query), two_stages(query, filter={"n": 1}), exact(query, filter={"n": 1})]
    assert [ids_of(kb.search(request)) for request in everything] == [[[]]] * 4
    kb.upsert(rows(["a", "b"], bare=("a", "b")))
    assert [ids_of(kb.search(request)) for request in everything] == [[[]]] * 4
    assert kb.count() == 2 and kb.count(parse_filter({"n": 1})) == 1
    kb.upsert(rows(["c"]))
    assert [ids_of(kb.search(request)) for request in everything] == [[["c"]], [["c"]], [[]], [[]]]
    kb.delete(["c"])
    assert [ids_of(kb.search(request)) for request in everything] == [[[]]] * 4
    assert kb.search(two_stages(np.empty((0, DIM), np.float32))) == []


def test_filters_it_cannot_express_and_order_across_types(kb):
    kb.upsert(rows(["a", "b", "c"], metadatas=[{"n": 1}, {"n": 2**62}, {}]))
    query = vectors_of(1)
    assert set(ids_of(kb.search(two_stages(query, filter={"n": {"$lt": 10**30}})))[0]) == {"a", "b"}
    assert kb.count(parse_filter({"n": {"$lt": 10**30}})) == 2
    with pytest.raises(FilterError, match="row 'a' holds 1"):
        kb.search(two_stages(query, filter={"n": {"$lt": "x"}}))
    many = IdIn(frozenset({"c", *map(str, range(5000))}))
    assert ids_of(kb.search(replace(two_stages(query), filter=many))) == [["c"]]


def test_wrong_dims_are_not_searched_for(kb):
    kb.upsert(rows(["a"]))
    with pytest.raises(DimensionError):
        kb.coarse_search(np.zeros((1, COARSE - 1), np.float32), 1, None)


def test_after_closing(kb):
    kb.upsert(rows(["a"]))
    kb.close()
    kb.close()
    with pytest.raises(BackendError, match="was closed"):
        kb.search(two_stages(vectors_of(1)))


def test_stats(kb):
    kb.upsert(rows([f"d{i}" for i in range(10)], bare=("d9",)))
    kb.upsert(rows(["d0", "d1"]))
    kb.delete(["d2"])
    stats = kb.stats()
    assert (stats.bytes["coarse"], stats.details["index"]) == (None, "not made yet")
    kb.refresh()
    stats = kb.stats()
    assert (stats.rows, stats.vectors) == (9, 8)
    assert stats.bytes["coarse"] == 11 * COARSE * 4 and stats.bytes["fine"] == 64 + 11 * DIM * 2
    assert stats.bytes["rows"] > 4096
    assert stats.details == {
        "index": "flat, exact",
        "fine_dtype": "float16",
        "format_version": 2,
        "generation": 4,
        "tombstones": 3,
        "segments": 1,
    }


@pytest.mark.parametrize("most", [1, 30, 149, 150, 151, 300])
def test_any_share_of_the_rows_is_searched_through_a_filter(kb, opened, address, most):
    """A few places are given to FAISS as a list, many as a bitmap: also where the index begins before the store."""
    reader = opened(address)
    reader.read_manifest()
    vectors, query = vectors_of(300), vectors_of(2, 9)
    kb.upsert(rows([f"d{i:03}" for i in range(300)], vectors))
    reader.search(two_stages(query))
    kb.delete([f"d{i:03}" for i in range(40)])
    for _ in range(2):
        left = [i for i in range(40, 300) if i < most]
        expected = exact_search(query, vectors.astype(np.float16), [f"d{i:03}" for i in range(300)], 300)
        for backend in (kb, reader):
            found = backend.search(two_stages(query, 300, 300, {"n": {"$lt": most}}))
            for ranking, (ids, _) in zip(found, expected, strict=True):
                assert [row.id for row in ranking.rows] == [id for id in ids if int(id[1:]) in left]
        kb.compact()
