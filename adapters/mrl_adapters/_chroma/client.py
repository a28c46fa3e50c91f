"""How the Chroma adapter reaches Chroma: in memory, in a folder, on a server; and what its errors mean."""

from __future__ import annotations

import os
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from mrl_retrieval.address import Address
from mrl_retrieval.errors import (
    BackendError,
    BackendUnavailable,
    CollectionNotFound,
    MissingExtra,
    MRLError,
    NotACollection,
)
from mrl_retrieval.storage import forks

from .._rust import translated
from . import systems
from .options import Access

try:
    import chromadb
    import httpx
    from chromadb.config import DEFAULT_DATABASE, DEFAULT_TENANT, Settings
    from chromadb.errors import AuthorizationError, ChromaAuthError, NotFoundError
except ImportError as error:
    raise MissingExtra("the chroma backend", "chroma") from error

__all__ = ["Connection"]

_SHORTEST_SECRET = 4
_NOT_ALLOWED = re.compile(
    "permission denied|readonly database|read-only file system|unable to open database file", re.I
)
_DEFAULT_PORT = {"http": 8000, "https": 443}


class Connection:
    """One place: opened by the first use, closed once."""

    def __init__(self, address: Address, **options: Any) -> None:
        """Takes the options of :class:`Access`."""
        self.address = address
        remote = bool(address.url)
        access = Access.checked(address, options)
        self._headers, self._timeout = access.headers, access.timeout
        self._tenant, self._database = access.tenant or DEFAULT_TENANT, access.database or DEFAULT_DATABASE
        self._client: Any = None
        self._closed = False
        self._lock = threading.RLock()
        forks.register(self)
        folder = None if remote or address.in_memory else Path(os.path.realpath(address.folder))
        self._folder = folder
        self.key = address.url or (str(folder) if folder else f"memory-{uuid.uuid4()}")
        """Tells one place from another within this process."""
        with self.errors("opening"):
            if folder is not None and folder.exists() and not folder.is_dir():
                raise NotACollection(f"{folder} is a file; a Chroma database is a folder: choose another path")
            self._is_there()

    @property
    def folder(self) -> Path | None:
        """The folder; None in memory and on a server."""
        return self._folder

    def _is_there(self) -> bool:
        """Whether there is anything to read; raises where something else is in the folder."""
        if self._folder is None or (self._folder / "chroma.sqlite3").is_file():
            return True
        if self._folder.is_dir() and any(self._folder.iterdir()):
            raise NotACollection(
                f"{self._folder} is not empty and is no Chroma database (it has no chroma.sqlite3); choose another "
                "folder"
            )
        return False

    def reader(self) -> Any | None:
        """The client, or None where there is no database yet; creates nothing on disk."""
        with self.errors("opening"):
            if self._client is None and not self._closed and not self._is_there():
                return None
        return self.client()

    def client(self) -> Any:
        """The client; creates the database where there is none."""
        with self._lock:
            if self._closed:
                raise BackendError(f"the connection to {self.address} is closed; open the collection again")
            if self._client is None:
                with self.errors("connecting"), self._alone():
                    self._client = self._open()
            return self._client

    def _alone(self) -> AbstractContextManager[object]:
        """Held while Chroma's systems in this process start and end. A slow server is nobody else's to wait for."""
        return nullcontext() if self.address.url else systems.lock()

    def _open(self) -> Any:
        if self._folder is not None:
            return systems.open_folder(self._folder)
        if not self.address.url:
            return systems.MemoryClient()
        # Not by httpx: to it a port that is the default of HTTP, 80, is none.
        parts = urlsplit(self.address.url)
        url = httpx.URL(self.address.url).copy_with(port=parts.port or _DEFAULT_PORT[parts.scheme])
        self._greet(str(url).rstrip("/"))
        client = chromadb.HttpClient(
            host=str(url),
            port=url.port or 0,
            ssl=url.scheme == "https",
            headers=dict(self._headers),
            settings=Settings(chroma_server_host=None, chroma_server_http_port=None, anonymized_telemetry=False),
            tenant=self._tenant,
            database=self._database,
        )
        for session in _sessions(client):
            session.timeout = httpx.Timeout(self._timeout)
        return client

    def _greet(self, url: str) -> None:
        """Ask for the database before Chroma does: its own first requests have no timeout, and leak when they fail."""
        place = f"/api/v2/tenants/{quote(self._tenant, safe='')}/databases/{quote(self._database, safe='')}"
        status = httpx.get(url + place, headers=self._headers, timeout=self._timeout).status_code
        if status in (401, 403):
            raise BackendError(
                f"the Chroma server at {url} refuses the credentials (HTTP {status}); give api_key= or headers=, or "
                "set CHROMA_API_KEY"
            )
        if status == 404:
            raise BackendError(
                f"the server at {url} has no database {self._database!r} of tenant {self._tenant!r} (HTTP 404); create "
                "it, give tenant= and database=, or correct the address"
            )

    def after_fork(self) -> None:
        """In a child process, let go of the parent's threads and sockets."""
        self._lock = threading.RLock()
        client, self._client = self._client, None
        if isinstance(client, systems.MemoryClient):
            client.abandon()

    def close(self) -> None:
        """Release files and sockets; a second call is no error."""
        with self._lock, self._alone():
            client, self._client, self._closed = self._client, None, True
            if client is None:
                return
            for session in _sessions(client):
                session.close()
            with self.errors("closing"):
                client.close()

    def errors(self, doing: str) -> AbstractContextManager[None]:
        """Turn whatever Chroma raises into this library's errors: the one place where that is done."""
        return translated(partial(self._translated, doing))

    def _translated(self, doing: str, error: BaseException) -> MRLError:
        words = str(error) or type(error).__name__
        for secret in self._headers.values():
            if len(secret) >= _SHORTEST_SECRET:
                words = words.replace(secret, "***")
        where = self.address.url or str(self._folder or "in memory")
        if isinstance(error, httpx.TransportError) or isinstance(error.__context__, httpx.TransportError):
            return BackendUnavailable(
                f"{doing}: the Chroma server at {where} cannot be reached or did not answer in {self._timeout:g} s "
                f"({words}); start it with 'chroma run', or correct the address, or give a longer timeout="
            )
        if isinstance(error, NotFoundError):
            return CollectionNotFound(
                f"{doing}: Chroma at {where} says {words!r}; collection {self.address.collection!r}, tenant "
                f"{self._tenant!r} or database {self._database!r} is not there, or was dropped meanwhile: open it again"
            )
        if isinstance(error, (ChromaAuthError, AuthorizationError)):
            return BackendError(
                f"{doing}: the Chroma server at {where} refuses the credentials ({words}); give api_key= or headers=, "
                "or set CHROMA_API_KEY"
            )
        if self._folder is not None and _NOT_ALLOWED.search(words):
            return BackendError(
                f"{doing}: Chroma may not read and write in {self._folder} ({words}); check the permissions of this "
                "folder, of the files in it and of the folder above it: Chroma writes there even to read"
            )
        return BackendError(f"{doing}: Chroma at {where} failed: {type(error).__name__}: {words}")


def _sessions(client: Any) -> Iterator[httpx.Client]:
    """The HTTP sessions of a client for a server, which Chroma neither closes nor gives a timeout.

    There are two: the client makes another one for its questions about tenants.
    """
    for part in (client, getattr(client, "_admin_client", None)):
        session = getattr(getattr(part, "_server", None), "_session", None)
        if isinstance(session, httpx.Client):
            yield session
