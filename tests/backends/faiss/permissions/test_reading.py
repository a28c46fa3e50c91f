"""Collections in folders that this process may read, but not write to."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from mrl_retrieval.registry import open_backend
from tests.backends.faiss.helpers import exact, ids_of, two_stages, vectors_of
from tests.backends.faiss.permissions.nobody import (
    files,
    give_back,
    said,
    take_away,
)

READ = """
backend = open_backend(address)
assert backend.read_manifest() is not None
print(ids_of(backend.search(two_stages(vectors_of(3, 9)))) == ids_of(backend.search(exact(vectors_of(3, 9)))))
print(backend.count(), backend.count(parse_filter({"n": 3})), len(backend.get(["d07"])), backend.verify().ok)
print(sum(len(batch) for batch in backend.scan(vectors=True)), backend._store._connections._opening.mode)
"""
KILLED = """
import os, signal, sys
from mrl_retrieval.registry import open_backend
from tests.backends.faiss.helpers import *
backend = open_backend(sys.argv[1])
backend.upsert(rows(["killed"]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_closed_collection_is_read_and_left_as_it_is(filled, address, place):
    filled.flush()
    filled.close()
    before = files(place)
    assert "store.sqlite-wal" not in before
    take_away(place)
    assert said(READ, address, place).split() == ["True", "40", "1", "1", "True", "40", "immutable"]
    assert files(place) == before


def test_a_log_that_a_killed_writer_left_behind_counts(filled, address, place):
    filled.close()
    root = Path(__file__).parents[4]
    killed = subprocess.run([sys.executable, "-c", KILLED, address], cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert {"store.sqlite-wal", "store.sqlite-shm"} < files(place)
    take_away(place)
    assert said(READ, address, place).split() == ["True", "41", "1", "1", "True", "41", "ro"]
    give_back(place)
    (place / "kb" / "default" / "store.sqlite-shm").unlink()
    take_away(place)
    script = "try: open_backend(address).read_manifest()\nexcept BackendError as error: print(error)\n"
    told = said(script, address, place)
    assert "store.sqlite-wal has" in told and "store.sqlite-shm" in told
    assert "Open the collection once where that is allowed" in told
    give_back(place)
    with open_backend(address) as whole:
        assert whole.count() == 41
    take_away(place)
    assert said(READ, address, place).split()[1] == "41"


def test_the_answers_are_those_of_the_owner(filled, address, place):
    queries = vectors_of(5, 3)
    expected = [ids_of(filled.search(request)) for request in (two_stages(queries), exact(queries))]
    scores = np.concatenate([ranking.scores for ranking in filled.search(two_stages(queries))])
    filled.close()
    take_away(place)
    script = (
        "backend = open_backend(address)\n"
        "queries = vectors_of(5, 3)\n"
        "print([ids_of(backend.search(request)) for request in (two_stages(queries), exact(queries))])\n"
        "print(np.concatenate([ranking.scores for ranking in backend.search(two_stages(queries))]).tolist())\n"
    )
    found, found_scores = said(script, address, place).splitlines()
    assert found == str(expected) and found_scores == str(scores.tolist())
