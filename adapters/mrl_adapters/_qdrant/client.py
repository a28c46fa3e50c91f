"""How the ``qdrant`` backend reaches Qdrant: the client in its three forms, in memory, on a folder, to a server.

Qdrant's local mode keeps a folder to itself for as long as it is open, and is not made for several threads. So all
backends of this process that name one folder share one client, behind one lock; the last to close lets it go.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import ssl
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from qdrant_client import QdrantClient

from mrl_retrieval.address import Address
from mrl_retrieval.errors import BackendError, InvalidInput, MRLError, NotACollection
from mrl_retrieval.storage.files import os_errors

from .errors import API_KEY_VARIABLE, Failures
from .options import ServerOptions

__all__ = ["Connection"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_DEFAULT_TIMEOUT = 30
_GRPC_PORT = 6334
_POLL_SECONDS = 0.05


class _Folder:
    """The one client that this process has on a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.RLock()
        self.client: QdrantClient | None = None
        self.users = 0
        self.process = os.getpid()


_FOLDERS: dict[Path, _Folder] = {}
_FOLDERS_LOCK = threading.Lock()
_OPEN: weakref.WeakSet[Connection] = weakref.WeakSet()


def _leave(folder: _Folder) -> QdrantClient | None:
    """Count one user less; the last gets the client, to close it."""
    with _FOLDERS_LOCK:
        folder.users -= 1
        if folder.users:
            return None
        _FOLDERS.pop(folder.path, None)
    # Somebody may be opening it this moment, and have to wait for another process first.
    with folder.lock:
        client, folder.client = folder.client, None
    return client


def _abandon(folder: _Folder) -> None:
    """Leave a folder for a backend that nobody closed and nobody can reach any more.

    Done in a thread: this may be called wherever garbage is collected, also where a lock is held that it takes.
    """

    def let_go() -> None:
        client = _leave(folder)
        if client is not None:
            client.close()

    if folder.process == os.getpid():  # in a forked child it is the parent's
        with contextlib.suppress(RuntimeError):  # no new threads once the interpreter ends: _close_all sees to it
            threading.Thread(target=let_go, name="mrl-qdrant-abandon").start()


@atexit.register
def _close_all() -> None:
    """Close what nobody closed: a client that is left to the end of Python fails there, and prints a traceback."""
    for connection in list(_OPEN):
        with contextlib.suppress(MRLError):
            connection.close()
    for folder in list(_FOLDERS.values()):  # of backends that were forgotten before
        if folder.client is not None:
            folder.client.close()


class Connection:
    """A client that is made when it is first needed, and whose errors are ours."""

    def __init__(self, address: Address, options: ServerOptions) -> None:
        self.address = address
        self._options = options
        self._api_key = _api_key(options.api_key) if address.url else None
        self._timeout = options.timeout or _DEFAULT_TIMEOUT
        self._failures = Failures(address, self._timeout, options.lock_timeout, self._api_key)
        self._closed = False
        self._lock = threading.RLock()
        self._client: QdrantClient | None = None
        self._folder: _Folder | None = None
        self._abandoned: weakref.finalize[..., Connection] | None = None
        if not address.url and not address.in_memory:
            self._path = address.folder.absolute()
            is_qdrant_folder(self._path)
        _OPEN.add(self)

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
        with self._failures.mapped(doing):
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
            if self._abandoned is not None:
                self._abandoned.detach()
        if folder is not None:
            client = _leave(folder)
        if client is not None:
            with self._failures.mapped("closing"):
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
                        grpc_port=self._options.grpc_port or _GRPC_PORT,
                        timeout=self._timeout,
                        # It would ask for the version in a thread of its own, and warn where it gets no answer.
                        check_compatibility=False,
                        **self._tls(),
                    )
            return self._client

    def _tls(self) -> dict[str, Any]:
        """What the client has to be told to trust certificates of one's own, by REST and by gRPC."""
        trusted = self._options.verify
        if not isinstance(trusted, str):
            return {} if trusted else {"verify": False}
        try:
            certificates = Path(trusted).read_bytes()
            context = ssl.create_default_context(cafile=trusted)
        except (OSError, ssl.SSLError) as error:
            raise InvalidInput(f"verify={trusted!r} is no file of CA certificates in PEM form: {error}") from error
        return {"verify": context, "grpc_options": {"root_certificates": certificates}}

    def _shared(self) -> _Folder:
        with self._lock:
            self._check_open()
            if self._folder is None:
                key = Path(os.path.realpath(self._path))
                with _FOLDERS_LOCK:
                    self._folder = _FOLDERS.setdefault(key, _Folder(key))
                    self._folder.users += 1
                self._abandoned = weakref.finalize(self, _abandon, self._folder)
                self._abandoned.atexit = False
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
            end = time.monotonic() + self._options.lock_timeout
            while folder.client is None:
                self._wait_for(folder.path / ".lock", end)
                folder.client = self._open(folder.path, end)
        return folder.client

    def _open(self, path: Path, end: float) -> QdrantClient | None:
        """None where another process was faster to take the folder, and there is time to wait for it."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Local mode is not recommended", category=UserWarning)
            warnings.filterwarnings("ignore", category=ResourceWarning)
            try:
                # Our lock stands in for SQLite's check that one thread alone uses a connection.
                return QdrantClient(path=str(path), force_disable_check_same_thread=True)
            except RuntimeError as error:
                if "already accessed by another instance" not in str(error):
                    raise
                if time.monotonic() >= end:
                    raise self._failures.held() from error
        return None

    def _wait_for(self, lock: Path, end: float) -> None:
        """Wait until nobody holds the folder. Qdrant itself would not wait, and would leave files open."""
        import portalocker  # here, because importing it fails where no folder for temporary files can be written

        while lock.exists():
            try:
                with lock.open("r+") as file:
                    portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
                    portalocker.unlock(file)
                return
            except portalocker.exceptions.LockException as error:
                if time.monotonic() >= end:
                    raise self._failures.held() from error
                time.sleep(_POLL_SECONDS)

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError(f"{self.address} was closed; open it again")


def _api_key(given: str | None) -> str | None:
    """The key that goes with each request, if any; what cannot be sent is refused here, where nothing shows it."""
    key = given or os.environ.get(API_KEY_VARIABLE) or None
    if key is not None and not (key.isascii() and key.isprintable() and key == key.strip()):
        where = "api_key=" if given else API_KEY_VARIABLE
        raise InvalidInput(f"{where} has a character in it that no header can hold; is there a line break at its end?")
    return key


def is_qdrant_folder(path: Path) -> bool:
    """Whether Qdrant's local mode keeps its data here; False where there is nothing yet.

    Raises:
        NotACollection: there is something else.
        BackendError: this process may not look.
    """
    with os_errors(f"looking into {path}"):
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return False
        try:
            known = json.loads((path / "meta.json").read_bytes())
        except PermissionError:
            raise
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
