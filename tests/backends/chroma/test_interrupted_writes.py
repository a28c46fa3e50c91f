"""Whatever fails on the way, the old row or the new one is there whole, and repetition or repair heals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("chromadb", reason="chromadb is not installed: pip install 'mrl-retrieval[chroma]'")

from mrl_adapters.chroma import ChromaBackend
from mrl_retrieval.documents import Row
from mrl_retrieval.errors import BackendError, FilterError
from mrl_retrieval.filters import parse_filter
from mrl_retrieval.scoring import exact_search
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.backends.chroma.helpers import Failing, by_id, rows, same, vectors
from tests.backends.common import COARSE, DIM, batch_of


@pytest.mark.parametrize("heal", ["repeat", "repair"])
@pytest.mark.parametrize(
    ("part", "verb", "wins"), [("full", "upsert", "old"), ("coarse", "upsert", "old"), ("full", "delete", "new")]
)
def test_a_write_that_fails_half_way(memory: ChromaBackend, part: str, verb: str, wins: str, heal: str) -> None:
    before, after = rows(20), [replace(r, document="new", metadata={"new": 1}) for r in rows(25, seed=7)]
    memory.upsert(batch_of(before))
    whole = memory._pair()
    memory._collections._pair = replace(whole, **{part: Failing(getattr(whole, part), verb)})
    with pytest.raises(BackendError, match="the disk is full"):
        memory.upsert(batch_of(after))
    memory._collections._pair = whole

    def check(expected: list[Row]) -> None:
        assert memory.count() == len(expected)
        assert memory.count(parse_filter({"new": 1})) == sum("new" in row.metadata for row in expected)
        found = by_id(memory, vectors=True)
        assert found.keys() == {row.id for row in expected}
        for row, got in zip(expected, memory.get([row.id for row in expected], vectors=True), strict=True):
            assert same(row, got) and same(row, found[row.id])
        queries = vectors(3, seed=8)
        oracle = exact_search(queries, np.array([r.vector for r in expected]), [r.id for r in expected], 5)
        for stages in [(Stage(COARSE, 25), Stage(DIM, 5)), (Stage(DIM, 5),)]:
            for ranking, (ids, scores) in zip(memory.search(SearchRequest(queries, stages)), oracle, strict=True):
                assert [row.id for row in ranking.rows] == ids
                np.testing.assert_allclose(ranking.scores, scores, atol=1e-6)

    expected = before if wins == "old" else after
    check(expected)
    if heal == "repeat":
        memory.upsert(batch_of(after))
        check(after)
    else:
        memory.repair()
        check(expected)
    assert whole.full.count() == whole.coarse.count()


@pytest.mark.parametrize(
    ("part", "verb", "after", "expected"),
    [
        ("full", "upsert", 0, []),
        ("full", "upsert", 1, ["a0"]),
        ("full", "upsert", 2, ["a0"]),
        ("coarse", "upsert", 0, ["a0", "b1"]),
        ("coarse", "delete", 0, ["a0", "b1", "c2", "d3"]),
        ("full", "delete", 0, ["a0", "b1", "c2", "d3", "e4"]),
    ],
)
def test_the_error_says_which_rows_are_in(
    memory: ChromaBackend,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    verb: str,
    after: int,
    expected: list[str],
) -> None:
    """Two requests: the first is in whole, of the second what its failing step had left to do is not."""
    monkeypatch.setattr(type(memory._collections), "max_batch", lambda _: 4)
    v = vectors(8)
    old = [Row("e4", "old", {}, v[0]), Row("c2", "old", {}, v[1])]
    memory.upsert(batch_of(old))
    new = [Row("a0", "new", {}, None), *(Row(f"x{i}", "new", {}, None) for i in range(3))]
    second = [
        Row("b1", "new", {}, None),  # in with the first step
        Row("c2", "new", {}, v[3]),  # with the second
        Row("d3", "new", {}, v[4]),
        Row("e4", "new", {}, None),  # with the third: it loses its vector
    ]
    whole = memory._pair()
    failing = Failing(getattr(whole, part), verb, after=after)
    memory._collections._pair = replace(whole, **{part: failing})
    with pytest.raises(BackendError) as caught:
        memory.upsert(batch_of([*new, *second]))
    memory._collections._pair = whole
    there = [row.id for row in memory.get([r.id for r in [*new, *second]]) if row and row.document == "new"]
    assert list(caught.value.indexed_ids) == there
    assert [id for id in there if not id.startswith("x")] == expected


@pytest.mark.parametrize("heal", ["repeat", "repair", "delete"])
@pytest.mark.parametrize("to_vector", [True, False])
def test_a_row_that_gains_or_loses_its_vector(memory: ChromaBackend, to_vector: bool, heal: str) -> None:
    [full] = rows(1)
    bare = Row(full.id, "bare", {"bare": True}, None)
    before, after = (bare, full) if to_vector else (full, bare)
    memory.upsert(batch_of([before]))
    whole = memory._pair()
    part = "full" if to_vector else "coarse"
    memory._collections._pair = replace(whole, **{part: Failing(getattr(whole, part), "delete")})
    with pytest.raises(BackendError):
        memory.upsert(batch_of([after]))
    memory._collections._pair = whole
    # Both records exist now; the coarse one hides the bare one.
    assert memory.count() == 1
    assert memory.count(parse_filter({"bare": True})) == 0
    assert same(memory.get([full.id], vectors=True)[0], full)
    assert list(by_id(memory)) == [full.id]
    if heal == "delete":
        assert memory.delete([full.id]) == 1
        assert memory.get([full.id]) == [None]
        assert whole.full.count() == whole.coarse.count() == 0
        return
    if heal == "repeat":
        memory.upsert(batch_of([after]))
        assert same(memory.get([full.id], vectors=True)[0], after)
    else:
        memory.repair()
        assert same(memory.get([full.id], vectors=True)[0], full)
    assert whole.full.count() == 1


@pytest.mark.parametrize("vector", [True, False])
def test_a_record_that_is_hidden_is_no_row_for_an_order(memory: ChromaBackend, vector: bool) -> None:
    """The row without its vector has a text under a key where the row that wins has a number."""
    bare, full = Row("a", None, {"i": "x"}, None), Row("a", None, {"i": 1}, vectors(1)[0])
    others = [Row("b", None, {"i": 2}, None), Row("c", None, {"i": 3}, vectors(2)[1])]
    before, after = (bare, full) if vector else (full, bare)
    memory.upsert(batch_of([before, *others]))
    whole = memory._pair()
    part = "full" if vector else "coarse"
    memory._collections._pair = replace(whole, **{part: Failing(getattr(whole, part), "delete")})
    with pytest.raises(BackendError):
        memory.upsert(batch_of([after]))
    memory._collections._pair = whole
    assert whole.full.get(ids=["-:a"])["ids"] == ["-:a"]
    filter = parse_filter({"i": {"$gt": 0}})
    assert memory.count(filter) == 3 and by_id(memory, filter=filter).keys() == {"a", "b", "c"}
    memory.upsert(batch_of([Row("d", None, {"i": "y"}, None)]))
    with pytest.raises(FilterError, match="'d' holds 'y'"):
        memory.count(filter)
