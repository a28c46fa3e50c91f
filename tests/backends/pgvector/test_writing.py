"""Writers: transactions, several at a time, killed ones, forked ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'mrl-retrieval[pgvector]'")

import psycopg
from psycopg import sql

from mrl_adapters.pgvector import PgvectorBackend
from mrl_retrieval.documents import Row
from mrl_retrieval.errors import (
    BackendError,
)
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.backends.common import DIM, batch_of, contents
from tests.backends.pgvector.helpers import COARSE, Connect, rows, vectors
from tests.postgres_server import PASSWORD, USER, PostgresServer


class TestWriting:
    def test_a_failed_batch_leaves_nothing(self, made: Connect) -> None:
        """The last of several statements of one batch fails."""
        backend = made()
        backend.upsert(batch_of(rows(10)))
        wrong = batch_of([*rows(1200, seed=3), Row("bad", None, {}, vectors(1)[0])])
        assert wrong.vectors is not None
        wrong.vectors[-1, 0] = np.nan
        with pytest.raises(BackendError, match="NaN"):
            backend.upsert(wrong)
        assert backend.count() == 10
        assert np.array_equal(contents(backend, vectors=True)["id3"].vector, vectors(10)[3])

    def test_equal_rows_are_not_written_again(self, made: Connect, superuser: psycopg.Connection[Any]) -> None:
        backend = made()
        stored = rows(20)
        backend.upsert(batch_of(stored))
        query = sql.SQL("SELECT id, xmin::text FROM {}").format(backend._session.layout.table)
        before = dict(superuser.execute(query).fetchall())
        changed = [
            replace(stored[0], metadata={"i": 0.0, "third": 0}),
            replace(stored[1], vector=None),
            replace(stored[2], document=None),
        ]
        backend.upsert(batch_of([*changed, *stored[3:]]))
        after = dict(superuser.execute(query).fetchall())
        assert {id for id in before if before[id] != after[id]} == {"id0", "id1", "id2"}
        got = backend.get(["id0", "id1", "id2"], vectors=True)
        assert repr(got[0] and got[0].metadata) == "{'i': 0.0, 'third': 0}"
        assert got[1] is not None and got[1].vector is None and got[2] is not None and got[2].document is None

    def test_writers_of_the_same_ids_wait_for_one_another(self, connect: Connect, made: Connect) -> None:
        made()
        problems: list[BaseException] = []

        def write(backend: PgvectorBackend, seed: int) -> None:
            order = np.random.default_rng(seed).permutation(60)
            try:
                for turn in range(6):
                    some = [
                        Row(f"id{i}", f"{seed}.{turn}", {"w": seed}, v)
                        for i, v in zip(order, vectors(60, seed * 10 + turn), strict=True)
                    ]
                    backend.upsert(batch_of(some))
                    backend.delete([f"id{i}" for i in order[:20]])
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=write, args=(connect(), seed)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        found = contents(connect(), vectors=True)
        assert len(found) <= 60 and all(row.vector is not None for row in found.values())

    def test_more_threads_than_connections(self, made: Connect) -> None:
        backend = made(pool_size=3)
        backend.upsert(batch_of(rows(200)))
        problems: list[BaseException] = []

        def work(seed: int) -> None:
            try:
                for turn in range(5):
                    backend.upsert(batch_of([Row(f"t{seed}.{turn}", None, {}, vectors(1, seed)[0])]))
                    (ranking,) = backend.search(SearchRequest(vectors(1, seed), (Stage(COARSE, 300), Stage(DIM, 1))))
                    assert ranking.scores[0] == pytest.approx(1.0, abs=1e-5)
                    assert backend.delete([f"t{seed}.{turn}"]) == 1
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == [] and backend.count() == 200

    def test_a_killed_writer_leaves_its_batch_whole_or_not_at_all(
        self, made: Connect, postgres: PostgresServer, schema: str
    ) -> None:
        backend = made()
        program = textwrap.dedent(
            """
            import sys, os, itertools
            import numpy as np
            from mrl_retrieval.registry import open_backend
            from mrl_retrieval.documents import RowBatch
            backend = open_backend(sys.argv[1], user=os.environ["W_USER"], password=os.environ["W_PASSWORD"], schema=sys.argv[2])
            for turn in itertools.count():
                v = np.zeros((700, 24), np.float32); v[:, turn % 24] = 1
                backend.upsert(RowBatch([f"{sys.argv[3]}.{i}" for i in range(700)], [str(turn)] * 700, [{"turn": turn}] * 700, v, np.ones(700, bool)))
                print(turn, flush=True)
            """
        )
        env = {**os.environ, "W_USER": USER, "W_PASSWORD": PASSWORD}
        rng = np.random.default_rng(0)
        for turn in range(4):
            command = [sys.executable, "-c", program, f"pgvector+{postgres.url}", schema, f"w{turn}"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True) as writer:
                assert writer.stdout is not None
                acknowledged = int(writer.stdout.readline())
                time.sleep(float(rng.uniform(0, 0.4)))
                writer.send_signal(signal.SIGKILL)
                acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
            deadline = time.monotonic() + 30
            while True:  # the server may still be committing what it was told to commit
                mine = [row for row in at_rest(backend).values() if row.id.startswith(f"w{turn}.")]
                turns = {row.metadata["turn"] for row in mine}
                assert len(mine) == 700 and len(turns) == 1
                (last,) = turns
                for row in mine:
                    assert row.document == str(last) and row.vector is not None and row.vector[last % 24] == 1
                if last >= acknowledged or time.monotonic() > deadline:
                    break
            assert last in (acknowledged, acknowledged + 1)
            query = np.eye(24, dtype=np.float32)[last % 24]
            (ranking,) = backend.search(SearchRequest(query[None], (Stage(COARSE, 3000), Stage(DIM, 700))))
            assert len(ranking.rows) == 700


def at_rest(backend: PgvectorBackend) -> dict[str, Row]:
    """All rows, as two readings one after the other find them: between the pages of one a commit may fall."""
    found = contents(backend, vectors=True)
    while True:
        again = contents(backend, vectors=True)
        if {id: row.document for id, row in again.items()} == {id: row.document for id, row in found.items()}:
            return again
        found = again


def test_a_forked_child_leaves_the_parents_connections_alone(made: Connect) -> None:
    backend = made()
    given = rows(30)
    backend.upsert(batch_of(given))
    for _ in range(5):
        children = []
        for _ in range(3):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    right = all(backend.count() == 30 and backend.get([r.id])[0] is not None for r in given[:5])
                    backend.close()
                    status = 0 if right else 2
                finally:
                    os._exit(status)
            children.append(child)
        for row in given[:5]:
            assert backend.get([row.id])[0] is not None and backend.count() == 30
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    assert backend.count() == 30


def test_a_forked_child_begins_without_connections(made: Connect) -> None:
    """Before its first call: threads of the child may make theirs at once. The parent's lock may be held for ever."""
    backend = made()
    assert backend.count() == 0
    connections = backend._session._connections
    assert len(connections._idle) == 1
    with connections._lock:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                assert connections._idle == [] and len(connections._inherited) == 1
                counts: list[int] = []
                threads = [threading.Thread(target=lambda: counts.append(backend.count())) for _ in range(4)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert counts == [0] * 4
                backend.close()
                status = 0
            finally:
                os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert backend.count() == 0
