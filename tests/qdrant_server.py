"""A server that speaks Qdrant's REST protocol over Qdrant's own engine (``qdrant_edge``), on the loopback interface.

It stands in for a Qdrant server where none can be had: what the client sends is parsed, carried out by the real engine,
and answered in the server's form. Collections and their settings live in memory; ``stop`` and ``start`` keep them, so
that a test can restart it. It knows the calls the ``qdrant`` backend makes, API keys and strict mode, and nothing else.
"""

from __future__ import annotations

import json
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import qdrant_edge as edge

from mrl_adapters._qdrant_edge import types

__all__ = ["QdrantServer", "Refusal", "run_qdrant"]

JSON = dict[str, Any]


class Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class _Collection:
    def __init__(self, body: JSON) -> None:
        self.settings = body
        self.folder = tempfile.TemporaryDirectory()
        self.shard = edge.EdgeShard.create(self.folder.name, types.config_of(body["vectors"]))

    def close(self) -> None:
        self.shard.close()
        self.folder.cleanup()

    def info(self) -> JSON:
        known = self.shard.info()
        optimizers = {
            "deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0,
            "flush_interval_sec": 5,
        }  # fmt: skip
        config = {
            "params": {"vectors": self.settings["vectors"]},
            "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
            "optimizer_config": optimizers,
            "metadata": self.settings.get("metadata"),
        }
        return {
            "status": "green", "optimizer_status": "ok", "segments_count": known.segments_count,
            "points_count": known.points_count, "indexed_vectors_count": known.indexed_vectors_count,
            "payload_schema": {}, "config": config,
        }  # fmt: skip


