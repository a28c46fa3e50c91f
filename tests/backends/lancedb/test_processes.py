"""Several processes and threads: they take turns writing, may be killed at any time, and must not be forked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lancedb", reason="lancedb is not installed: pip install 'mrl-retrieval[lancedb]'")


from mrl_retrieval.errors import (
    LockTimeout,
)
from mrl_retrieval.filters import parse_filter
from mrl_retrieval.matryoshka import normalize, prefix
from mrl_retrieval.registry import open_backend
from tests.backends.lancedb.helpers import COARSE, DIM, batch, made, rows, vectors

WRITER = """
import sys
import numpy as np
from mrl_retrieval.documents import RowBatch
from mrl_retrieval.matryoshka import normalize
from mrl_retrieval.registry import open_backend

address, name, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open_backend(address, keep_versions=0.001) as backend:
    for round in range(rounds):
        ids = [f"{round}-{i}" for i in range(20)]
        full = normalize(np.random.default_rng(round).normal(size=(20, 24)))
        texts = [f"{name} {id}" for id in ids]
        backend.upsert(RowBatch(ids, texts, [{"by": name, "round": round}] * 20, full, np.ones(20, bool)))
        print(round, flush=True)
"""


def writer(address: str, name: str, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", WRITER, address, name, str(rounds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class TestProcesses:
    def test_two_writers_of_the_same_ids_leave_each_once(self, tmp_path: Path) -> None:
        """Without the lock LanceDB takes both for additions."""
        address = f"lancedb:{tmp_path}"
        with made(address) as backend:
            writers = [writer(address, name, 30) for name in ("one", "two")]
            seen = 0
            while any(process.poll() is None for process in writers):
                now = backend.count()
                assert now >= seen and now % 20 == 0
                seen = now
            for process in writers:
                out, errors = process.communicate()
                assert process.returncode == 0 and len(out.split()) == 30, errors
            stored = [row for part in backend.scan() for row in part.rows()]
            assert len(stored) == 600 == len({row.id for row in stored})
            assert all(row.document == f"{row.metadata['by']} {row.id}" for row in stored)

    @pytest.mark.parametrize("round", range(3))
    def test_what_was_acknowledged_survives_a_kill(self, tmp_path: Path, round: int) -> None:
        address = f"lancedb:{tmp_path}"
        with made(address):
            pass
        process = writer(address, "killed", 10_000)
        assert process.stdout is not None and process.stderr is not None
        acknowledged = [process.stdout.readline()]
        end = time.monotonic() + 0.3 + 0.45 * round
        while time.monotonic() < end:
            acknowledged.append(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        rest, _ = process.communicate()
        acknowledged += rest.splitlines(keepends=True)
        done = [int(line) for line in acknowledged if line.endswith("\n")]
        with open_backend(address) as backend:
            counts: dict[int, int] = {}
            full = normalize(np.zeros((1, DIM), np.float32))
            for part in backend.scan(vectors=True):
                for row in part.rows():
                    number, i = map(int, row.id.split("-"))
                    counts[number] = counts.get(number, 0) + 1
                    full = normalize(np.random.default_rng(number).normal(size=(20, 24)))
                    assert row.document == f"killed {row.id}" and row.metadata == {"by": "killed", "round": number}
                    assert row.vector is not None and (row.vector == full[i]).all()
            assert set(done) <= set(counts) <= set(range(len(done) + 1))
            assert set(counts.values()) == {20}
            last = normalize(np.random.default_rng(done[-1]).normal(size=(20, 24)))
            assert backend.coarse_search(prefix(last[:1], COARSE), 1, None)[0].ids == [f"{done[-1]}-0"]
            backend.repair()
            backend.upsert(batch(rows(3)))
            assert backend.count() == 20 * len(counts) + 3

    def test_a_child_forked_after_the_first_use_is_refused(self, tmp_path: Path) -> None:
        """LanceDB itself crashes such a child now and then."""
        with made(f"lancedb:{tmp_path}") as backend:
            backend.upsert(batch(rows(10)))
        program = f"""
import os, warnings
warnings.simplefilter("ignore", RuntimeWarning)  # lancedb's own, at every fork
from mrl_retrieval.errors import BackendError
from mrl_retrieval.registry import open_backend
place = "lancedb:{tmp_path}"
with open_backend(place) as backend:
    assert backend.count() == 10
    child = os.fork()
    if not child:
        refused = 0
        calls = [backend.count, lambda: backend.delete(["id0"]), lambda: list(backend.scan()), backend.drop,
                 lambda: backend.get(["id0"]), backend.read_manifest, lambda: open_backend(place), backend.flush]
        for call in calls:
            try:
                call()
            except BackendError as error:
                refused += "spawn" in str(error)
        backend.close()
        os._exit(0 if refused == len(calls) else 1)
    status = os.waitpid(child, 0)[1]
    assert status == 0, status
    assert backend.delete(["id0"]) == 1 and backend.count() == 9
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


class TestThreads:
    def test_a_writer_waits_for_another_and_says_so(self, tmp_path: Path) -> None:
        with made(f"lancedb:{tmp_path}") as a, open_backend(f"lancedb:{tmp_path}", lock_timeout=0.05) as b:
            with a._writing(), pytest.raises(LockTimeout, match="lock_timeout"):
                b.upsert(batch(rows(1)))
            b.upsert(batch(rows(1)))
        with made("lancedb:", lock_timeout=0.05) as alone, alone._writing():
            failures: list[BaseException] = []

            def write() -> None:
                try:
                    alone.upsert(batch(rows(1)))
                except BaseException as error:
                    failures.append(error)

            thread = threading.Thread(target=write)
            thread.start()
            thread.join()
            assert isinstance(failures[0], LockTimeout)

    def test_threads_read_while_others_write_and_tidy_up(self, tmp_path: Path) -> None:
        with made(f"lancedb:{tmp_path}", index="flat") as backend:
            backend.upsert(batch(rows(200)))
            stop = threading.Event()
            failures: list[BaseException] = []
            query = prefix(vectors(1, seed=3), COARSE)

            def look() -> None:
                try:
                    while not stop.is_set():
                        assert len(backend.coarse_search(query, 150, parse_filter({"i": {"$lt": 150}}))[0].ids) == 150
                        assert all(backend.get(["id1", "id149"]))
                        assert backend.count() >= 150
                except BaseException as error:
                    failures.append(error)

            def write(name: str) -> None:
                try:
                    for i in range(8):
                        backend.upsert(batch(rows(20, seed=i, before=name)))
                        backend.upsert(batch(rows(150)))
                        assert backend.delete([f"{name}{j}" for j in range(20)]) == 20
                        backend.flush()
                except BaseException as error:
                    failures.append(error)

            readers = [threading.Thread(target=look) for _ in range(4)]
            writers = [threading.Thread(target=write, args=(name,)) for name in ("a", "b")]
            for thread in [*readers, *writers]:
                thread.start()
            for thread in writers:
                thread.join()
            stop.set()
            for thread in readers:
                thread.join()
            assert not failures, failures[0]
            assert backend.count() == 200
            assert json.dumps(backend.get(["id7"])[0].metadata) == '{"i": 7, "third": 1}'  # type: ignore[union-attr]
