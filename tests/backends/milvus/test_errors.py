"""Servers that are down, silent, restarted or refusing, and what is said of it."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("milvus_lite", reason="milvus-lite is not installed: pip install 'mrl-retrieval[milvus]'")

import grpc
from pymilvus.grpc_gen import milvus_pb2_grpc

from mrl_adapters.milvus import MilvusBackend
from mrl_retrieval.errors import BackendError, BackendUnavailable
from mrl_retrieval.matryoshka import prefix
from tests.backends.common import batch_of
from tests.backends.milvus.helpers import COARSE, MANIFEST, Opener, client_of, rows, vectors
from tests.milvus_server import run_milvus
from tests.servers import free_port


def test_a_server_that_is_down(open_at: Opener) -> None:
    one = open_at(f"milvus+http://127.0.0.1:{free_port()}", timeout=1, token="very-secret")
    for call in (one.read_manifest, one.collections, one.count):
        with pytest.raises(BackendUnavailable, match="cannot be reached") as caught:
            call()
        assert "very-secret" not in str(caught.value)


def test_a_server_that_does_not_answer(open_at: Opener) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        one = open_at(f"milvus+http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.5)
        with pytest.raises(BackendUnavailable, match=r"0\.5 s"):
            one.read_manifest()


class Refusing(milvus_pb2_grpc.MilvusServiceServicer):
    """Knows nobody, and tells whom: in what it was sent, in what that means, and by the password alone."""

    def Connect(self, request: Any, context: grpc.ServicerContext) -> None:
        sent = dict(context.invocation_metadata())["authorization"]
        token = base64.b64decode(sent).decode()
        said = f"{sent}, {sent.rstrip('=')}, {token}, {token.partition(':')[2]}"
        context.abort(grpc.StatusCode.UNAUTHENTICATED, f"auth check failure, please check {said} api key is correct")


@pytest.fixture
def refusing() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    milvus_pb2_grpc.add_MilvusServiceServicer_to_server(Refusing(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"milvus+http://127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.mark.parametrize(
    ("options", "variable", "token"),
    [
        ({"token": "very-secret"}, None, "very-secret"),
        ({"token": "root:very:secret"}, None, "root:very:secret"),
        ({"user": "me", "password": "very-secret"}, None, "me:very-secret"),
        ({}, "root:very-secret", "root:very-secret"),
        ({"token": "schlüssel:geheim"}, None, "schlüssel:geheim"),
    ],
)
def test_a_wrong_token(
    open_at: Opener,
    refusing: str,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, str],
    variable: str | None,
    token: str,
) -> None:
    if variable:
        monkeypatch.setenv("MILVUS_TOKEN", variable)
    one = open_at(refusing, timeout=2, **options)
    with pytest.raises(BackendError, match=r"refuses the credentials.*check \*\*\*, \*\*\*, .*MILVUS_TOKEN") as caught:
        one.read_manifest()
    assert not isinstance(caught.value, BackendUnavailable)
    said = str(caught.value) + repr(one._options)
    encoded = base64.b64encode(token.encode()).decode()
    for secret in (token, token.partition(":")[2] or token, encoded, encoded.rstrip("=")):
        assert secret not in said


def test_a_server_that_is_restarted(open_at: Opener, tmp_path: Path) -> None:
    port = free_port()
    with run_milvus(tmp_path, port) as url:
        one = open_at(f"milvus+{url}", timeout=3)
        assert one.capabilities.persistent
        one.write_manifest(MANIFEST, None)
        one.upsert(batch_of(rows(5)))
    with pytest.raises(BackendUnavailable):
        one.count()
    with run_milvus(tmp_path, port):
        assert one.count() == 5
        one.upsert(batch_of(rows(5, start=5)))
        assert len(one.coarse_search(prefix(vectors(1), COARSE), 20, None)[0].ids) == 10
        one.drop()


def test_a_collection_that_somebody_released(backend: MilvusBackend) -> None:
    backend.upsert(batch_of(rows(5)))
    client_of(backend).release_collection("mrl_default")
    assert backend.count() == 5
    client_of(backend).release_collection("mrl_default")
    assert len(backend.coarse_search(prefix(vectors(1), COARSE), 20, None)[0].ids) == 5


def test_a_refusal_has_milvus_own_words_and_no_noise(
    backend: MilvusBackend, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(BackendError, match=r"(?s)code 6.*unterminated string") as caught:
        backend._entities.query("counting", 'pk == "', ["pk"])
    assert not caplog.records and type(caught.value) is BackendError
    with pytest.raises(BackendError, match="closed"):
        backend.close()
        backend.get(["a"])
