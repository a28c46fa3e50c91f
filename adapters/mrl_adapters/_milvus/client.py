"""How the ``milvus`` backend reaches Milvus: in memory, in a folder, on a server; and what its errors mean."""

from __future__ import annotations

import base64
import contextvars
import errno
import logging
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mrl_retrieval.address import Address
from mrl_retrieval.errors import BackendError, BackendUnavailable, CollectionNotFound, MissingExtra, MRLError

from . import lite
from .options import Options

try:
    import grpc  # type: ignore[import-untyped]
    from pymilvus import MilvusClient  # type: ignore[import-untyped]
    from pymilvus.exceptions import (  # type: ignore[import-untyped]
        ConnectError,
        MilvusException,
        MilvusUnavailableException,
    )
except ImportError as error:
    raise MissingExtra("the milvus backend", "milvus") from error

__all__ = ["Connection", "NotLoaded"]

log = logging.getLogger(__name__)

_NOT_LOADED = frozenset({101, 106})
_NOT_FOUND, _TIMED_OUT, _NO_CONNECTION, _RATE_LIMIT = 100, 1, 2, 8
_UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_SHORTEST_SECRET = 4

_CALLING: contextvars.ContextVar[bool] = contextvars.ContextVar("calling_milvus", default=False)


class NotLoaded(BackendError):
    """Milvus has the collection, but not in memory, as after a restart: it has to be told to load it."""


