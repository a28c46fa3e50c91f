"""The servers of the databases that have one, started as the tests start them, with data in a temporary folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.comparison.processes import family
from benchmarks.comparison.side import Place

__all__ = ["Running", "running"]

_POSTGRES = (
    "max_parallel_maintenance_workers = 0",
    "max_wal_size = 8GB",
    "huge_pages = off",  # they are not told apart in /proc
    "fsync = on",
)


@dataclass
class Running:
    """A place to load into; a server is up there, if the database has one."""

    place: Place
    data: Path
    """What counts as bytes on disk."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Of the processes that use it."""
    pids: Callable[[], list[int]] = list
    """Of the server; nobody's where the database runs in the process that uses it."""
    settle: Callable[[], None] = lambda: None
    """What an operator does after a large load; not timed, for no way of using it."""
    restart: Callable[[], None] = lambda: None


@contextlib.contextmanager
def running(backend: str, folder: Path, vector_bytes: int) -> Iterator[Running]:
    """Start what a backend needs.

    Args:
        backend: its name.
        folder: for its data, to be made (PostgreSQL's lie elsewhere, and go).
        vector_bytes: of all vectors that it is to hold.
    """
    folder.mkdir(parents=True)
    if backend == "pgvector":
        with _postgres(folder, vector_bytes) as found:
            yield found
    elif backend == "chroma-server":
        with _chroma(folder) as found:
            yield found
    else:
        yield Running(Place(folder), folder)


@contextlib.contextmanager
def _postgres(folder: Path, vector_bytes: int) -> Iterator[Running]:
    import psycopg

    from tests.postgres_server import DATABASE, SUPERUSER, run_postgres

    # Enough for everything that a search touches, so that the memory it needs is seen as PostgreSQL's own, and enough
    # to build a graph; not more, for the bookkeeping of unused buffers is memory too.
    megabytes = 128 + 4 * vector_bytes // 2**20
    sizes = (f"shared_buffers = {megabytes}MB", f"maintenance_work_mem = {megabytes}MB")
    with run_postgres(*_POSTGRES, *sizes) as server:

        def settle() -> None:
            with psycopg.connect(server.dsn(), autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE")
                connection.execute("CHECKPOINT")

        def pids() -> list[int]:
            return [] if server.process is None else family(server.process.pid)

        environment = {
            "PGHOST": server.sockets,
            "PGPORT": str(server.port),
            "PGUSER": SUPERUSER,
            "PGDATABASE": DATABASE,
        }
        data = server.folder / "data" / "base"
        yield Running(Place(folder), data, environment, pids, settle, server.restart)


@contextlib.contextmanager
def _chroma(folder: Path) -> Iterator[Running]:
    from tests.servers import free_port, run_chroma

    port = free_port()
    stack = contextlib.ExitStack()
    pids: list[int] = []

    def start() -> str:
        before = set(family(os.getpid()))
        url = stack.enter_context(run_chroma(folder, port))
        pids[:] = sorted(set(family(os.getpid())) - before)
        return url

    def restart() -> None:
        stack.close()
        start()

    with stack:
        yield Running(Place(folder, start()), folder, pids=lambda: pids, restart=restart)
