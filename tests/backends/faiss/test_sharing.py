"""Other threads and processes at the same time."""

import multiprocessing
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from mrl_retrieval.errors import CollectionMismatchError, CollectionNotFound
from mrl_retrieval.filters import parse_filter
from mrl_retrieval.manifest import Manifest
from tests.backends.faiss.helpers import exact, ids_of, rows, two_stages, vectors_of

OTHER_PROCESS = """
import sys
sys.path.insert(0, sys.argv[2])
from mrl_retrieval.registry import open_backend
from tests.backends.faiss.helpers import *
backend = open_backend(sys.argv[1])
for line in sys.stdin:
    what, id, seed = line.split()
    if what == "upsert":
        backend.upsert(rows([id], vectors_of(1, int(seed))))
    else:
        backend.delete([id])
    print("done", flush=True)
backend.close()
"""


def test_a_reader_sees_what_another_process_writes(kb, address):
    kb.upsert(rows([f"d{i}" for i in range(50)]))
    kb.search(two_stages(vectors_of(1)))
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, address, str(Path(__file__).parents[3])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip

        def tell(*words):
            print(*words, file=other.stdin, flush=True)
            assert other.stdout.readline() == "done\n"

        for seed in range(100, 105):
            tell("upsert", f"new{seed}", seed)
            assert ids_of(kb.search(two_stages(vectors_of(1, seed), 1, 1))) == [[f"new{seed}"]]
            tell("upsert", f"new{seed}", seed + 1000)
            assert ids_of(kb.search(two_stages(vectors_of(1, seed + 1000), 1, 1))) == [[f"new{seed}"]]
            assert ids_of(kb.search(two_stages(vectors_of(1, seed), 1, 1))) != [[f"new{seed}"]]
            tell("delete", f"new{seed}", 0)
            assert f"new{seed}" not in ids_of(kb.search(two_stages(vectors_of(1, seed + 1000), 50)))[0]
        kb.upsert(rows(["mine"]))
        other.stdin.close()
    assert kb.count() == 51


def test_eight_threads_search_while_others_write(kb):
    vectors = vectors_of(64)
    kb.upsert(rows([f"stays{i}" for i in range(32)], vectors[:32]))
    gone, stop, errors, searches = set(), threading.Event(), [], []

    def search(seed):
        generator = np.random.default_rng(seed)
        try:
            while not stop.is_set():
                before = set(gone)
                which = generator.integers(0, 64, 3)
                filter = [None, {"n": {"$gte": 0}}][seed % 2]
                for i, ranking in zip(
                    which, kb.search([two_stages, exact][seed % 3 == 2](vectors[which], 5, filter=filter)), strict=True
                ):
                    found = [row.id for row in ranking.rows]
                    assert len(found) == 5 and not before & set(found)
                    assert all(row.document == f"text of {row.id}" for row in ranking.rows)
                    if i < 32:
                        assert found[0] == f"stays{i}"
                searches.append(1)
        except Exception as error:
            errors.append(error)

    def write(lane):
        try:
            for round in range(25):
                ids = [f"{lane}-{round}-{i}" for i in range(4)]
                kb.upsert(rows(ids, vectors[32 + 4 * lane : 36 + 4 * lane]))
                kb.delete(ids[:3])
                gone.update(ids[:3])
        except Exception as error:
            errors.append(error)

    searchers = [threading.Thread(target=search, args=(i,)) for i in range(8)]
    writers = [threading.Thread(target=write, args=(i,)) for i in range(2)]
    for thread in searchers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in searchers:
        thread.join()
    assert errors == []
    assert len(searches) >= 8
    assert kb.count() == 32 + 2 * 25


def test_a_scan_shows_one_commit(kb):
    kb.upsert(rows([f"d{i}" for i in range(30)]))
    seen = []
    for batch in kb.scan(batch_size=10, vectors=True):
        seen += batch.ids
        kb.delete([f"d{i}" for i in range(30)])
        kb.upsert(rows([f"new{len(seen)}"]))
    assert seen == [f"d{i}" for i in range(30)]
    unfinished = kb.scan(parse_filter({"n": {"$gte": 0}}), batch_size=1)
    next(unfinished)
    kb.close()
    unfinished.close()


def _search_in_child(backend, queries, answers):
    answers.put(ids_of(backend.search(two_stages(queries))))
    backend.upsert(rows(["child"]))
    backend.close()


def test_a_forked_child(kb):
    kb.upsert(rows([f"d{i}" for i in range(30)]))
    queries = vectors_of(3, 4)
    expected = ids_of(kb.search(two_stages(queries)))
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_search_in_child, args=(kb, queries, answers), daemon=True)
    child.start()
    assert answers.get(timeout=60) == expected
    child.join(60)
    assert child.exitcode == 0
    answers.close()
    assert ids_of(kb.search(two_stages(vectors_of(1), 1, 31, {"n": 0})))[0][0] in ("child", "d0")
    assert kb.count() == 31


def test_dropped_and_made_again_by_another(kb, opened, address, manifest):
    kb.upsert(rows([f"d{i}" for i in range(30)]))
    query = vectors_of(1)
    kb.search(two_stages(query))
    other = opened(address)
    other.drop()
    with pytest.raises(CollectionNotFound):
        kb.search(two_stages(query))
    other.write_manifest(Manifest(dim=4, coarse_dims=2, fine_dims=4), None)
    with pytest.raises(CollectionMismatchError, match="open it again"):
        kb.search(two_stages(query))
    assert kb.read_manifest().dim == 4
    assert kb.count() == 0


def test_a_rerank_holds_up_neither_writers_nor_other_searches(kb):
    """Not even the first one after a commit, which brings the index up to date."""
    kb.upsert(rows([f"d{i}" for i in range(50)]))
    found = []

    def meanwhile():
        kb.upsert(rows(["new"], vectors_of(1, 700)))
        found.extend(ids_of(kb.search(two_stages(vectors_of(1, 700), 1))))

    def rest(snapshot, _):
        other = threading.Thread(target=meanwhile, daemon=True)
        other.start()
        other.join(30)
        return other.is_alive(), snapshot.state.rows

    assert kb._index.on(lambda snapshot, coarse: None, rest) == (False, 50)
    assert found == [["new"]] and kb.count() == 51


def test_under_steady_commits_a_search_comes_to_an_end(kb, monkeypatch):
    kb.upsert(rows([f"d{i}" for i in range(50)]))
    snapshot, calls = kb._store.snapshot, []

    def after_a_commit(*args, **options):
        if len(calls) < 20:
            calls.append(1)
            kb.upsert(rows([f"more{len(calls)}"], vectors_of(1, 1000 + len(calls))))
        return snapshot(*args, **options)

    monkeypatch.setattr(kb._store, "snapshot", after_a_commit)
    assert ids_of(kb.search(two_stages(vectors_of(1, 1007), 1))) == [["more7"]]
    assert len(calls) == 7
