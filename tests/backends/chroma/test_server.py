"""A Chroma server: down, started again, and what is sent to it."""

from __future__ import annotations

import socket
import threading
import uuid
from pathlib import Path

import httpx
import pytest

pytest.importorskip("chromadb", reason="chromadb is not installed: pip install 'mrl-retrieval[chroma]'")

from mrl_adapters._chroma import systems
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


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://host", 8000),
        ("http://host:80", 80),
        ("http://host:8000", 8000),
        ("https://host", 443),
        ("https://host:443", 443),
        ("https://host:80", 80),
    ],
)
def test_the_port_that_is_asked(url: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours and Chroma's own first requests."""
    asked: list[tuple[str, int]] = []

    def answer(_: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        asked.append((request.url.scheme, request.url.port or {"http": 80, "https": 443}[request.url.scheme]))
        if request.url.path.endswith("/auth/identity"):
            return httpx.Response(200, json={"user_id": "", "tenant": "*", "databases": []}, request=request)
        return httpx.Response(200, json={"name": "any", "tenant": "any", "id": str(uuid.uuid4())}, request=request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", answer)
    with open_backend(f"chroma+{url}") as backend:
        assert isinstance(backend, ChromaBackend)
        backend._connection.client()
    assert len(asked) > 1 and set(asked) == {(url.partition(":")[0], port)}


def test_a_server_that_is_slow_to_answer_holds_up_nobody_else() -> None:
    errors: list[BaseException] = []

    def read(backend: ChromaBackend) -> None:
        try:
            backend.read_manifest()
        except BaseException as error:
            errors.append(error)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        backend = open_backend(f"chroma+http://127.0.0.1:{listening.getsockname()[1]}")
        assert isinstance(backend, ChromaBackend)
        thread = threading.Thread(target=read, args=(backend,))
        thread.start()
        with listening.accept()[0] as greeted:
            assert greeted.recv(1)
            free = systems.lock().acquire(blocking=False)
            if free:
                systems.lock().release()
    thread.join()
    backend.close()
    assert free, "others cannot open or close anything"
    assert [type(error) for error in errors] == [BackendUnavailable]
