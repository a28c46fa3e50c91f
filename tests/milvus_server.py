"""A fixture that runs Milvus Lite's own server for a test session, on a free port, its data in a temporary folder."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import free_port


@contextlib.contextmanager
def run_milvus(folder: Path, port: int | None = None) -> Iterator[str]:
    """Run ``milvus-lite server`` on a folder; gives ``http://127.0.0.1:PORT`` and ends the server afterwards."""
    from pymilvus import MilvusClient
    from pymilvus.exceptions import MilvusException

    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(Path(sys.executable).with_name("milvus-lite")), "server", "--data-dir", str(folder / "data")]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder)
        try:
            deadline = time.monotonic() + 60
            while True:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the Milvus Lite server did not start:\n{log.read_text(errors='replace')}")
                with contextlib.suppress(MilvusException):
                    MilvusClient(url, timeout=5, dedicated=True).close()
                    break
                time.sleep(0.1)
            yield url
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Milvus Lite server shared by the session; use one collection name per test."""
    pytest.importorskip("milvus_lite", reason="milvus-lite is not installed: pip install 'mrl-retrieval[milvus]'")
    with run_milvus(tmp_path_factory.mktemp("milvus-server")) as url:
        yield url
