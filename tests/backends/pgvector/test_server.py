"""A server that goes, stands still or refuses."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'mrl-retrieval[pgvector]'")

import psycopg
from psycopg import errors, sql

from mrl_adapters._pgvector.client import Statement
from mrl_adapters._pgvector.errors import Errors
from mrl_adapters.pgvector import PgvectorBackend
from mrl_retrieval.address import Address
from mrl_retrieval.errors import (
    BackendError,
    BackendUnavailable,
    LockTimeout,
)
from mrl_retrieval.registry import open_backend
from tests.backends.common import batch_of
from tests.backends.pgvector.helpers import LOGIN, MANIFEST, at_last, rows
from tests.postgres_server import USER, PostgresServer, run_postgres


class TestAServerThatGoes:
    @pytest.fixture(scope="class")
    def server(self) -> Iterator[PostgresServer]:
        with run_postgres("max_connections = 10", "superuser_reserved_connections = 3") as server:
            yield server

    @pytest.fixture
    def backend(self, server: PostgresServer) -> Iterator[PgvectorBackend]:
        with open_backend(f"pgvector+{server.url}?collection=c{uuid.uuid4().hex[:8]}", timeout=5, **LOGIN) as backend:
            assert isinstance(backend, PgvectorBackend)
            backend.write_manifest(MANIFEST, None)
            backend.upsert(batch_of(rows(30)))
            yield backend

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
    def test_the_call_after_a_restart_connects_again(
        self, server: PostgresServer, backend: PgvectorBackend, how: signal.Signals
    ) -> None:
        server.restart(how)
        assert backend.count() == 30
        server.stop(how)
        for call in (backend.count, lambda: backend.upsert(batch_of(rows(40)))):
            with pytest.raises(BackendUnavailable, match="is it running"):
                call()
        server.start()
        assert backend.count() == 30
        backend.upsert(batch_of(rows(40)))
        assert backend.count() == 40

    def test_a_restart_in_the_middle_of_a_call(self, server: PostgresServer, backend: PgvectorBackend) -> None:
        caught: list[BaseException] = []

        def slow() -> None:
            try:
                backend._session.ask("sleeping", [Statement(sql.SQL("SELECT pg_sleep(4)"))])
            except BaseException as error:
                caught.append(error)

        thread = threading.Thread(target=slow)
        thread.start()
        with psycopg.connect(server.dsn(), autocommit=True) as look:
            while not look.execute(
                "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
            ).fetchone():
                time.sleep(0.02)
        server.restart()
        thread.join()
        assert len(caught) == 1 and isinstance(caught[0], BackendUnavailable)
        assert backend.count() == 30

    def test_a_statement_that_takes_too_long(self, server: PostgresServer, backend: PgvectorBackend) -> None:
        with open_backend(str(backend.address), timeout=0.3, **LOGIN) as hasty:
            assert isinstance(hasty, PgvectorBackend) and at_last(hasty.count) == 30
            with pytest.raises(BackendUnavailable, match=r"statement timeout.*raise timeout=0\.3"):
                hasty._session.ask("sleeping", [Statement(sql.SQL("SELECT pg_sleep(60)"))])
            assert at_last(hasty.count) == 30

    def test_many_statements_each_in_its_time(
        self, server: PostgresServer, backend: PgvectorBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Together they take longer than one may."""
        monkeypatch.setattr("mrl_adapters._pgvector.client._GRACE_SECONDS", 0)
        with open_backend(str(backend.address), timeout=4, **LOGIN) as patient:
            assert isinstance(patient, PgvectorBackend) and patient.count() == 30
            found = patient._session.ask("sleeping", [Statement(sql.SQL("SELECT 1 FROM pg_sleep(1)"))] * 6)
            assert found == [[(1,)]] * 6

    def test_a_server_that_stands_still(
        self, server: PostgresServer, backend: PgvectorBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mrl_adapters._pgvector.client._GRACE_SECONDS", 0.2)
        with open_backend(str(backend.address), timeout=0.3, **LOGIN) as hasty:
            assert isinstance(hasty, PgvectorBackend) and at_last(hasty.count) == 30
            (connection,) = hasty._session._connections._idle
            pid = connection.info.backend_pid
            os.kill(pid, signal.SIGSTOP)
            try:
                with pytest.raises(BackendUnavailable, match=r"no answer.*timeout=0\.3"):
                    hasty.count()
            finally:
                os.kill(pid, signal.SIGCONT)
            assert at_last(hasty.count) == 30

    def test_more_connections_than_the_server_takes(self, server: PostgresServer, backend: PgvectorBackend) -> None:
        held = [psycopg.connect(server.dsn(user=USER)) for _ in range(6)]
        try:
            with (
                open_backend(str(backend.address), timeout=5, **LOGIN) as late,
                pytest.raises(BackendUnavailable, match="slots|clients"),
            ):
                late.count()
        finally:
            for connection in held:
                connection.close()

    def test_all_connections_busy(self, backend: PgvectorBackend) -> None:
        with open_backend(str(backend.address), timeout=1, pool_size=1, **LOGIN) as small:
            assert isinstance(small, PgvectorBackend) and at_last(small.count) == 30
            inside, go = threading.Event(), threading.Event()

            def hold() -> None:
                def work(_: Any) -> None:
                    inside.set()
                    go.wait(30)

                small._session._connections.transact("holding", work)

            thread = threading.Thread(target=hold)
            thread.start()
            inside.wait(30)
            with pytest.raises(BackendUnavailable, match="pool_size"):
                small.count()
            go.set()
            thread.join()
            assert at_last(small.count) == 30

    @pytest.mark.parametrize(
        ("error", "kind", "words"),
        [
            (errors.DiskFull("could not extend file"), BackendError, "make room"),
            (errors.OutOfMemory("out of memory"), BackendError, "smaller batches"),
            (errors.ReadOnlySqlTransaction("cannot execute INSERT"), BackendError, "primary"),
            (errors.DeadlockDetected("deadlock detected"), BackendUnavailable, "repeat"),
            (errors.SerializationFailure("could not serialize"), BackendUnavailable, "repeat"),
            (errors.LockNotAvailable("lock timeout"), LockTimeout, "holds"),
            (errors.AdminShutdown("terminating connection"), BackendUnavailable, "is it running"),
            (errors.TooManyConnections("too many"), BackendUnavailable, "is it running"),
            (psycopg.OperationalError("FATAL: the database system is starting up"), BackendUnavailable, "starting up"),
            (errors.DataException("expected 24 dimensions, not 8"), BackendError, "expected 24"),
        ],
    )
    def test_what_cannot_be_provoked_here(self, error: psycopg.Error, kind: type[BackendError], words: str) -> None:
        mapped = Errors(Address.parse("pgvector:"), 1, list).error("writing rows", error)
        assert type(mapped) is kind and words in str(mapped)
