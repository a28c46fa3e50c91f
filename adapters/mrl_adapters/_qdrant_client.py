"""How the ``qdrant`` backend reaches Qdrant: options, the client in its three forms, and every error it can raise.

Qdrant's local mode keeps a folder to itself for as long as it is open, and is not made for several threads. So all
backends of this process that name one folder share one client, behind one lock; the last to close lets it go.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc  # type: ignore[import-untyped]
import httpx
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from mrl_retrieval.address import Address
from mrl_retrieval.errors import (
    BackendError,
    BackendUnavailable,
    CollectionNotFound,
    ConflictError,
    InvalidInput,
    LockTimeout,
    MRLError,
    NotACollection,
)

__all__ = ["INDEX_TYPES", "Connection", "Options"]

log = logging.getLogger(__name__)
T = TypeVar("T")

INDEX_TYPES = frozenset({"integer", "float", "keyword", "bool", "datetime", "text"})
_SERVER_ONLY = ("api_key", "prefer_grpc", "grpc_port", "timeout")
_API_KEY_VARIABLE = "MRL_QDRANT_API_KEY"
_DEFAULT_TIMEOUT = 30
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Options:
    """What ``from_address`` takes. None means Qdrant's own default."""

    api_key: str | None = field(default=None, repr=False)
    prefer_grpc: bool = False
    grpc_port: int = 6334
    timeout: int | None = None
    lock_timeout: float = 10.0
    shard_number: int | None = None
    replication_factor: int | None = None
    write_consistency_factor: int | None = None
    on_disk: bool = False
    quantization: str | None = None
    index_fields: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, address: Address, options: Mapping[str, Any]) -> Options:
        """Check the options of an address.

        Raises:
            InvalidInput: an unknown option, a wrong value, or one that only a server has.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(options) - known):
            raise InvalidInput(f"the qdrant backend has no option {unknown[0]!r}; known: {', '.join(sorted(known))}")
        if not address.url and (given := [name for name in _SERVER_ONLY if options.get(name)]):
            raise InvalidInput(f"{given[0]}= is for a Qdrant server, and {address} is none; leave it out")
        parsed = cls(**options)
        for name in ("timeout", "grpc_port", "shard_number", "replication_factor", "write_consistency_factor"):
            value = getattr(parsed, name)
            if value is not None and (type(value) is not int or value < 1):
                raise InvalidInput(f"{name}={value!r}: give a whole number of at least 1")
        if isinstance(parsed.lock_timeout, bool) or not isinstance(parsed.lock_timeout, (int, float)):
            raise InvalidInput(f"lock_timeout={parsed.lock_timeout!r}: give seconds as a number")
        if parsed.quantization not in (None, "scalar", "binary"):
            raise InvalidInput(f"quantization={parsed.quantization!r}: use 'scalar', 'binary' or None")
        for path, kind in parsed.index_fields.items():
            if kind not in INDEX_TYPES:
                raise InvalidInput(f"index_fields[{path!r}] is {kind!r}; known types: {', '.join(sorted(INDEX_TYPES))}")
        return parsed


class _Folder:
    """The one client that this process has on a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.RLock()
        self.client: QdrantClient | None = None
        self.users = 0


_FOLDERS: dict[Path, _Folder] = {}
_FOLDERS_LOCK = threading.Lock()


