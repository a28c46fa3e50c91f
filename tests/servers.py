"""Fixtures that run a real database server for a test session, on a free port, with its data in a temporary folder."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest


def free_port() -> int:
    """A TCP port on the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(name: str, command: Sequence[str], folder: Path, answers: Callable[[], bool]) -> Iterator[None]:
    """Run a program of this environment in a folder until ``answers()`` holds, and end it afterwards.

    Args:
        name: what to call it, where it does not start.
        command: a program installed beside Python, and its arguments.
        folder: made if it is not there; the program's output goes to ``server.log`` in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program, *arguments = command
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [str(Path(sys.executable).with_name(program)), *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
        try:
            deadline = time.monotonic() + 60
            while not answers():
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the {name} server did not start:\n{log.read_text(errors='replace')}")
                time.sleep(0.05)
            yield
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@contextlib.contextmanager
def run_chroma(folder: Path, port: int | None = None) -> Iterator[str]:
    """Run ``chroma run`` on a folder; gives ``http://127.0.0.1:PORT`` and ends the server afterwards."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/api/v2/heartbeat", timeout=5).is_success
        except httpx.TransportError:
            return False

    command = ["chroma", "run", "--path", str(folder / "data"), "--host", "127.0.0.1", "--port", str(port)]
    with running("Chroma", command, folder, answers):
        yield url


@pytest.fixture(scope="session")
def chroma_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Chroma server shared by the session; use one collection name per test."""
    pytest.importorskip("chromadb", reason="chromadb is not installed: pip install 'mrl-retrieval[chroma]'")
    with run_chroma(tmp_path_factory.mktemp("chroma-server")) as url:
        yield url
