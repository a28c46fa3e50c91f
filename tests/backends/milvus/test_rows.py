"""Rows: of any size, in calls of a limited one, and always the newest version of each."""

from __future__ import annotations

import random
import threading
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("milvus_lite", reason="milvus-lite is not installed: pip install 'mrl-retrieval[milvus]'")

from mrl_adapters._milvus import entities as _milvus_entities
from mrl_adapters.milvus import MilvusBackend
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.manifest import Manifest
from mrl_retrieval.matryoshka import prefix
from tests.backends.common import batch_of
from tests.backends.milvus.helpers import COARSE, Opener, ids_of, rows, vectors


def test_rows_of_any_size(backend: MilvusBackend, open_at: Opener) -> None:
    text = "".join(random.Random(1).choices("aé漢🎉\x00\n\"'\\ ", k=800_000))
    assert len(text.encode()) > 1_000_000
    metadata = {"blob": text[:200_000], "list": list(range(3000)), "deep": {str(i): [i] for i in range(500)}}
    id = "🎉" * 50_000
    given = [Row(id, text, metadata, vectors(1)[0]), Row("empty", "", {}, None), Row("none", None, {}, None)]
    backend.upsert(batch_of(given))
    for one in (backend, open_at()):
        read = one.get([id, "empty", "none"], vectors=True)
        assert [row and (row.id, row.document, row.metadata) for row in read] == [
            (row.id, row.document, row.metadata) for row in given
        ]
        assert read[0] is not None and read[0].vector is not None and np.array_equal(read[0].vector, given[0].vector)
        assert one.coarse_search(prefix(vectors(1), COARSE), 5, None)[0].ids == [id]
        one.flush()
    assert backend.delete([id]) == 1 and backend.count() == 2


def test_a_call_is_split_by_size(backend: MilvusBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    entities = backend._entities
    write = entities._write
    monkeypatch.setattr(entities, "_write", lambda part: (sizes.append(len(part)), write(part)))
    backend.upsert(batch_of([Row(str(i), "x" * 1_500_000, {}, None) for i in range(5)]))
    assert len(sizes) >= 2 and sum(sizes) == 5 == backend.count()


def test_one_component(open_at: Opener) -> None:
    one = open_at()
    one.write_manifest(Manifest(dim=1, coarse_dims=1, fine_dims=1), None)
    plus, minus = np.ones((1, 1), np.float32), -np.ones((1, 1), np.float32)
    both = np.concatenate([plus, minus])
    one.upsert(RowBatch(["p", "m"], [None, None], [{}, {}], both, np.ones(2, np.bool_)))
    for search in (one.coarse_search, one.exact_search):
        found = search(plus, 5, None)[0]
        assert found.ids == ["p", "m"] and found.scores.tolist() == [1, -1]
    assert one.fetch_vectors(["m"])[0].tolist() == [[-1]]
    assert [row.vector.tolist() for page in one.scan(vectors=True) for row in page.rows()] == [[-1], [1]]


def test_upserts_and_deletes_across_flushes(backend: MilvusBackend) -> None:
    """Memory, disk and compaction agree on the newest version of a row."""
    rng, truth = random.Random(3), dict[str, int]()
    for round in range(14):
        chosen = rng.sample(range(400), 150)
        made = vectors(150, seed=round)
        backend.upsert(
            batch_of([Row(str(i), str(round), {"round": round}, v) for i, v in zip(chosen, made, strict=True)])
        )
        truth |= {str(i): round for i in chosen}
        gone = [str(i) for i in rng.sample(range(400), 40)]
        assert backend.delete(gone) == len([truth.pop(id) for id in gone if id in truth])
        if rng.random() < 0.6:
            backend.flush()
        assert backend.count() == len(truth)
        seen = {row.id: int(row.document or "") for page in backend.scan(vectors=True) for row in page.rows()}
        assert seen == truth
        found = backend.coarse_search(prefix(made[:1], COARSE), 1000, None)[0]
        assert sorted(found.ids) == sorted(truth)
        assert ids_of(backend, {"round": round}) == {id for id, r in truth.items() if r == round}


def test_readers_and_writers_in_many_threads(backend: MilvusBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_milvus_entities, "_FLUSH_AT", 50)
    fixed = rows(40)
    backend.upsert(batch_of(fixed))
    gone: set[str] = set()
    stop, failures = threading.Event(), list[BaseException]()

    def look() -> None:
        try:
            while not stop.is_set():
                before = set(gone)
                found = backend.coarse_search(prefix(vectors(1, seed=2), COARSE), 1000, None)[0]
                assert len(set(found.ids)) == len(found.ids)
                assert {row.id for row in fixed} <= set(found.ids) and not before & set(found.ids)
                assert all(row is not None for row in backend.get([row.id for row in fixed]))
        except BaseException as error:
            failures.append(error)

    def write(who: int) -> None:
        try:
            for round in range(6):
                new = [replace(row, id=f"{who}-{round}-{row.id}") for row in rows(20, seed=round)]
                backend.upsert(batch_of(new))
                assert backend.delete([row.id for row in new]) == 20
                gone.update(row.id for row in new)
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=look) for _ in range(6)]
    writers = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    if failures:
        raise failures[0]
    assert backend.count() == 40
