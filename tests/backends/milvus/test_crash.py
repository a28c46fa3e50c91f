"""A writer that is killed at a random moment, again and again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("milvus_lite", reason="milvus-lite is not installed: pip install 'mrl-retrieval[milvus]'")

from mrl_adapters.milvus import MilvusBackend
from mrl_retrieval.documents import Row, RowBatch
from mrl_retrieval.matryoshka import prefix
from tests.backends.common import batch_of
from tests.backends.milvus.helpers import COARSE, Opener, run, vectors

WRITER = """
    import sys
    sys.path.insert(0, sys.argv[3])
    from mrl_retrieval.registry import open_backend
    from tests.backends.milvus.test_crash import crash_batch
    number = int(sys.argv[2])
    one = open_backend(sys.argv[1])
    one.read_manifest()
    print("ready", flush=True)
    while True:
        one.upsert(crash_batch(number, 0))
        print("in", number, flush=True)
        if number % 3 == 2:
            one.upsert(crash_batch(number - 1, 1))
            print("again", number - 1, flush=True)
            one.delete([f"{number - 2}-0"])
            print("gone", number - 2, flush=True)
        if number % 4 == 0:
            one.flush()
        number += 1
"""


def crash_batch(number: int, version: int) -> RowBatch:
    made = vectors(7, seed=number * 2 + version)
    return batch_of(
        [
            Row(f"{number}-{i}", f"{number}-{i} v{version}", {"batch": number, "version": version}, made[i])
            for i in range(7)
        ]
    )


def test_a_writer_that_is_killed(backend: MilvusBackend, open_at: Opener, tmp_path: Path) -> None:
    """Whatever was acknowledged is there and found; a batch is there whole or not at all, and nothing twice."""
    backend.close()
    rng, said, number = random.Random(8), list[tuple[str, int]](), 0
    for _ in range(int(os.environ.get("MRL_CRASHES", "4"))):
        root = str(Path(__file__).parents[3])
        process = run(WRITER, f"milvus:{tmp_path}/kb", str(number), root, stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        lines = [process.stdout.readline() for _ in range(rng.randrange(1, 25))]
        time.sleep(rng.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        lines += [line for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        process.stdout.close()
        process.wait()
        said += [(word, int(n)) for word, n in map(str.split, lines)]
        number = max(n for _, n in said) + 3
        _check_after_crash(open_at(), said)
    assert len(said) > 20


def _check_after_crash(one: MilvusBackend, said: list[tuple[str, int]]) -> None:
    listed = [row for page in one.scan(vectors=True) for row in page.rows()]
    stored = {row.id: row for row in listed}
    assert len(stored) == len(listed) == one.count()
    versions: dict[int, list[int]] = {}
    for row in listed:
        n, version = row.metadata["batch"], row.metadata["version"]
        made = dict(zip((made := crash_batch(n, version)).ids, made.rows(), strict=True))[row.id]
        assert row.document == made.document and row.vector is not None and np.array_equal(row.vector, made.vector)
        versions.setdefault(n, []).append(version)
    assert all(len(set(found)) == 1 and len(found) in (6, 7) for found in versions.values())
    for word, n in said:
        assert word == "gone" or n in versions
        if word == "again":
            assert versions[n] == [1] * 7
        if word == "gone":
            assert f"{n}-0" not in stored
    found = one.coarse_search(prefix(vectors(1), COARSE), 16_000, None)[0]
    assert sorted(found.ids) == sorted(stored)
    one.close()
