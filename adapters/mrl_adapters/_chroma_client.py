"""How the Chroma adapter reaches Chroma: in memory, in a folder, on a server; and what its errors mean.

Chroma keeps one *system* per folder in a process, shared by its clients. Two systems on one folder do not see each
other's vectors, so a folder is always opened under its real path, and a system that somebody else in this process
has opened on it is joined, not doubled. In-memory clients of a process would share one system; each of ours gets
its own.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mrl_retrieval.address import Address
from mrl_retrieval.errors import (
    AddressError,
    BackendError,
    BackendUnavailable,
    CollectionNotFound,
    MissingExtra,
    MRLError,
    NotACollection,
)

try:
    import chromadb
    import httpx
    from chromadb.api import ServerAPI
    from chromadb.api.models.Collection import Collection
    from chromadb.api.shared_system_client import SharedSystemClient
    from chromadb.config import DEFAULT_DATABASE, DEFAULT_TENANT, Settings, System
    from chromadb.errors import AuthorizationError, ChromaAuthError, NotFoundError
except ImportError as error:
    raise MissingExtra("the chroma backend", "chroma") from error

__all__ = ["Connection"]

logger = logging.getLogger(__name__)

# Chroma creates and counts its shared systems without a lock of its own around both.
_SYSTEMS = threading.RLock()
_SHORTEST_SECRET = 4
_NOT_ALLOWED = re.compile(
    "permission denied|readonly database|read-only file system|unable to open database file", re.I
)
_DEFAULT_PORT = {"http": 8000, "https": 443}


class _MemoryClient:
    """The few methods of a Chroma client that are needed, on a system that nobody shares."""

    def __init__(self) -> None:
        self._system = System(
            Settings(
                chroma_api_impl="chromadb.api.rust.RustBindingsAPI",
                is_persistent=False,
                persist_directory="",
                anonymized_telemetry=False,
            )
        )
        self._api = self._system.instance(ServerAPI)  # type: ignore[type-abstract]  # Chroma resolves it to the implementation
        self._system.start()

    def create_collection(self, name: str, **options: Any) -> Collection:
        options.pop("embedding_function")
        return self._wrap(self._api.create_collection(name, **options))

    def get_collection(self, name: str, **_: Any) -> Collection:
        return self._wrap(self._api.get_collection(name))

    def list_collections(self) -> list[Collection]:
        return [self._wrap(model) for model in self._api.list_collections()]

    def delete_collection(self, name: str) -> None:
        self._api.delete_collection(name)

    def get_max_batch_size(self) -> int:
        return self._api.get_max_batch_size()

    def close(self) -> None:
        self._system.stop()

    def _wrap(self, model: Any) -> Collection:
        return Collection(client=self._api, model=model, embedding_function=None)


class Connection:
    """One place: opened by the first use, closed once."""

    def __init__(
        self,
        address: Address,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        tenant: str | None = None,
        database: str | None = None,
        timeout: float = 120.0,
    ) -> None:
        self.address = address
        remote = bool(address.url)
        given = {"api_key": api_key, "headers": headers, "tenant": tenant, "database": database}
        unused = [name for name, value in given.items() if value is not None and not remote]
        if unused:
            raise AddressError(f"{', '.join(unused)}: only for a Chroma server, but the address is {address}")
        api_key = api_key or (os.environ.get("CHROMA_API_KEY") if remote else None)
        self._headers = dict(headers or {}) | ({"x-chroma-token": api_key} if api_key else {})
        self._tenant = tenant or (os.environ.get("CHROMA_TENANT") if remote else None) or DEFAULT_TENANT
        self._database = database or (os.environ.get("CHROMA_DATABASE") if remote else None) or DEFAULT_DATABASE
        self._timeout = timeout
        self._client: Any = None
        self._closed = False
        self._lock = threading.RLock()
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
                with self.errors("connecting"), _SYSTEMS:
                    self._client = self._open()
            return self._client

    def _open(self) -> Any:
        if self._folder is not None:
            path, settings = self._joined(self._folder)
            return chromadb.PersistentClient(path=path, settings=settings)
        if not self.address.url:
            return _MemoryClient()
        url = httpx.URL(self.address.url)
        url = url.copy_with(port=url.port or _DEFAULT_PORT[url.scheme])
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

    @staticmethod
    def _joined(folder: Path) -> tuple[str, Settings]:
        """The path and settings of the system that this process has on the folder already, else new ones."""
        systems: Mapping[str, System] = getattr(SharedSystemClient, "_identifier_to_system", {})
        for path, system in list(systems.items()):
            if system.settings.is_persistent and os.path.realpath(path) == str(folder):
                return path, system.settings
        return str(folder), Settings(anonymized_telemetry=False)

    def close(self) -> None:
        """Release files and sockets; a second call is no error."""
        with self._lock, _SYSTEMS:
            client, self._client, self._closed = self._client, None, True
            if client is None:
                return
            for session in _sessions(client):
                session.close()
            with self.errors("closing"):
                client.close()

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Turn whatever Chroma raises into this library's errors: the one place where that is done."""
        try:
            yield
        except MRLError:
            raise
        except Exception as error:
            raise self._translated(doing, error) from error

    def _translated(self, doing: str, error: Exception) -> MRLError:
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
