"""A server that answers what it is told: for what the backend sends, and what a real server may refuse."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Answer", "Stub", "collection_info", "ok", "refused"]

Answer = tuple[int, Any]


class Stub:
    """A server that answers what it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Callable[[Any], Answer]] = {}
        self.asked: list[tuple[str, Any, dict[str, str]]] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                what = f"{self.command} {self.path.split('?')[0]}"
                value = json.loads(body) if body else None
                stub.asked.append((what, value, dict(self.headers)))
                known = stub.answers.get(what, (404, {"status": {"error": f"nothing at {what}"}}))
                status, said = known(value) if callable(known) else known
                text = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def ok(result: Any) -> Answer:
    return 200, {"status": "ok", "time": 0.0, "result": result}


def refused(status: int, words: str) -> Answer:
    return status, {"status": {"error": words}, "time": 0.0}


def collection_info(metadata: dict[str, Any] | None) -> dict[str, Any]:
    config = {
        "params": {"vectors": {"coarse": {"size": 6, "distance": "Dot", "quantization_config": {"binary": {}}}}},
        "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
        "optimizer_config": {
            "deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0,
            "flush_interval_sec": 5,
        },
        "metadata": metadata,
    }  # fmt: skip
    return {
        "status": "green", "optimizer_status": "ok", "segments_count": 1, "points_count": 0, "payload_schema": {},
        "config": config,
    }  # fmt: skip
