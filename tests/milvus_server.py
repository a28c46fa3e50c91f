"""A fixture that runs Milvus Lite's own server for a test session, on a free port, its data in a temporary folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import free_port, running


@contextlib.contextmanager
def run_milvus(folder: Path, port: int | None = None) -> Iterator[str]:
    """Run ``milvus-lite server`` on a folder; gives ``http://127.0.0.1:PORT`` and ends the server afterwards."""
    from pymilvus import MilvusClient
    from pymilvus.exceptions import MilvusException

    port = port or free_port()
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            MilvusClient(url, timeout=5, dedicated=True).close()
        except MilvusException:
            return False
        return True

    command = ["milvus-lite", "server", "--data-dir", str(folder / "data"), "--host", "127.0.0.1", "--port", str(port)]
    with running("Milvus Lite", command, folder, answers):
        yield url


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Milvus Lite server shared by the session; use one collection name per test."""
    pytest.importorskip("milvus_lite", reason="milvus-lite is not installed: pip install 'mrl-retrieval[milvus]'")
    with run_milvus(tmp_path_factory.mktemp("milvus-server")) as url:
        yield url
