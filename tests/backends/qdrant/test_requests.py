"""What the qdrant backend sends to a server, and what it makes of answers that our own server does not give."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pytest

from mrl_adapters._qdrant.filters import point_id
from mrl_adapters.qdrant import QdrantBackend
from mrl_retrieval.errors import (
    BackendError,
    BackendUnavailable,
    CollectionNotFound,
)
from mrl_retrieval.filters import parse_filter
from mrl_retrieval.registry import open_backend
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.backends.common import COARSE, DIM, manifest, queries
from tests.backends.qdrant.stub import Answer, Stub, collection_info, ok, refused


@pytest.mark.parametrize("prefer_grpc", [False, True])
def test_nobody_listens(prefer_grpc: bool) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]  # bound, but nobody listens
        options = {"prefer_grpc": prefer_grpc, "grpc_port": port, "timeout": 5}
        with open_backend(f"qdrant+http://127.0.0.1:{port}", **options) as backend:
            with pytest.raises(BackendUnavailable, match=rf"127\.0\.0\.1:{port}.*is it running"):
                backend.read_manifest()
            with pytest.raises(BackendUnavailable):
                backend.collections()


def test_creation_on_a_server(stub: Stub) -> None:
    created: list[Any] = []
    stub.answers["GET /collections/default/exists"] = lambda _: ok({"exists": bool(created)})
    stub.answers["PUT /collections/default"] = lambda body: (created.append(body), ok(True))[1]
    stub.answers["PUT /collections/default/index"] = ok({"operation_id": 1, "status": "completed"})
    stub.answers["GET /collections/default"] = lambda _: ok(collection_info(created[0]["metadata"]))
    options = {"index_fields": {"year": "integer", "full name": "keyword"}, "shard_number": 2}
    with open_backend(f"qdrant+{stub.url}", coarse_quantization="binary", **options) as backend:
        backend.write_manifest(manifest(), None)
    (body,) = created
    assert body["shard_number"] == 2
    assert body["vectors"]["full"]["on_disk"] is True
    assert body["vectors"]["full"]["hnsw_config"] == {"m": 0, "payload_m": 0}
    assert "binary" in body["vectors"]["coarse"]["quantization_config"]
    assert "hnsw_config" not in body["vectors"]["coarse"]
    indexes = {b["field_name"]: b["field_schema"] for what, b, _ in stub.asked if what.endswith("/index")}
    assert indexes == {
        "_mrl_id": "keyword", "_mrl_tags": "keyword", "metadata.year": "float", 'metadata."full name"': "keyword",
    }  # fmt: skip


def test_a_server_too_old_for_metadata(stub: Stub) -> None:
    exists = iter([False, True, True])
    stub.answers["GET /collections/default/exists"] = lambda _: ok({"exists": next(exists)})
    stub.answers["PUT /collections/default"] = ok(True)
    stub.answers["DELETE /collections/default"] = ok(True)
    stub.answers["GET /collections/default"] = ok(collection_info(None))
    with (
        open_backend(f"qdrant+{stub.url}") as backend,
        pytest.raises(BackendError, match=r"from version 1\.16 on: upgrade"),
    ):
        backend.write_manifest(manifest(), None)
    assert stub.asked[-1][0] == "DELETE /collections/default"


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (refused(400, "Bad request: Exact search disabled. Help: Set exact=false."), BackendError, "strict mode"),
        (refused(401, "Must provide an API key"), BackendError, "MRL_QDRANT_API_KEY"),
        (refused(403, "Forbidden"), BackendError, "api_key="),
        (refused(404, "Not found: Collection `default` doesn't exist!"), CollectionNotFound, "no collection"),
        (refused(413, "Payload too large"), BackendError, "fewer"),
        (refused(503, "starting"), BackendUnavailable, "later"),
        (refused(500, "Service internal error: disk"), BackendError, "disk"),
        ((200, {"result": "nonsense"}), BackendError, "failed while searching"),
    ],
)
def test_what_a_server_refuses(stub: Stub, answer: Answer, kind: type[BackendError], words: str) -> None:
    stub.answers["POST /collections/default/points/query/batch"] = answer
    with open_backend(f"qdrant+{stub.url}") as backend:
        with pytest.raises(kind, match=words) as caught:
            backend.search(SearchRequest(queries(1), (Stage(DIM, 3),)))
        assert type(caught.value) is kind
        assert caught.value.__cause__ is not None


def test_the_request_of_a_search(stub: Stub) -> None:
    payload = {"document": "t", "_mrl_id": "a", "_mrl_metadata": '{"year":1.0}', "_mrl_has_vector": True}
    point = {"id": point_id("a"), "version": 1, "score": 0.5, "payload": payload}
    stub.answers["POST /collections/default/points/query/batch"] = ok([{"points": [point]}])
    stub.answers["POST /collections/default/points/count"] = ok({"count": 1})
    stub.answers["POST /collections/default/points/scroll"] = ok({"points": [], "next_page_offset": None})
    with open_backend(f"qdrant+{stub.url}", api_key="s3cret") as backend:
        asked = parse_filter({"year": {"$gte": 1}})
        (found,) = backend.search(SearchRequest(queries(1), (Stage(COARSE, 50), Stage(DIM, 3)), asked))
        assert [repr(row.metadata) for row in found.rows] == ["{'year': 1.0}"]
    bodies = [body for what, body, _ in stub.asked if what.endswith("query/batch")]
    ((search,),) = [body["searches"] for body in bodies]  # fewer than asked for, but the count says: all there are
    assert search["using"] == "full"
    assert search["limit"] == 3
    assert search["prefetch"]["using"] == "coarse"
    assert search["prefetch"]["limit"] == 50
    quantized = {"rescore": True, "oversampling": 8.0}
    assert search["prefetch"]["params"] == {"hnsw_ef": 400, "quantization": quantized}
    tag, bound = search["prefetch"]["filter"]["must"]
    assert tag == {"key": "_mrl_tags", "match": {"value": '"year":number'}}
    assert bound == {"key": "metadata.year", "range": {"gte": 1.0}}
    assert {headers["api-key"] for _, _, headers in stub.asked} == {"s3cret"}


def test_a_graph_that_gave_too_little_is_left_out(stub: Stub) -> None:
    def point(name: str) -> dict[str, Any]:
        kept = {"_mrl_id": name, "_mrl_metadata": "{}"}
        return {"id": point_id(name), "version": 1, "score": 0.5, "payload": kept}

    def answer(body: Any) -> Answer:
        names = "abc" if (body["searches"][0].get("params") or {}).get("exact") else "a"
        return ok([{"points": [point(name) for name in names]}])

    stub.answers["POST /collections/default/points/query/batch"] = answer
    stub.answers["POST /collections/default/points/count"] = ok({"count": 3})
    with open_backend(f"qdrant+{stub.url}") as backend:
        (found,) = backend.coarse_search(queries(1, dim=COARSE), 10, parse_filter({"a": 1}))
        assert found.ids == ["a", "b", "c"]


def test_many_candidates_are_counted_only_where_they_may_be_all(stub: Stub) -> None:
    """An exact count of a large collection takes about as long as the search."""
    counts: list[bool] = []
    stub.answers["POST /collections/default/points/query/batch"] = ok([{"points": []}])
    for rows, candidates, expected in (
        (100_000, 999, []),
        (100_000, 1000, [False]),
        (1500, 1000, [False, True]),
        (900, 1000, [False, True]),
    ):
        counts.clear()
        stub.asked.clear()
        stub.answers["POST /collections/default/points/count"] = lambda body, rows=rows: (
            counts.append(body["exact"]), ok({"count": rows})
        )[1]  # fmt: skip
        with open_backend(f"qdrant+{stub.url}") as backend:
            backend.search(SearchRequest(queries(1), (Stage(COARSE, candidates), Stage(DIM, 3))))
        assert counts == expected
        ((search,),) = [body["searches"] for what, body, _ in stub.asked if what.endswith("query/batch")]
        assert ("exact" in search["prefetch"]["params"]) == (rows <= candidates)


def test_the_api_key_is_never_shown(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = "top-secret-key"
    monkeypatch.setenv("MRL_QDRANT_API_KEY", key)
    stub.answers["GET /collections/default/exists"] = refused(403, f"Forbidden: key {key} is read-only")
    with caplog.at_level(logging.DEBUG), open_backend(f"qdrant+{stub.url}") as backend:
        with pytest.raises(BackendError, match=r"key \*\*\* is read-only") as caught:
            backend.read_manifest()
        assert key not in str(caught.value)
        assert key not in repr(backend._settings)
    assert key not in caplog.text
    assert stub.asked[0][2]["api-key"] == key
    with open_backend("qdrant+http://qdrant.example:6333", api_key=key, timeout=1) as remote:
        assert isinstance(remote, QdrantBackend)
        with caplog.at_level(logging.WARNING):
            remote._connection._server()
        assert "unencrypted" in caplog.text
        assert key not in caplog.text