class _Quiet(logging.Filter):
    """pymilvus logs every refusal with its traceback to stderr; in our calls the raised error says it all."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _CALLING.get()


for _name in ("pymilvus.decorators", "pymilvus.client.connection_manager", "pymilvus.client.grpc_handler"):
    logging.getLogger(_name).addFilter(_Quiet())


class Place:
    """What everybody in this process shares who reaches one folder or server."""

    def __init__(self) -> None:
        self.writing = threading.RLock()
        """Held by a write from its first call to its last."""
        self.turn = threading.RLock()
        """Held during one call to Milvus Lite, whose readers can miss rows while it moves them from memory to disk."""
        self.unflushed: dict[str, int] = {}
        """Rows per collection that Milvus Lite may still hold in memory only, where searching them is slow."""


_PLACES: dict[str, Place] = {}
_PLACES_LOCK = threading.Lock()


class Connection:
    """One place, connected by the first use and closed once."""

    def __init__(self, address: Address, options: Options) -> None:
        self.address = address
        self.options = options
        self._secret = options.secret(remote=bool(address.url))
        self._client: Any = None
        self._engine: lite.Engine | None = None
        self._lite: bool | None = None
        self._closed = False
        self._lock = threading.RLock()
        self._abandoned: weakref.finalize[..., Connection] | None = None
        self.folder: Path | None = None
        """Where Milvus Lite keeps the data; None on a server, and in memory before the first write."""
        if not address.url and not address.in_memory:
            with self.errors("opening"):
                self.folder = Path(os.path.realpath(address.folder))
                lite.is_lite_folder(self.folder)
        key = address.url + "/" + (options.db_name or "") if address.url else str(self.folder or id(self))
        with _PLACES_LOCK:
            self.place = Place() if address.in_memory else _PLACES.setdefault(key, Place())

    @property
    def lite(self) -> bool:
        """Whether Milvus Lite answers, in this process or on a server. Connects."""
        if self._lite is None:
            self.client()
        return bool(self._lite)

    @property
    def without_vector(self) -> dict[str, bool] | None:
        """:attr:`.lite.Engine.without_vector`; None on a server, where other processes write too. Connects."""
        self.client()
        return None if self._engine is None else self._engine.without_vector

    def exists(self) -> bool:
        """Whether there is a place to read from; creates nothing."""
        if self._closed:
            raise self._is_closed()
        if self.address.url or self._client is not None:
            return True
        with self.errors("looking for the database"):
            return self.folder is not None and lite.is_lite_folder(self.folder)

    def client(self) -> Any:
        """The pymilvus client; makes the folder where there is none.

        Raises:
            BackendError: it is closed, or Milvus refuses.
            BackendUnavailable: no server answers.
            LockTimeout: another process has the folder.
        """
        with self._lock:
            if self._closed:
                raise self._is_closed()
            if self._client is None:
                with self.errors("connecting"):
                    self._connect()
            elif self._engine is not None and self._engine.process != os.getpid():
                lite.join(self._engine.folder, 0)  # says that this process was forked
            return self._client

    def _connect(self) -> None:
        arguments: dict[str, Any] = {"timeout": self.options.timeout, "dedicated": True}
        uri = self.address.url
        if not uri:
            self._engine = lite.join(self.folder, self.options.lock_timeout)
            self.folder = self._engine.folder
            uri = self._engine.uri
        elif self._secret is not None:
            arguments["token"] = self._secret
            if uri.startswith("http://") and not _is_loopback(uri):
                log.warning("the Milvus token goes to %s unencrypted; use milvus+https", uri)
        if self.options.db_name:
            arguments["db_name"] = self.options.db_name
        try:
            client = MilvusClient(uri, **arguments, **self.options.tls)
            try:
                version = str(client.get_server_version(timeout=self.options.timeout))
            except BaseException:
                client.close()
                raise
        except BaseException:
            self._leave()
            raise
        self._client, self._lite = client, version.startswith("milvus_lite")
        if self._engine is not None:
            self._abandoned = weakref.finalize(self, lite.abandon, self._engine, client)
            self._abandoned.atexit = False  # at exit all engines are closed

    def call(self, doing: str, method: str, **arguments: Any) -> Any:
        """One call of pymilvus's client, with our timeout and our errors."""
        client = self.client()
        with self.errors(doing):
            if not self._lite:
                return getattr(client, method)(timeout=self.options.timeout, **arguments)
            with self.place.turn:
                return getattr(client, method)(timeout=self.options.timeout, **arguments)

    def _is_closed(self) -> BackendError:
        return BackendError(f"the connection to {self.address} is closed; open the collection again")

    def close(self) -> None:
        """Release files and sockets; a second call is no error."""
        with self._lock:
            client, self._client, self._closed = self._client, None, True
            if client is not None:
                with self.errors("closing"):
                    client.close()
            self._leave()

    def _leave(self) -> None:
        engine, self._engine = self._engine, None
        if self._abandoned is not None:
            self._abandoned.detach()
        if engine is not None:
            lite.leave(engine)
        if self.address.in_memory:
            self.folder = None

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Turn whatever pymilvus raises into this library's errors: the one place where that is done."""
        calling = _CALLING.set(True)
        try:
            yield
        except MRLError:
            raise
        except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError, OSError, ValueError) as error:
            raise self._translated(doing, error) from error
        finally:
            _CALLING.reset(calling)

    def _translated(self, doing: str, error: Exception) -> MRLError:
        where = self.address.url or str(self.folder or "in memory")
        words = getattr(error, "message", "") or str(error) or type(error).__name__
        code = getattr(error, "code", None)
        if (rpc := _rpc_error(error)) is not None:
            code = rpc.code()
            words = f"{words}: {code.name} {rpc.details()}"
        for secret in _forms(self._secret or ""):
            words = words.replace(secret, "***")
        if isinstance(error, OSError) and error.errno in _DENIED and not self.address.url:
            return self._denied(doing, where, words)
        if isinstance(error, OSError) and error.errno is not None and not self.address.url:
            return BackendError(f"{doing}: {where}: {words}; check this folder and the space on its disk")
        if isinstance(error, OSError) and error.filename is not None:
            return BackendError(f"{doing}: {words}; check the files that tls= names")
        if not self.address.url and "[Errno 13]" in words:  # of the engine, which runs here
            return self._denied(doing, where, words)
        lowered = words.lower()
        if code in _REFUSED or "unauthenticated" in lowered or "auth check failure" in lowered:
            return BackendError(
                f"{doing}: Milvus at {where} refuses the credentials ({words}); give token=, or user= and password=, "
                "or set MILVUS_TOKEN"
            )
        if code == _NOT_FOUND:
            return CollectionNotFound(
                f"{doing}: Milvus at {where} says {words!r}; collection {self.address.collection!r} is not there, or "
                "was dropped meanwhile: open it again"
            )
        if code == _RATE_LIMIT:
            return BackendUnavailable(f"{doing}: Milvus at {where} is at its rate limit ({words}); repeat it later")
        if (
            isinstance(error, (ConnectError, MilvusUnavailableException, grpc.FutureTimeoutError, OSError))
            or code in _UNAVAILABLE
            or code == _NO_CONNECTION
            or (code == _TIMED_OUT and "retry " in lowered)
        ):
            return BackendUnavailable(
                f"{doing}: Milvus at {where} cannot be reached or did not answer in {self.options.timeout:g} s "
                f"({words}); is it running, is the address right, does it need a longer timeout=?"
            )
        kind = NotLoaded if code in _NOT_LOADED else BackendError
        return kind(f"{doing}: Milvus at {where} refused (code {code}): {words}")

    @staticmethod
    def _denied(doing: str, where: str, words: str) -> BackendError:
        return BackendError(
            f"{doing}: permission denied: this process may not read and write {where} ({words}); check the permissions "
            "of this folder and of what is in it"
        )


def _rpc_error(error: BaseException | None) -> Any | None:
    """What gRPC said, which pymilvus may hide behind words of its own."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:  # pymilvus raises errors from themselves
        if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
            return error
        seen.append(error)
        error = next((e for e in (error.__cause__, error.__context__) if e is not None and e not in seen), None)
    return None


def _forms(secret: str) -> list[str]:
    """What of a token may come back in a server's words, longest first: the token, its base64 as pymilvus sends it,
    and the password of ``user:password``."""
    encoded = base64.b64encode(secret.encode(errors="replace")).decode("ascii")
    forms = {secret, encoded, encoded.rstrip("="), secret.partition(":")[2]}
    return sorted((form for form in forms if len(form) >= _SHORTEST_SECRET), key=len, reverse=True)


def _is_loopback(uri: str) -> bool:
    return any(uri.startswith(f"http://{host}") for host in ("localhost", "127.0.0.1", "[::1]"))
