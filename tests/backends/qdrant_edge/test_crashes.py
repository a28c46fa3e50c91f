"""A writer that is killed at any moment loses nothing."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrl_retrieval.documents import Row
from mrl_retrieval.filters import parse_filter
from mrl_retrieval.registry import open_backend
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.backends.common import COARSE, DIM, batch_of, queries
from tests.backends.qdrant.helpers import filled

ROWS, BATCH = 600, 40


WRITER = """
import sys
from mrl_retrieval.registry import open_backend
from tests.backends.qdrant_edge.test_crashes import versioned
with open_backend(sys.argv[1]) as backend:
    backend.read_manifest()
    for number in range(int(sys.argv[2]), 10**6):
        backend.upsert(versioned(number))
        print(number, flush=True)
        if number % 6 == 5:
            backend.flush()
"""


def ids_of(number: int) -> list[int]:
    """The rows that the batch of this number writes; others of them are written again later."""
    return [(number * 23 + i) % ROWS for i in range(BATCH)]


def vector_of(id: int, number: int) -> Any:
    return queries(1, seed=id * 100_003 + number)[0]


def versioned(number: int) -> Any:
    return batch_of([Row(str(i), f"{i} of {number}", {"v": number}, vector_of(i, number)) for i in ids_of(number)])


def check_after_crash(address: str, acknowledged: dict[int, int], pending: int) -> dict[int, int]:
    """Every acknowledged row is there and searchable, none half, none twice. Returns the versions found."""
    unsure = set(ids_of(pending))
    with open_backend(address) as backend:
        batches = list(backend.scan(vectors=True, batch_size=97))
        rows = [row for batch in batches for row in batch.rows()]
        found = {int(row.id): row.metadata["v"] for row in rows}
        assert len(rows) == len(found) == backend.count() == backend.stats().vectors
        assert set(acknowledged) <= set(found) <= set(acknowledged) | unsure
        applied = {id for id in unsure if found.get(id) == pending}
        assert applied in (set(), unsure)  # a batch is there whole or not at all
        for row in rows:
            id = int(row.id)
            assert found[id] == acknowledged.get(id, pending) or id in applied
            assert row.document == f"{id} of {found[id]}"
            np.testing.assert_allclose(row.vector, vector_of(id, found[id]), atol=1e-6)
        asked = np.stack([row.vector for row in rows if row.vector is not None])
        for row, ranking in zip(
            rows, backend.search(SearchRequest(asked, (Stage(COARSE, 20), Stage(DIM, 2)))), strict=True
        ):
            assert ranking.rows[0].id == row.id and ranking.scores[0] == pytest.approx(1, abs=1e-5)
            assert len({each.id for each in ranking.rows}) == len(ranking.rows)
        for number in sorted(set(found.values()))[:5]:
            assert backend.count(parse_filter({"v": number})) == sum(v == number for v in found.values())
        for id, number in list(acknowledged.items())[:50]:  # what was overwritten is not found any more
            if found[id] == number and number >= 26:
                old = vector_of(id, number - 26)
                (ranking,) = backend.search(SearchRequest(old[None], (Stage(COARSE, 20), Stage(DIM, 1))))
                assert ranking.scores[0] < 0.9999
    return found


def test_a_writer_killed_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    address = f"qdrant-edge:{tmp_path}/kb"
    with filled(address):
        pass
    chance = random.Random(5)
    acknowledged: dict[int, int] = {}
    number = 0
    for _ in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, address, str(number)],
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3],
        )  # fmt: skip
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(chance.random() * 0.4)
        writer.send_signal(signal.SIGKILL)
        rest = writer.communicate()[0]
        lines = (first + rest).split("\n")[:-1]
        assert lines, "the writer wrote nothing"
        for line in lines:
            acknowledged.update(dict.fromkeys(ids_of(int(line)), int(line)))
        number = int(lines[-1]) + 1
        acknowledged = check_after_crash(address, acknowledged, number)
        number += 1
