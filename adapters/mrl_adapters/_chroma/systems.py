"""Chroma inside this process: its *systems*, and what becomes of them when they fail to start, or in a forked child.

Chroma keeps one system per folder in a process, shared by its clients. Two systems on one folder do not see each
other's vectors, so a folder is always opened under its real path, and a system that somebody else in this process
has opened on it is joined, not doubled. In-memory clients of a process would share one system; each of ours gets
its own.

A system runs threads, which a forked child does not have: whatever is asked of it there waits for ever, even its own
end. A new system does not help, since some threads are shared by all of a process. So the child refuses to use Chroma
in this way, and never ends what it inherited.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from pathlib import Path
from typing import Any

from mrl_retrieval.errors import BackendError, MissingExtra
from mrl_retrieval.storage import forks

try:
    import chromadb
    from chromadb.api import ServerAPI
    from chromadb.api.models.Collection import Collection
    from chromadb.api.shared_system_client import SharedSystemClient
    from chromadb.config import Settings, System
except ImportError as error:
    raise MissingExtra("the chroma backend", "chroma") from error

__all__ = ["MemoryClient", "lock", "open_folder", "write_lock"]

_RUST = "chromadb.api.rust.RustBindingsAPI"


class MemoryClient:
    """The few methods of a Chroma client that are needed, on a system that nobody shares."""

    def __init__(self) -> None:
        _PROCESS.use()
        self._system = System(
            Settings(chroma_api_impl=_RUST, is_persistent=False, persist_directory="", anonymized_telemetry=False)
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

    def abandon(self) -> None:
        """Never end it: for a forked child."""
        _keep_for_ever(self._system)

    def _wrap(self, model: Any) -> Collection:
        return Collection(client=self._api, model=model, embedding_function=None)


class _Process:
    """What is shared by everything in this process that uses Chroma."""

    def __init__(self) -> None:
        self._is_used = False
        self._forked_from: int | None = None
        self._renew()
        forks.register(self)

    def _renew(self) -> None:
        # Chroma creates and counts its shared systems without a lock of its own around both.
        self.lock = threading.RLock()
        self._write_locks: weakref.WeakValueDictionary[tuple[str, str], threading.RLock] = weakref.WeakValueDictionary()
        self._write_locks_lock = threading.Lock()

    def write_lock(self, key: tuple[str, str]) -> threading.RLock:
        with self._write_locks_lock:
            return self._write_locks.setdefault(key, threading.RLock())

    def use(self) -> None:
        """Note that a system is about to be started.

        Raises:
            BackendError: one was, before this process was forked.
        """
        if self._forked_from is not None:
            raise BackendError(
                f"Chroma was used in process {self._forked_from} before this one ({os.getpid()}) was forked from it, "
                "and without the threads of that one it would wait for ever; start processes by 'spawn' or "
                "'forkserver', fork before the first use, or run a server ('chroma run')"
            )
        self._is_used = True

    def after_fork(self) -> None:
        """In the child: start with locks of its own, and keep the systems of the parent from being ended."""
        self._renew()
        inherited = [s for s in _systems().values() if s.settings.chroma_api_impl == _RUST]
        for system in inherited:
            _keep_for_ever(system)
        if self._forked_from is None and (self._is_used or inherited):
            self._forked_from = os.getppid()


_PROCESS = _Process()


def lock() -> threading.RLock:
    """Held while clients are opened and closed."""
    return _PROCESS.lock


def write_lock(place: str, collection: str) -> threading.RLock:
    """The one lock of this process for writing to a collection."""
    return _PROCESS.write_lock((place, collection))


def open_folder(folder: Path) -> Any:
    """A client on the system that this process has on the folder already, else on a new one. Call it with the lock.

    Raises:
        BackendError: this process was forked from one that has used Chroma.
    """
    _PROCESS.use()
    path, settings = str(folder), Settings(anonymized_telemetry=False)
    for name, system in list(_systems().items()):
        if not system.settings.is_persistent or os.path.realpath(name) != str(folder):
            continue
        if name in SharedSystemClient._identifier_to_refcount:
            path, settings = name, system.settings
        else:
            _forget(name)
    try:
        return chromadb.PersistentClient(path=path, settings=settings)
    except BaseException:
        # Chroma lists a system before it starts it, and would hand out the one that failed ever after.
        if path not in SharedSystemClient._identifier_to_refcount:
            _forget(path)
        raise


def _systems() -> dict[str, System]:
    return SharedSystemClient._identifier_to_system


def _forget(name: str) -> None:
    _systems().pop(name, None)
    SharedSystemClient._identifier_to_refcount.pop(name, None)


def _keep_for_ever(system: System) -> None:
    """Count one reference too many. Else Rust would wait for the system's threads, and Python for Rust as it exits."""
    api = system.instance(ServerAPI)  # type: ignore[type-abstract]  # Chroma resolves it to the implementation
    bindings = getattr(api, "bindings", None)
    if bindings is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(bindings))
