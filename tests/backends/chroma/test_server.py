"""A Chroma server: down, started again, and what is sent to it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("chromadb", reason="chromadb is not installed: pip install 'mrl-retrieval[chroma]'")

from mrl_adapters.chroma import ChromaBackend
from mrl_retrieval.errors import (
    BackendError,
    BackendUnavailable,
)
from mrl_retrieval.registry import open_backend
from tests.backends.chroma.helpers import by_id, made, rows, same
from tests.backends.common import batch_of
from tests.servers import free_port, run_chroma


def test_a_server_that_is_down(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with open_backend(f"chroma+{url}") as down, pytest.raises(BackendUnavailable, match=f"{url}.*chroma run"):
        down.read_manifest()
    with run_chroma(tmp_path) as url:
        backend = made(f"chroma+{url}")
        backend.upsert(batch_of(rows(3)))
    with pytest.raises(BackendUnavailable, match=url):
        backend.count()
    with pytest.raises(BackendUnavailable, match=url):
        list(backend.scan())
    backend.close()


def test_a_server_keeps_what_it_was_given(tmp_path: Path) -> None:
    with run_chroma(tmp_path) as url, made(f"chroma+{url}") as backend:
        backend.upsert(batch_of(rows(30)))
    with run_chroma(tmp_path) as url, open_backend(f"chroma+{url}") as backend:
        assert backend.count() == 30
        assert all(same(row, by_id(backend, vectors=True)[row.id]) for row in rows(30))


def test_a_tenant_that_is_not_there(chroma_server: str) -> None:
    lost = open_backend(f"chroma+{chroma_server}", tenant="nobody")
    with lost, pytest.raises(BackendError, match="tenant 'nobody'"):
        lost.count()


def test_the_token_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch, chroma_server: str) -> None:
    monkeypatch.setenv("CHROMA_API_KEY", "from-the-environment")
    for options, key in [({}, "from-the-environment"), ({"api_key": "given"}, "given")]:
        with open_backend(f"chroma+{chroma_server}", headers={"X-Other": "1"}, **options) as backend:
            assert isinstance(backend, ChromaBackend)
            backend.read_manifest()
            sent = backend._connection.client()._server.get_request_headers()
            assert (sent["x-chroma-token"], sent["x-other"]) == (key, "1")
            with pytest.raises(BackendError) as caught, backend._connection.errors("trying"):
                raise RuntimeError(f"the server echoes {key}")
            assert key not in str(caught.value)
            assert key not in str(backend.address)
