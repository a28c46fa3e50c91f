"""A copy holds what the source holds, whatever happened on the way."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever, errors, reindex, retrying
from mrl_retrieval.backend import Backend
from mrl_retrieval.documents import RowBatch
from mrl_retrieval.memory import MemoryBackend
from mrl_retrieval.registry import open_backend
from tests.moving import sixty
from tests.places import SCHEMES, Place

DIM = 12
ODD = [{"a": 1, "b": 1.0, "c": True, "n": None, "l": [], "d": {"x": [1, {"y": "é\n"}]}}, {}, {"": "empty key"}]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "PAUSES", (0, 0))


@pytest.fixture
def source() -> MatryoshkaRetriever:
    made = MatryoshkaRetriever(encoder=None, backend="memory:", coarse_dims=4)
    vectors: list[Any] = list(np.random.default_rng(0).standard_normal((300, DIM)))
    vectors[7], vectors[8] = None, np.zeros(DIM)
    texts: list[str | None] = [f"text {i}" for i in range(300)]
    texts[9] = None
    made.index(texts, [f"id {i} 'ü" for i in range(300)], [ODD[i % 3] | {"i": i} for i in range(300)], vectors)
    return made


def held(backend: Backend) -> dict[str, Any]:
    return {row.id: row for batch in backend.scan(vectors=True) for row in batch.rows()}


def assert_same(a: Backend, b: Backend, atol: float = 1e-6) -> None:
    ours, theirs = held(a), held(b)
    assert ours.keys() == theirs.keys()
    for id, row in ours.items():
        other = theirs[id]
        assert (other.document, repr(other.metadata)) == (row.document, repr(row.metadata))
        assert (other.vector is None) == (row.vector is None)
        if row.vector is not None:
            np.testing.assert_allclose(other.vector, row.vector, atol=atol)


def pairs() -> list[Any]:
    """Every backend once as source and once as target; all pairs are slow."""
    ring = list(zip(SCHEMES, SCHEMES[1:] + SCHEMES[:1], strict=True))
    return [
        pytest.param(*pair, marks=[] if pair in ring else pytest.mark.slow)
        for pair in itertools.product(SCHEMES, SCHEMES)
    ]


@pytest.mark.parametrize(("first", "second"), pairs())
def test_from_any_to_any(
    source: MatryoshkaRetriever, new_place: Callable[[str], Place], first: str, second: str
) -> None:
    (here, options), (there, other_options) = new_place(first), new_place(second)
    with open_backend(here, **options) as one, open_backend(there, **other_options) as two:
        source.copy_to(one)
        report = MatryoshkaRetriever.open(one).copy_to(two, batch_size=70)
        assert (report.rows, report.vectors, report.written, report.removed) == (300, 299, 300, 0)
        assert_same(source.backend, two)
        ours, theirs = source.backend.manifest, two.manifest
        assert replace(theirs, origin=None, collection_id="", created_with="") == replace(
            ours, origin=None, collection_id="", created_with=""
        )
        assert theirs.collection_id != ours.collection_id
        query = np.random.default_rng(1).standard_normal(DIM)
        expected = source.search_by_vector(query, 5, exact=True)
        found = MatryoshkaRetriever.open(two).search_by_vector(query, 5, coarse_top_k=300)
        assert found.ids == expected.ids


class Breaking(MemoryBackend):
    """A database that goes away at a chosen upsert, once or for good."""

    fails: Callable[[int], bool] = staticmethod(lambda call: False)
    calls = 0

    def upsert(self, batch: RowBatch) -> None:
        self.calls += 1
        if self.fails(self.calls):
            raise errors.BackendUnavailable("gone away")
        super().upsert(batch)


@pytest.fixture
def target(source: MatryoshkaRetriever) -> Breaking:
    return Breaking(source.backend.address, {})


def test_an_interrupted_copy_is_taken_up(
    source: MatryoshkaRetriever, target: Breaking, caplog: pytest.LogCaptureFixture
) -> None:
    target.fails = lambda call: call >= 3
    with pytest.raises(errors.BackendUnavailable):
        source.copy_to(target, batch_size=100)
    assert target.count() == 200
    with caplog.at_level(logging.WARNING):
        MatryoshkaRetriever.open(target)
    assert "is not finished" in caplog.text
    target.fails = lambda call: False
    assert source.copy_to(target, batch_size=100).written == 100
    assert_same(source.backend, target)
    caplog.clear()
    MatryoshkaRetriever.open(target)
    assert not caplog.text


def test_a_database_that_is_away_for_a_moment(source: MatryoshkaRetriever, target: Breaking) -> None:
    target.fails = lambda call: call in (1, 2)
    assert source.copy_to(target, batch_size=1000).written == 300
    assert_same(source.backend, target)


def test_what_changed_since_is_brought_over(source: MatryoshkaRetriever, target: Breaking) -> None:
    source.copy_to(target)
    source.delete([f"id {i} 'ü" for i in range(50)])
    source.index(["new", "other"], ["new", "id 60 'ü"], vectors=np.ones((2, DIM)))
    source.index(["text 61"], ["id 61 'ü"], [ODD[61 % 3] | {"i": 61.0}], vectors=source.get(["id 61 'ü"], vectors=True)[0].vector[None])  # type: ignore[union-attr,index]  # fmt: skip
    report = source.copy_to(target)
    assert (report.written, report.removed, report.rows) == (3, 50, 251)
    assert_same(source.backend, target)


def test_rows_written_during_the_copy(source: MatryoshkaRetriever, target: Breaking) -> None:
    late = [False, False]

    def meanwhile(done: int, total: int | None) -> None:
        if not all(late):
            late[late[0]] = True
            source.index([f"late {sum(late)}"], [f"late {sum(late)}"], vectors=np.eye(1, DIM))

    assert source.copy_to(target, batch_size=100, progress=meanwhile).rows == 302
    assert_same(source.backend, target)


def test_a_source_that_never_rests(source: MatryoshkaRetriever, target: Breaking) -> None:
    numbers = itertools.count()

    def meanwhile(done: int, total: int | None) -> None:
        source.index([f"{next(numbers)}"], ["busy"], vectors=np.eye(1, DIM))

    with pytest.raises(errors.ConflictError, match="stop the writers"):
        source.copy_to(target, progress=meanwhile)


def test_precision_is_not_lost_unasked(source: MatryoshkaRetriever, tmp_path: Path) -> None:
    place = f"faiss:{tmp_path}/half"
    with pytest.raises(errors.InvalidInput, match="float16.*float32.*allow_lossy"):
        source.copy_to(place)
    with open_backend(place) as backend:
        assert backend.read_manifest() is None
    report = source.copy_to(place, allow_lossy=True)
    assert report.loss is not None and "float16" in report.loss
    with MatryoshkaRetriever.open(place) as half:
        assert_same(source.backend, half.backend, atol=5e-4)
        with pytest.raises(errors.InvalidInput, match="rounded"):
            half.copy_to("memory:")
        again = half.copy_to(f"faiss:{tmp_path}/half2")
        assert again.loss is None
        with open_backend(f"faiss:{tmp_path}/half2") as backend:
            assert_same(half.backend, backend, atol=0)


def test_targets_that_are_refused(source: MatryoshkaRetriever, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidInput, match="same collection"):
        source.copy_to(source.backend)
    other = MatryoshkaRetriever(encoder=None, backend="memory:")
    with pytest.raises(errors.CollectionNotFound):
        other.copy_to("memory:")
    other.index(["a"], vectors=np.ones((1, DIM)))
    with pytest.raises(errors.ConflictError, match="no copy of"):
        source.copy_to(other.backend)
    assert other.count() == 1
    with pytest.raises(errors.InvalidInput, match="batch_size"):
        source.copy_to("memory:", batch_size=0)
    with pytest.raises(errors.UnknownNameError):
        source.copy_to("nowhere:x")


def test_generations_are_not_mistaken(source: MatryoshkaRetriever, target: Breaking) -> None:
    target.fails = lambda call: call >= 2
    with pytest.raises(errors.BackendUnavailable):
        source.copy_to(target, batch_size=100)
    with pytest.raises(errors.ConflictError, match="not finished itself"):
        MatryoshkaRetriever(backend=target).copy_to("memory:")
    target.fails = lambda call: False
    source.copy_to(target)
    for change in ({"moved_to": "x.g1"}, {"frozen": "x.g1"}):
        now = target.read_manifest()
        assert now is not None
        target.write_manifest(replace(now, **change), now)  # type: ignore[arg-type]
        with pytest.raises(errors.ConflictError, match=r"x\.g1"):
            source.copy_to(target)
        target.write_manifest(now, target.read_manifest())


def test_an_upsert_is_repeated_and_reported() -> None:
    backend = Breaking(open_backend("memory:").address, {})
    retriever = MatryoshkaRetriever(encoder=None, backend=backend)
    backend.fails = lambda call: call in (2, 3)
    retriever.index(["a", "b"], ["a", "b"], vectors=np.eye(2, DIM), batch_size=1)
    assert retriever.count() == 2
    backend.fails = lambda call: call > 4
    with pytest.raises(errors.BackendUnavailable) as caught:
        retriever.index(["c", "d"], ["c", "d"], vectors=np.eye(2, DIM), batch_size=1)
    assert caught.value.indexed_ids == ()
    assert any("tried 3 times" in note for note in caught.value.__notes__)


def test_a_copy_beside_an_unfinished_reindexing_knows_nothing_of_it(memory: str) -> None:
    with pytest.raises(errors.EncoderError):
        reindex(memory, sixty.Breaking(32), batch_size=8)
    with MatryoshkaRetriever.open(memory) as retriever, open_backend("memory:") as target:
        retriever.copy_to(target)
        assert retriever.backend.manifest.reindexing is not None and target.manifest.reindexing is None
