"""The qdrant backend and a server: down, restarted, hanging up, refusing."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from mrl_adapters._qdrant import points as _qdrant_points
from mrl_adapters._qdrant.filters import point_id
from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.errors import (
    BackendError,
    BackendUnavailable,
    ConflictError,
    InvalidInput,
)
from mrl_retrieval.registry import open_backend
from mrl_retrieval.two_stage import SearchRequest
from tests.backends.common import batch_of, manifest, queries, random_rows
from tests.backends.qdrant.helpers import TWO_STAGES, connect
from tests.qdrant_server import QdrantServer, run_qdrant


def test_a_server_that_comes_back_is_used_again(server: QdrantServer) -> None:
    with connect(server, 20) as backend:
        server.stop()
        for call in (backend.count, lambda: backend.upsert(batch_of(random_rows(1))), lambda: backend.delete(["id-1"])):
            with pytest.raises(BackendUnavailable, match="is it running"):
                call()
        server.start()
        assert backend.count() == 20
        assert len(backend.search(SearchRequest(queries(1), TWO_STAGES))[0].rows) == 5
        server.stop()
        server.start()
        backend.upsert(batch_of(random_rows(21)))
        assert backend.count() == 21


def test_a_server_that_goes_in_the_middle_of_a_batch(server: QdrantServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_qdrant_points, "REQUEST_BYTES", 5_000)
    rows = random_rows(30)
    with connect(server) as backend:
        requests = [ids for ids, _ in _qdrant_points.requests_of(batch_of(rows), backend.manifest)]
        assert len(requests) > 4
        server.hang_up_after = 2
        with pytest.raises(BackendUnavailable) as caught:
            backend.upsert(batch_of(rows))
        assert list(caught.value.indexed_ids) == requests[0] + requests[1]
        # The third was carried out, but nobody heard of it: repeating makes nothing twice.
        assert backend.count() == sum(map(len, requests[:3]))
        backend.upsert(batch_of(rows))
        assert backend.count() == 30
        assert len({id for batch in backend.scan() for id in batch.ids}) == 30


def test_the_retriever_repeats_what_was_not_answered(server: QdrantServer) -> None:
    with MatryoshkaRetriever(None, connect(server)) as retriever:
        server.hang_up_after = 0
        rows = random_rows(10)
        ids = retriever.index(
            [row.document for row in rows], [row.id for row in rows], vectors=[r.vector for r in rows]
        )
        assert retriever.count() == len(ids) == 10


def test_a_wrong_key(caplog: pytest.LogCaptureFixture) -> None:
    with run_qdrant(api_key="right-key") as server:
        for wrong in (None, "wrong-key"):
            with open_backend(f"qdrant+{server.url}", api_key=wrong) as backend:
                with pytest.raises(BackendError, match="401 Must provide an API key.*api_key=") as caught:
                    backend.read_manifest()
                assert "wrong-key" not in str(caught.value)
        with connect(server, 3, api_key="right-key") as backend:
            assert backend.count() == 3
    assert "right-key" not in caplog.text


def test_vectors_of_another_length_are_refused_in_the_engine_s_words(server: QdrantServer) -> None:
    with connect(server, 3) as backend:
        with pytest.raises(BackendError, match="refused writing rows.*expected dim: 24, got 1"):
            backend._upsert([{"id": point_id("x"), "vector": {"full": [1.0]}, "payload": {}}])
        assert backend.count() == 3


def test_of_two_who_create_one_gets_a_conflict(server: QdrantServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(server, 1) as backend:
        # The other one made it between our look and our creation.
        monkeypatch.setattr(backend, "read_manifest", lambda: None)
        with pytest.raises(ConflictError, match="already exists|changed meanwhile"):
            backend.write_manifest(manifest(), None)
        assert backend.count() == 1


@pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl to make a certificate with")
def test_certificates_are_checked_unless_told_otherwise(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with run_qdrant(tls=context) as server:
        with connect(server, 3, verify=str(certificate)) as backend:
            assert backend.count() == 3
        with connect(server, verify=certificate) as backend:
            assert backend.count() == 3
        with connect(server, verify=False) as backend:
            assert backend.count() == 3
        with open_backend(f"qdrant+{server.url}") as backend:
            with pytest.raises(BackendError, match="is not trusted.*verify=") as caught:
                backend.read_manifest()
            assert not isinstance(caught.value, BackendUnavailable)  # repeating it would not help
        with (
            open_backend(f"qdrant+{server.url}", verify=str(key)) as backend,
            pytest.raises(InvalidInput, match="no file of CA certificates"),
        ):
            backend.read_manifest()