class Connection:
    """A client that is made when it is first needed, and whose errors are ours."""

    def __init__(self, address: Address, options: Options) -> None:
        self.address = address
        self._options = options
        self._api_key = (options.api_key or os.environ.get(_API_KEY_VARIABLE)) if address.url else None
        self._closed = False
        self._lock = threading.RLock()
        self._client: QdrantClient | None = None
        self._folder: _Folder | None = None
        if not address.url and not address.in_memory:
            self._path = address.folder.absolute()
            is_qdrant_folder(self._path)

    @property
    def local(self) -> bool:
        """Whether Qdrant runs in this process."""
        return not self.address.url

    def exists(self) -> bool:
        """Whether there is a place to read from. Looking takes no lock and creates nothing."""
        if self.local and not self.address.in_memory:
            return self._folder is not None or is_qdrant_folder(self._path)
        return True

    def run(self, action: Callable[[QdrantClient], T], *, doing: str) -> T:
        """Call the client; one call at a time in local mode.

        Raises:
            BackendError: Qdrant refused or failed, or this backend is closed.
            BackendUnavailable: the server cannot be reached.
            LockTimeout: another process has the folder.
        """
        with self._errors(doing):
            if not self.local:
                return action(self._server())
            lock = self._lock if self.address.in_memory else self._shared().lock
            with lock:
                client = self._local()
                with warnings.catch_warnings():
                    # Local mode warns of its own slowness beyond 20,000 points, and leaves the closing of a dropped
                    # collection's file to the garbage collector.
                    warnings.filterwarnings("ignore", message="Local mode is not recommended", category=UserWarning)
                    warnings.filterwarnings("ignore", category=ResourceWarning)
                    return action(client)

    def close(self) -> None:
        """Let the client go; the last to do so frees the folder."""
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
            folder, self._folder = self._folder, None
        if folder is not None:
            with _FOLDERS_LOCK, folder.lock:
                folder.users -= 1
                if folder.users == 0:
                    client, folder.client = folder.client, None
                    _FOLDERS.pop(folder.path, None)
        if client is not None:
            with self._errors("closing"):
                client.close()

    def _server(self) -> QdrantClient:
        with self._lock:
            self._check_open()
            if self._client is None:
                secret = self._api_key is not None
                if secret and urlsplit(self.address.url).scheme == "http" and not _is_loopback(self.address.url):
                    log.warning("the API key goes to %s unencrypted; use qdrant+https", self.address.url)
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="Api key is used with an insecure", category=UserWarning)
                    self._client = QdrantClient(
                        url=self.address.url,
                        api_key=self._api_key,
                        prefer_grpc=self._options.prefer_grpc,
                        grpc_port=self._options.grpc_port,
                        timeout=self._options.timeout or _DEFAULT_TIMEOUT,
                        # It would ask for the version in a thread of its own, and warn where it gets no answer.
                        check_compatibility=False,
                    )
            return self._client

    def _shared(self) -> _Folder:
        with self._lock:
            self._check_open()
            if self._folder is None:
                key = Path(os.path.realpath(self._path))
                with _FOLDERS_LOCK:
                    self._folder = _FOLDERS.setdefault(key, _Folder(key))
                    self._folder.users += 1
            return self._folder

    def _local(self) -> QdrantClient:
        """The client of local mode; its lock is held."""
        self._check_open()
        if self.address.in_memory:
            if self._client is None:
                self._client = QdrantClient(":memory:")
            return self._client
        folder = self._shared()
        if folder.client is None:
            is_qdrant_folder(folder.path)
            self._wait_for(folder.path / ".lock")
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Local mode is not recommended", category=UserWarning)
                # Our lock stands in for SQLite's check that one thread alone uses a connection.
                folder.client = QdrantClient(path=str(folder.path), force_disable_check_same_thread=True)
        return folder.client

    def _wait_for(self, lock: Path) -> None:
        """Wait until nobody holds the folder. Qdrant itself would not wait, and would leave files open."""
        import portalocker  # here, because importing it fails where no folder for temporary files can be written

        end = time.monotonic() + self._options.lock_timeout
        while lock.exists():
            try:
                with lock.open("r+") as file:
                    portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
                    portalocker.unlock(file)
                return
            except portalocker.exceptions.LockException as error:
                if time.monotonic() >= end:
                    raise self._held() from error
                time.sleep(_POLL_SECONDS)

    def _held(self) -> LockTimeout:
        return LockTimeout(
            f"another process has {self.address} open, and did not close it within lock_timeout="
            f"{self._options.lock_timeout} s. Qdrant's local mode gives a folder to one process at a time, readers "
            "included: close the other one, wait longer, or run a Qdrant server and use qdrant+http://host:6333"
        )

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError(f"{self.address} was closed; open it again")

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Every error of Qdrant's client, as ours."""
        try:
            yield
        except MRLError:
            raise
        except UnexpectedResponse as error:
            raise self._refused(doing, error.status_code, _words(error)) from error
        except ResponseHandlingException as error:
            if isinstance(error.source, httpx.HTTPError):
                raise self._unreachable(doing, error.source) from error
            raise self._failed(doing, error.source) from error
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
            words = error.details() if isinstance(error, grpc.Call) else str(error)
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise self._unreachable(doing, words) from error
            raise self._refused(doing, _HTTP_STATUS.get(code), words or code.name) from error
        except QdrantException as error:
            raise self._refused(doing, 429, str(error)) from error
        except (ApiException, ValueError, RuntimeError, OSError, sqlite3.Error) as error:
            if "already accessed by another instance" in str(error):
                raise self._held() from error
            if self.local and str(error).startswith("Collection") and str(error).endswith("not found"):
                raise self._gone() from error
            raise self._failed(doing, error) from error

    def _refused(self, doing: str, status: int | None, words: str) -> MRLError:
        said = f"Qdrant at {self.address.url} refused {doing}: {self._masked(words)}"
        if status in (401, 403):
            return BackendError(f"{said}; pass the right key as api_key= or in {_API_KEY_VARIABLE}")
        if status == 404 and "ollection" in words:
            return self._gone()
        if status == 409:
            return ConflictError(f"{said}; somebody else made it meanwhile: read the manifest again and repeat")
        if status == 413:
            return BackendError(f"{said}; ask for fewer rows, queries or ids at once")
        if status in (429, 502, 503, 504):
            return BackendUnavailable(f"{said}; it is too busy or not up yet: repeat the call later")
        if "Help:" in words:  # how Qdrant words what a strict-mode collection does not allow
            return BackendError(
                f"{said} This is the collection's strict mode: have its limits raised, ask with smaller coarse_top_k "
                "and top_k, without exact=True, or index the field that is filtered by (index_fields=)"
            )
        return BackendError(said)

    def _unreachable(self, doing: str, cause: object) -> BackendUnavailable:
        words = self._masked(str(cause)) or type(cause).__name__
        return BackendUnavailable(
            f"no answer from Qdrant at {self.address.url} while {doing} ({words}); is it running, is the port right, "
            f"does it need more than timeout={self._options.timeout or _DEFAULT_TIMEOUT} s?"
        )

    def _failed(self, doing: str, error: object) -> BackendError:
        return BackendError(
            f"Qdrant failed while {doing} at {self.address}: {self._masked(str(error)) or type(error).__name__}"
        )

    def _gone(self) -> CollectionNotFound:
        return CollectionNotFound(f"there is no collection at {self.address}; it was dropped, or index something first")

    def _masked(self, text: str) -> str:
        return text.replace(self._api_key, "***") if self._api_key else text


_HTTP_STATUS = {
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
}


def is_qdrant_folder(path: Path) -> bool:
    """Whether Qdrant's local mode keeps its data here; False where there is nothing yet.

    Raises:
        NotACollection: there is something else.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return False
    try:
        known = json.loads((path / "meta.json").read_text())
    except (OSError, ValueError):
        known = None
    if not isinstance(known, dict) or "collections" not in known:
        raise NotACollection(
            f"{path} is there, but is no folder of Qdrant's local mode (it has no readable meta.json); name another "
            "folder, or an empty one"
        )
    return True


def _is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def _words(error: UnexpectedResponse) -> str:
    """The server's own sentence, out of the JSON around it."""
    try:
        said = json.loads(error.content)["status"]["error"]
    except (ValueError, KeyError, TypeError):
        said = error.content.decode(errors="replace")[:500] or error.reason_phrase
    return f"{error.status_code} {said}"
