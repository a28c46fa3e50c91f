"""A real HTTP server on the loopback interface that answers as a test says, and remembers what it was asked."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    at: float


@dataclass
class Server:
    """``usual`` answers by path; ``first`` holds answers that are given before, one a request."""

    usual: Callable[[Server, Request], tuple[int, Any]]
    first: deque[Callable[[BaseHTTPRequestHandler, Request], None]] = field(default_factory=deque)
    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    port: int = 0
    most_at_a_time: int = 0
    under_way: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    @contextlib.contextmanager
    def running(self) -> Iterator[Server]:
        state = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                request = Request(self.path, body, {k.lower(): v for k, v in self.headers.items()}, time.monotonic())
                with state.lock:
                    state.requests.append(request)
                    first = state.first.popleft() if state.first else None
                    state.under_way += 1
                    state.most_at_a_time = max(state.most_at_a_time, state.under_way)
                try:
                    if first is not None:
                        first(self, request)
                    else:
                        status, answer = state.usual(state, request)
                        send(self, status, answer)
                finally:
                    with state.lock:
                        state.under_way -= 1

            def log_message(self, *_: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            self.port = server.server_address[1]
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()


def send(handler: BaseHTTPRequestHandler, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
    content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def answering(status: int, answer: Any, headers: dict[str, str] | None = None) -> Any:
    """An answer to put into ``first``."""
    return lambda handler, request: send(handler, status, answer, headers)


def cut(handler: BaseHTTPRequestHandler, request: Request) -> None:
    """The connection ends amid the answer."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(b'{"data": [')
    handler.close_connection = True


def hung_up(handler: BaseHTTPRequestHandler, request: Request) -> None:
    """The connection ends without an answer."""
    handler.close_connection = True


def late(seconds: float) -> Any:
    def answer(handler: BaseHTTPRequestHandler, request: Request) -> None:
        time.sleep(seconds)
        with contextlib.suppress(OSError):
            send(handler, 200, {})

    return answer
