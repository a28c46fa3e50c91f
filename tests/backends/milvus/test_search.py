"""Searches: in how many requests, and beyond what Milvus gives at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("milvus_lite", reason="milvus-lite is not installed: pip install 'mrl-retrieval[milvus]'")

from mrl_adapters._milvus import search as _milvus_search
from mrl_adapters.milvus import MilvusBackend
from mrl_retrieval.documents import Row
from mrl_retrieval.filters import IdIn, parse_filter
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import normalize, prefix
from mrl_retrieval.scoring import exact_search
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.backends.common import DIM, batch_of
from tests.backends.milvus.helpers import COARSE, MANIFEST, Opener, rows, vectors


def listen(backend: MilvusBackend, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """The calls of Milvus from now on: methods and arguments."""
    called: list[tuple[str, dict[str, Any]]] = []
    call = backend._connection.call

    def heard(doing: str, method: str, **arguments: Any) -> Any:
        called.append((method, arguments))
        return call(doing, method, **arguments)

    monkeypatch.setattr(backend._connection, "call", heard)
    return called


def test_beyond_what_milvus_gives_at_once(backend: MilvusBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    given = rows(300)
    given[7] = replace(given[7], vector=None)
    given.append(Row("ö hashed", None, {}, vectors(1, seed=9)[0]))
    backend.upsert(batch_of(given))
    kept = [row for row in given if row.vector is not None]
    full = np.array([row.vector for row in kept])
    queries = vectors(3, seed=4)
    truth = exact_search(queries, full, [row.id for row in kept], 1000)
    monkeypatch.setattr(_milvus_search, "_MOST_RESULTS", 100)
    monkeypatch.setattr(_milvus_search, "KEYS_PER_CALL", 90)
    monkeypatch.setattr(_milvus_search, "_RESULTS_PER_CALL", 150)
    for limit in (99, 100, 101, 299, 300, 10**9):
        for (ids, scores), found in zip(truth, backend.exact_search(queries, limit, None), strict=True):
            assert found.ids == ids[:limit]
            np.testing.assert_allclose(found.scores, scores[:limit], atol=1e-6)
    few = backend.exact_search(queries, 10**9, parse_filter({"i": {"$lt": 50}}))
    assert [len(found.ids) for found in few] == [49] * 3
    listed = backend.exact_search(queries, 10**9, IdIn(frozenset(row.id for row in kept)))
    assert [found.ids for found in listed] == [ids for ids, _ in truth]
    assert sum(len(page) for page in backend.scan()) == 301 == backend.count()


def test_full_vectors_come_with_the_candidates(backend: MilvusBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [*rows(60), Row("bare", "text", {}, None)]
    backend.upsert(batch_of(given))
    backend.flush()
    called = listen(backend, monkeypatch)
    queries = vectors(3, seed=4)
    for filter, plain in ((None, 30), (parse_filter({"i": {"$in": list(range(40))}}), 10)):
        request = SearchRequest(queries, (Stage(COARSE, plain), Stage(16, 8), Stage(DIM, 5)), filter)
        answers = []
        for most in (2**24, 4 * DIM * plain * 3 - 1):
            called.clear()
            with monkeypatch.context() as patch:
                patch.setattr(_milvus_search, "BYTES_PER_CALL", most)
                answers.append([([row.id for row in r.rows], r.scores.tolist()) for r in backend.search(request)])
            reads = ["query"] if most == 2**24 else ["query", "query"]  # the hits, or candidates and hits
            assert [method for method, _ in called if method != "describe_collection"] == ["search", *reads]
        assert answers[0] == answers[1]
    called.clear()
    backend.search(SearchRequest(queries, (Stage(COARSE, 10), Stage(DIM, 5)), IdIn(frozenset(["1", "2"]))))
    assert [method for method, _ in called] == ["search", "query"]


def test_a_list_of_ids_in_many_parts_carries_no_full_vectors(
    backend: MilvusBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part has as many candidates as asked for, and most of them are none of the whole."""
    given = rows(60)
    backend.upsert(batch_of(given))
    backend.flush()
    queries, some = vectors(3, seed=4), IdIn(frozenset(map(str, range(50))))
    request = SearchRequest(queries, (Stage(COARSE, 50), Stage(DIM, 5)), some)
    truth = exact_search(queries, np.array([row.vector for row in given[:50]]), [row.id for row in given[:50]], 5)
    called = listen(backend, monkeypatch)
    for most, searches in ((50, 1), (49, 2), (9, 6)):
        called.clear()
        monkeypatch.setattr(_milvus_search, "KEYS_PER_CALL", most)
        for ranking, (ids, scores) in zip(backend.search(request), truth, strict=True):
            assert [row.id for row in ranking.rows] == ids
            np.testing.assert_allclose(ranking.scores, scores, atol=1e-6)
        fields = [arguments["output_fields"] for method, arguments in called if method == "search"]
        assert fields == ([["full"]] if searches == 1 else [["pk"]] * searches)