class QdrantServer:
    """Start it, ask at :attr:`url`, stop it."""

    def __init__(self, *, api_key: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.api_key, self.tls = api_key, tls
        self.collections: dict[str, _Collection] = {}
        self.strict: JSON = {}
        """Limits of strict mode: ``search_allow_exact``, ``search_max_hnsw_ef``, ``max_query_limit``, …"""
        self.thinned: int | None = None
        """No more points than so many come of a coarse search with a filter, as where it leaves the graph in pieces."""
        self.hang_up_after: int | None = None
        """Carry out so many more upserts, then one without answering it."""
        self.port = 0
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self.start()

    @property
    def url(self) -> str:
        """Stays the same over a restart."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, on the port of the last time."""
        outer = self

        class Handler(_Handler):
            owner: ClassVar[QdrantServer] = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        """Listen no more. What is stored stays."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    def close(self) -> None:
        """Stop, and remove everything."""
        self.stop()
        for each in self.collections.values():
            each.close()

    def hangs_up(self, method: str, path: str) -> bool:
        """Whether this call gets no answer."""
        if self.hang_up_after is None or (method, path.rpartition("/")[2]) != ("PUT", "points"):
            return False
        self.hang_up_after -= 1
        if self.hang_up_after >= 0:
            return False
        self.hang_up_after = None
        return True

    # -- the protocol --------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, body: Any, key: str | None) -> Any:
        """The result of one call; raises :class:`Refusal`."""
        if self.api_key is not None and key != self.api_key:
            raise Refusal(401, "Must provide an API key or an Authorization bearer token")
        with self._lock:
            match [method, *path.strip("/").split("/")]:
                case ["GET", "collections"]:
                    return {"collections": [{"name": name} for name in self.collections]}
                case ["GET", "collections", name, "exists"]:
                    return {"exists": name in self.collections}
                case ["PUT", "collections", name]:
                    if name in self.collections:
                        raise Refusal(409, f"Wrong input: Collection `{name}` already exists!")
                    self.collections[name] = _Collection(body)
                    return True
                case ["DELETE", "collections", name]:
                    if found := self.collections.pop(name, None):
                        found.close()
                    return found is not None
                case [_, "collections", name, *verb]:
                    if name not in self.collections:
                        raise Refusal(404, f"Not found: Collection `{name}` doesn't exist!")
                    try:
                        return self._on(self.collections[name], [method, *verb], body)
                    except (Refusal, KeyError, TypeError):
                        raise
                    except Exception as error:  # the engine has no narrower class
                        raise Refusal(400, f"Wrong input: {error}") from error
        raise Refusal(404, f"nothing at {method} {path}")

    def _on(self, collection: _Collection, verb: list[str], body: Any) -> Any:
        shard = collection.shard
        match verb:
            case ["GET"]:
                return collection.info()
            case ["PATCH"]:
                collection.settings["metadata"] = collection.settings.get("metadata", {}) | body["metadata"]
                return True
            case ["PUT", "index"]:
                index = types.index_of(body["field_schema"])
                shard.update(edge.UpdateOperation.create_field_index(body["field_name"], index))
            case ["PUT", "points"]:
                self._limit("upsert_max_batchsize", "upsert limit", len(body["points"]))
                shard.update(edge.UpdateOperation.upsert_points(list(map(types.point_of, body["points"]))))
            case ["POST", "points", "delete"]:
                shard.update(edge.UpdateOperation.delete_points(body["points"]))
            case ["POST", "points"]:
                return list(map(_record, shard.retrieve(body["ids"], *_wanted(body))))
            case ["POST", "points", "count"]:
                return {"count": shard.count(edge.CountRequest(body["exact"], types.filter_of(body.get("filter"))))}
            case ["POST", "points", "scroll"]:
                self._limit("max_query_limit", "limit", body["limit"])
                payload, vectors = _wanted(body)
                found, following = shard.scroll(
                    edge.ScrollRequest(
                        body.get("offset"), body["limit"], types.filter_of(body.get("filter")), payload, vectors
                    )
                )
                offset = None if following is None else str(following)
                return {"points": list(map(_record, found)), "next_page_offset": offset}
            case ["POST", "points", "query", "batch"]:
                searches = list(map(_bare, body["searches"]))
                for search in searches:
                    self._check_strict(search)
                    self._thin(search)
                batch = edge.QueryBatchRequest(list(map(types.query_of, searches)))
                return [{"points": list(map(_scored, found))} for found in shard.query_batch(batch)]
            case _:
                raise Refusal(404, f"nothing at {verb}")
        return {"operation_id": 1, "status": "completed"}

    def _check_strict(self, stage: JSON) -> None:
        params = stage.get("params") or {}
        if self.strict.get("search_allow_exact") is False and params.get("exact"):
            raise Refusal(400, "Bad request: Exact search disabled! Help: Set exact=false.")
        self._limit("search_max_hnsw_ef", "hnsw_ef", params.get("hnsw_ef"))
        self._limit("search_max_oversampling", "oversampling", (params.get("quantization") or {}).get("oversampling"))
        self._limit("max_query_limit", "limit", stage["limit"])
        if prefetch := stage.get("prefetch"):
            self._check_strict(prefetch)

    def _thin(self, stage: JSON) -> None:
        if prefetch := stage.get("prefetch"):
            self._thin(prefetch)
        elif self.thinned is not None and stage.get("filter") and not (stage.get("params") or {}).get("exact"):
            stage["limit"] = min(stage["limit"], self.thinned)

    def _limit(self, setting: str, name: str, value: Any) -> None:
        limit = self.strict.get(setting)
        if limit is not None and value is not None and value > limit:
            raise Refusal(
                400,
                f'Bad request: Limit exceeded {value} > {limit} for "{name}". Help: Reduce the "{name}" parameter to or '
                f"below {limit}.",
            )


def _bare(stage: JSON) -> JSON:
    """A query as the adapters write it: the client wraps vectors, and may make lists of one prefetch."""
    query, prefetch = stage["query"], stage.get("prefetch")
    if isinstance(query, dict):
        query = query["nearest"]
    if isinstance(prefetch, list):
        (prefetch,) = prefetch
    return stage | {"query": query, "prefetch": None if prefetch is None else _bare(prefetch)}


def _wanted(body: JSON) -> tuple[Any, Any]:
    return body.get("with_payload"), body.get("with_vector")


def _record(point: Any) -> JSON:
    return {"id": str(point.id), "payload": point.payload, "vector": point.vector}


def _scored(point: Any) -> JSON:
    return _record(point) | {"version": point.version, "score": point.score}


class _Handler(BaseHTTPRequestHandler):
    owner: ClassVar[QdrantServer]
    protocol_version = "HTTP/1.1"
    timeout = 60  # an idle connection does not keep its thread for ever

    def _answer(self) -> None:
        body, path = self.rfile.read(int(self.headers.get("Content-Length") or 0)), self.path.partition("?")[0]
        try:
            wanted = json.loads(body) if body else None
            result = self.owner.answer(self.command, path, wanted, self.headers.get("api-key"))
            status, said = 200, {"status": "ok", "time": 0.0, "result": result}
        except Refusal as error:
            status, said = error.status, {"status": {"error": str(error)}, "time": 0.0}
        if self.owner.hangs_up(self.command, path):
            self.close_connection = True
            return
        text = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def run_qdrant(**options: Any) -> Iterator[QdrantServer]:
    """A running server, removed afterwards."""
    server = QdrantServer(**options)
    try:
        yield server
    finally:
        server.close()
