"""Milvus Lite in this process: one engine a folder, shared by everybody who opens it here, gone with the last.

The engine speaks Milvus's own protocol over a socket. pymilvus would start it on a TCP port that every user of the
machine can reach; here it listens on a Unix socket in a folder that only this user can enter. It belongs to one
process at a time, which a lock file of its own sees to.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import re
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from mrl_retrieval.errors import BackendError, LockTimeout, MissingExtra, NotACollection

from .._temporary import Temporary

try:
    from milvus_lite.adapter.grpc.server import start_server_in_thread  # type: ignore[import-untyped]
    from milvus_lite.exceptions import DataDirLockedError  # type: ignore[import-untyped]
except ImportError as error:
    raise MissingExtra("the milvus backend", "milvus") from error

__all__ = ["DOOMED", "OURS", "Engine", "abandon", "bytes_in", "is_lite_folder", "join", "leave"]

log = logging.getLogger(__name__)

OURS = "mrl_"
"""What the names of our collections in Milvus begin with."""
DOOMED = "mrldropped_"
"""What a collection is renamed to before it is taken apart, so that an interrupted drop leaves nothing half there."""

_POLL_SECONDS = 0.05
_LONGEST_SOCKET = 100  # of 108 bytes that the system allows
_LOG = re.compile(r"wal_(?:data|delta)_(\d+)\.arrow")
_COLLECTIONS, _SCHEMA, _LOCK = "collections", "schema.json", "LOCK"


class Engine:
    """One running Milvus Lite.

    Args:
        folder: where its data are; None: in a temporary folder, which goes with the engine.
        lock_timeout: seconds to wait for another process that has the folder.
    """

    def __init__(self, folder: Path | None, lock_timeout: float) -> None:
        self.users = 0
        self.process = os.getpid()
        self.without_vector: dict[str, bool] = {}
        """Of each collection, whether rows without a vector were ever in it while this process has the folder."""
        self._temporary = Temporary("mrl-milvus-", at_exit=False)
        self.folder = folder or self._temporary.path / "data"
        try:
            self._server, self._db, self.uri = self._start(lock_timeout)
        except BaseException:
            self._temporary.remove()
            raise
        try:
            self._sweep()
        except BaseException:
            self.close()
            raise

    def _start(self, lock_timeout: float) -> tuple[Any, Any, str]:
        path = f"unix:{self._temporary.path}/s"
        end = time.monotonic() + lock_timeout
        while True:
            try:
                if len(path) < _LONGEST_SOCKET and os.name == "posix":
                    server, db, _ = start_server_in_thread(str(self.folder), host=path, port=0)
                    return server, db, f"{path}:0"
                server, db, port = start_server_in_thread(str(self.folder), host="127.0.0.1", port=0)
                return server, db, f"http://127.0.0.1:{port}"
            except DataDirLockedError as error:
                if time.monotonic() >= end:
                    raise LockTimeout(
                        f"{self.folder} is open elsewhere, and was not closed within lock_timeout={lock_timeout} s: "
                        "Milvus Lite gives a folder to one process at a time, readers included. Close the other one, "
                        "wait longer, or run a server and use milvus+http://host:19530"
                    ) from error
                time.sleep(_POLL_SECONDS)

    def _sweep(self) -> None:
        """Remove what an interrupted creation or drop left behind: nobody else has the folder now."""
        for found in (self.folder / _COLLECTIONS).iterdir():
            unfinished = found.name.startswith(OURS) and not (found / _SCHEMA).exists()
            if found.is_dir() and (unfinished or found.name.startswith(DOOMED)):
                log.info("removing %s, left behind by an interrupted call", found)
                shutil.rmtree(found, ignore_errors=True)
            elif found.name.startswith(OURS):
                _drop_written_logs(found)

    def close(self) -> None:
        """Write what is in memory and free the folder."""
        try:
            if self.process == os.getpid():
                self._server.stop(grace=2).wait()
                self._db.close()
        finally:
            self._temporary.remove()


def _drop_written_logs(collection: Path) -> None:
    """Remove the logs whose rows are all in data files already.

    A process killed between writing a data file and removing its log leaves both, and Milvus Lite then shows each of
    those rows twice: it tells versions of a row apart by a number that both copies share.
    """
    try:
        first_needed = json.loads((collection / "manifest.json").read_text(encoding="utf-8"))["active_wal_number"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for file in (collection / "wal").glob("wal_*.arrow"):
        number = _LOG.fullmatch(file.name)
        if number and isinstance(first_needed, int) and int(number[1]) < first_needed:
            log.info("removing %s, whose rows are in data files", file)
            file.unlink(missing_ok=True)


_ENGINES: dict[Path, Engine] = {}
_ENGINES_LOCK = threading.RLock()


def join(folder: Path | None, lock_timeout: float) -> Engine:
    """The engine of a folder, started by the first to ask; the folder is made if need be. None: one in a folder of its
    own, for nobody else.

    Raises:
        LockTimeout: another process has it.
        NotACollection: the folder holds something else.
        BackendError: it was opened before this process was forked.
    """
    with _ENGINES_LOCK:
        engine = None if folder is None else _ENGINES.get(folder)
        if engine is None:
            if folder is not None:
                is_lite_folder(folder)
                folder.mkdir(parents=True, exist_ok=True)
            engine = Engine(folder, lock_timeout)
            _ENGINES[engine.folder] = engine
        elif engine.process != os.getpid():
            raise BackendError(
                f"{folder} was opened before this process was forked; open it in one process only, or run a server "
                "and use milvus+http://host:19530"
            )
        engine.users += 1
        return engine


def leave(engine: Engine) -> None:
    """Let go of an engine; the last to do so closes it."""
    with _ENGINES_LOCK:
        engine.users -= 1
        if engine.users <= 0 and _ENGINES.get(engine.folder) is engine:
            del _ENGINES[engine.folder]
            engine.close()


def abandon(engine: Engine, client: Any) -> None:
    """Let go of an engine, and of a client of it, that nobody closed and nobody can reach any more.

    Done in a thread: this may be called wherever garbage is collected, in a thread of the engine too, which then would
    wait for itself.
    """

    def let_go() -> None:
        try:
            client.close()
        finally:
            leave(engine)

    if engine.process == os.getpid():
        with contextlib.suppress(RuntimeError):  # no new threads once the interpreter ends: then _close_all sees to it
            threading.Thread(target=let_go, name="mrl-milvus-abandon", daemon=True).start()


def is_lite_folder(folder: Path) -> bool:
    """Whether Milvus Lite keeps its data here; False where there is nothing yet.

    Raises:
        NotACollection: there is something else.
    """
    if not folder.exists():
        return False
    if folder.is_dir():
        if (folder / _COLLECTIONS).is_dir() and (folder / _LOCK).is_file():
            return True
        if not any(folder.iterdir()):
            return False
        raise NotACollection(
            f"{folder} is not empty, and is no Milvus Lite database (it has no {_COLLECTIONS}/); name another folder"
        )
    raise NotACollection(
        f"{folder} is a file; Milvus Lite 3 keeps a database in a folder (a .db file of Milvus Lite 2 has to be dumped "
        "with that version): name another path"
    )


def bytes_in(folder: Path) -> int:
    """What the files of a folder take; those that are removed meanwhile, nothing."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(path) / name).stat().st_size
    return total


@atexit.register
def _close_all() -> None:
    with _ENGINES_LOCK:
        while _ENGINES:
            folder, engine = _ENGINES.popitem()
            try:
                engine.close()
            except Exception:  # whatever it is: the engines after this one are to be closed too
                log.warning("closing %s failed", folder, exc_info=True)