def test_a_search_done_again_scores_what_is_there_then(backend: MilvusBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hit that is deleted beneath a search has it begun again; another row has another vector by then."""
    backend.upsert(batch_of(rows(20)))
    query = vectors(1, seed=4)
    get = backend.get

    def get_while_written(ids: Any, **options: Any) -> Any:
        monkeypatch.setattr(backend, "get", get)
        backend.delete(ids[:1])
        backend.upsert(batch_of([Row(ids[1], "now the best", {}, query[0])]))
        return get(ids, **options)

    monkeypatch.setattr(backend, "get", get_while_written)
    (ranking,) = backend.search(SearchRequest(query, (Stage(COARSE, 20), Stage(DIM, 3))))
    assert len(ranking.rows) == 3 and ranking.rows[0].document == "now the best"
    assert ranking.scores[0] == pytest.approx(1)


def test_looking_at_the_manifest_again_is_one_request(
    backend: MilvusBackend, open_at: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = open_at()
    assert other.read_manifest() == MANIFEST
    called = listen(other, monkeypatch)
    changed = replace(MANIFEST, plan={"k": 1})
    backend.write_manifest(changed, MANIFEST)
    assert other.read_manifest() == changed == other.manifest
    assert [method for method, _ in called] == ["describe_collection"]
    # Made again, with other vectors: whatever was known of it is looked at again.
    backend.drop()
    assert other.read_manifest() is None
    backend.write_manifest(Manifest(dim=12, coarse_dims=4, fine_dims=12), None)
    backend.close()
    other.upsert(batch_of([Row("a", None, {}, normalize(np.ones((1, 12)))[0])], 12))
    assert other.manifest.fine_dims == 12 and other.fetch_vectors(["a"])[0].shape == (1, 12)


def test_rows_without_a_vector_cost_nothing_where_there_are_none(
    backend: MilvusBackend, open_at: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are never found: not by those who looked before the first was written, nor while it is."""
    backend.upsert(batch_of(rows(5)))
    query = prefix(vectors(1, seed=4), COARSE)
    bare = batch_of([Row("bare", None, {}, None)])
    called = listen(backend, monkeypatch)

    def conditions() -> list[str]:
        return [arguments["filter"] for method, arguments in called if method == "search"]

    assert sorted(backend.coarse_search(query, 9, None)[0].ids) == list("01234")
    assert conditions() == [""]
    ask = _milvus_search.Search._ask

    def ask_while_written(self: Any, *arguments: Any) -> Any:
        monkeypatch.setattr(_milvus_search.Search, "_ask", ask)
        open_at().upsert(bare)
        return ask(self, *arguments)

    called.clear()
    monkeypatch.setattr(_milvus_search.Search, "_ask", ask_while_written)
    assert sorted(backend.coarse_search(query, 9, None)[0].ids) == list("01234")
    assert conditions() == ["", "has_vector == true"]
    backend.close()
    for place in ("kb?collection=other", "kb"):
        one = open_at(f"milvus:{tmp_path}/{place}")
        if "other" in place:
            one.write_manifest(MANIFEST, None)
            one.upsert(bare)
        assert "bare" not in one.coarse_search(query, 9, None)[0].ids
    one.drop()
    one.write_manifest(MANIFEST, None)
    one.upsert(batch_of(rows(2)))
    called = listen(one, monkeypatch)
    assert sorted(one.coarse_search(query, 9, None)[0].ids) == ["0", "1"] and conditions() == [""]


def test_a_search_repeated_for_a_row_without_a_vector_scores_what_is_there_then(
    backend: MilvusBackend, open_at: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = rows(5)
    backend.upsert(batch_of(given))
    query = vectors(1, seed=4)
    ask = _milvus_search.Search._ask

    def ask_and_write(self: Any, *arguments: Any) -> Any:
        monkeypatch.setattr(_milvus_search.Search, "_ask", ask)
        answers = ask(self, *arguments)
        open_at().upsert(batch_of([Row("bare", None, {}, None), replace(given[3], vector=query[0])]))
        return answers

    monkeypatch.setattr(_milvus_search.Search, "_ask", ask_and_write)
    (ranking,) = backend.search(SearchRequest(query, (Stage(COARSE, 9), Stage(DIM, 3))))
    assert ranking.rows[0].id == "3" and ranking.scores[0] == pytest.approx(1)
