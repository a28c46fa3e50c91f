"""The qdrant backend and a server: down, restarted, hanging up, refusing; TLS; what versions of the client know."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from mrl_adapters import _qdrant_points, qdrant
from mrl_adapters._qdrant_filters import point_id
from mrl_adapters._qdrant_layout import vectors_config
from mrl_adapters.qdrant import QdrantBackend
from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.errors import BackendError, BackendUnavailable, ConflictError, InvalidInput
from mrl_retrieval.filters import parse_filter
from mrl_retrieval.registry import open_backend
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.qdrant_server import QdrantServer, run_qdrant
from tests.test_qdrant_backend import COARSE, DIM, batch_of, manifest, queries, random_rows

TWO_STAGES = (Stage(COARSE, 50), Stage(DIM, 5))


@pytest.fixture
def server() -> Iterator[QdrantServer]:
    with run_qdrant() as running:
        yield running


def connect(server: QdrantServer, n: int = 0, **options: Any) -> QdrantBackend:
    backend = open_backend(f"qdrant+{server.url}", timeout=10, **options)
    assert isinstance(backend, QdrantBackend)
    if backend.read_manifest() is None:
        backend.write_manifest(manifest((12,)), None)
    if n:
        backend.upsert(batch_of(random_rows(n)))
    return backend


@pytest.mark.parametrize("kind", ["none", "scalar", "binary", "turbo"])
def test_a_funnel_over_http_equals_the_core_s(server: QdrantServer, kind: str) -> None:
    stages = (Stage(COARSE, 300), Stage(12, 15), Stage(DIM, 7))
    with connect(server, 300, coarse_quantization=kind) as backend, open_backend("memory:") as memory:
        memory.write_manifest(manifest((12,)), None)
        memory.upsert(batch_of(random_rows(300)))
        for asked in (None, parse_filter({"third": True}), parse_filter({"n": {"$gte": 250}})):
            request = SearchRequest(queries(5), stages, asked)
            for ours, oracle in zip(backend.search(request), memory.search(request), strict=True):
                assert [row.id for row in ours.rows] == [row.id for row in oracle.rows]
                np.testing.assert_allclose(ours.scores, oracle.scores, atol=1e-5)
        assert backend.stats().details["coarse_quantization"] == kind
    vectors = server.collections["default"].settings["vectors"]
    assert vectors["full"]["memory"] == "cold" and vectors["full"]["on_disk"] is True
    assert set(vectors["coarse"].get("quantization_config", {"none": 0})) == {kind}
    with connect(server) as again:
        assert again.stats().details["coarse_quantization"] == kind


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


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"search_allow_exact": False}, "This is search_allow_exact .* search without exact=True"),
        ({"search_max_hnsw_ef": 100}, "400 > 100.*This is search_max_hnsw_ef .* smaller hnsw_ef="),
        ({"search_max_oversampling": 1.5}, "This is search_max_oversampling .* smaller oversampling="),
        ({"max_query_limit": 20}, "This is max_query_limit .* smaller coarse_top_k and top_k"),
        ({"upsert_max_batchsize": 5}, "This is upsert_max_batchsize .* smaller batch_size="),
    ],
)
def test_strict_mode_is_explained_by_its_setting(server: QdrantServer, limits: dict[str, Any], words: str) -> None:
    with connect(server, 5, coarse_quantization="scalar") as backend:
        server.strict = limits
        with pytest.raises(BackendError, match=words) as caught:
            if "search_allow_exact" in limits:
                backend.search(SearchRequest(queries(1), (Stage(DIM, 5),)))
            elif "upsert_max_batchsize" in limits:
                backend.upsert(batch_of(random_rows(6)))
            else:
                backend.search(SearchRequest(queries(1), TWO_STAGES))
        assert not isinstance(caught.value, BackendUnavailable)
    with connect(server, hnsw_ef=100, oversampling=1.5) as obeying:
        if set(limits) & {"search_max_hnsw_ef", "search_max_oversampling"}:
            assert len(obeying.search(SearchRequest(queries(1), TWO_STAGES))[0].rows) == 5


@pytest.mark.parametrize(
    ("said", "setting"),
    [
        ('Index required but not found for "metadata.year" of one of the following types: [float]. Help: Create an '
         "index for this key or use a different filter.", "unindexed_filtering_retrieve"),
        ("Filter condition limit reached (9 > 4). Help: Reduce the amount of conditions of your filter.",
         "filter_max_conditions"),
        ("Condition size limit reached (900 > 4). Help: Reduce the size of your condition.", "condition_max_size"),
        ("Max vector storage size limit of 1MB reached!", "max_collection_vector_size_bytes"),
        ('Limit exceeded 9 > 4 for "search batch size". Help: Reduce it.', "search_max_batchsize"),
        ("Something new. Help: Do not.", "strict mode"),
    ],
)  # fmt: skip
def test_every_strict_mode_setting_is_known_by_its_words(said: str, setting: str) -> None:
    with open_backend("qdrant+http://127.0.0.1:1") as backend:
        assert isinstance(backend, QdrantBackend)
        error = backend._connection._failures._refused("searching", 400, f"400 Bad request: {said}")
    assert type(error) is BackendError
    assert said in str(error) and setting in str(error)


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


# -- TLS ---------------------------------------------------------------------------------------------------


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


def test_wrong_tls_options() -> None:
    for options, words in (
        ({"verify": "/nowhere/ca.pem"}, "path of a file with CA certificates"),
        ({"verify": False, "prefer_grpc": True}, "gRPC always checks"),
    ):
        with pytest.raises(InvalidInput, match=words):
            open_backend("qdrant+https://h:1", **options)
    with pytest.raises(InvalidInput, match="verify= is for a Qdrant server"):
        open_backend("qdrant:", verify=False)


# -- versions of the client --------------------------------------------------------------------------------


def test_a_client_without_turboquant_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(models, "TurboQuantization")
    with pytest.raises(InvalidInput, match="upgrade it"):
        open_backend("qdrant+http://h:1", coarse_quantization="turbo")
    with open_backend("qdrant+http://h:1", coarse_quantization="binary") as backend:
        assert backend.capabilities.quantization == {"none", "scalar", "binary"}
    with open_backend("qdrant:") as local:
        assert local.capabilities.quantization == frozenset()


def test_a_client_without_memory_is_told_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    config = vectors_config(manifest((12,)), on_disk=True, coarse_quantization="scalar")
    assert config["full"]["memory"] == "cold"
    assert qdrant._known(config["full"]) == config["full"]
    fields = {name: field for name, field in models.VectorParams.model_fields.items() if name != "memory"}
    monkeypatch.setattr(models.VectorParams, "__pydantic_fields__", fields)
    assert qdrant._known(config["full"]) == {
        "size": DIM, "distance": "Dot", "hnsw_config": {"m": 0, "payload_m": 0}, "on_disk": True,
    }  # fmt: skip
    assert qdrant._known(config["coarse"])["quantization_config"] == {
        "scalar": {"type": "int8", "quantile": 0.99, "always_ram": True}
    }
