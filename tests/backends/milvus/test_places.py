"""Where a collection can be: in memory, in a folder that processes take turns at, after a fork."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("milvus_lite", reason="milvus-lite is not installed: pip install 'mrl-retrieval[milvus]'")

from mrl_adapters._milvus import lite as _milvus_lite
from mrl_adapters.milvus import MilvusBackend
from mrl_retrieval.errors import BackendError, BackendUnavailable, LockTimeout, NotACollection
from mrl_retrieval.matryoshka import prefix
from tests.backends.common import batch_of
from tests.backends.milvus.helpers import COARSE, MANIFEST, Opener, rows, run, vectors
from tests.backends.nobody import reachable_folder, without_privileges


def test_opening_and_reading_create_nothing(open_at: Opener, tmp_path: Path) -> None:
    one = open_at()
    assert one.read_manifest() is None and one.collections() == []
    one.drop()
    one.flush()
    assert not (tmp_path / "kb").exists()


def test_in_memory_leaves_nothing_behind(open_at: Opener) -> None:
    one, other = open_at("milvus:"), open_at("milvus::memory:")
    assert not one.capabilities.persistent
    one.write_manifest(MANIFEST, None)
    one.upsert(batch_of(rows(3)))
    assert one.count() == 3 and other.read_manifest() is None
    folder = one._connection.folder
    assert folder is not None and folder.exists()
    one.close()
    assert not folder.parent.exists()
    with pytest.raises(BackendError, match="closed"):
        one.count()


def test_other_folders_and_files_are_refused(open_at: Opener, tmp_path: Path) -> None:
    (tmp_path / "old.db").write_bytes(b"SQLite format 3")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    for name, words in (("old.db", "is a file"), ("photos", "not empty")):
        with pytest.raises(NotACollection, match=words):
            open_at(f"milvus:{tmp_path}/{name}")
    assert sorted(p.name for p in (tmp_path / "photos").iterdir()) == ["a.jpg"]


def test_the_socket_is_nobody_elses(backend: MilvusBackend) -> None:
    engine = backend._connection._engine
    assert engine is not None and engine.uri.startswith("unix:")
    socket = Path(engine.uri.removeprefix("unix:"))
    assert socket.parent.stat().st_mode & 0o077 == 0
    backend.close()
    assert not socket.parent.exists()


def test_backends_of_one_process_share_a_folder(backend: MilvusBackend, open_at: Opener, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "kb")
    other = open_at(f"milvus:{tmp_path}/link")
    backend.upsert(batch_of(rows(5)))
    assert other.read_manifest() == MANIFEST and other.count() == 5
    other.delete(["0"])
    assert backend.get(["0"]) == [None]
    backend.close()
    assert other.count() == 4
    other.drop()
    assert other.collections() == []


def test_a_folder_belongs_to_one_process(open_at: Opener, tmp_path: Path) -> None:
    code = """
        import sys
        from mrl_retrieval.registry import open_backend
        from mrl_retrieval.manifest import Manifest
        one = open_backend(sys.argv[1])
        one.write_manifest(Manifest(dim=4, coarse_dims=2, fine_dims=4), None)
        print("open", flush=True)
        sys.stdin.readline()
        one.close()
    """
    other = run(code, f"milvus:{tmp_path}/kb", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdin is not None and other.stdout is not None
    assert other.stdout.readline() == "open\n"
    hurried, patient = open_at(lock_timeout=0.2), open_at(lock_timeout=60)
    with pytest.raises(LockTimeout, match=r"lock_timeout=0\.2"):
        hurried.read_manifest()
    threading.Timer(0.3, lambda: other.stdin and other.stdin.close()).start()
    read = patient.read_manifest()
    assert read is not None and read.dim == 4
    assert other.wait(30) == 0
    other.stdout.close()


def test_a_process_that_closes_nothing_ends_and_loses_nothing(open_at: Opener, tmp_path: Path) -> None:
    code = """
        import sys
        import numpy as np
        from mrl_retrieval import MatryoshkaRetriever
        one = MatryoshkaRetriever(None, sys.argv[1])
        one.index(["a", "b"], ["a", "b"], vectors=np.eye(24)[:2])
        memory = MatryoshkaRetriever(None, "milvus:")
        memory.index(["a", "b"], ["a", "b"], vectors=np.eye(24)[:2])
    """
    process = run(code, f"milvus:{tmp_path}/kb", stderr=subprocess.PIPE)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert [row and row.document for row in open_at().get(["a", "b"])] == ["a", "b"]


def test_after_a_fork(backend: MilvusBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = backend._connection._engine
    assert engine is not None
    with monkeypatch.context() as patch:
        patch.setattr(engine, "process", os.getpid() + 1)
        with pytest.raises(BackendError, match="forked"):
            backend.count()
    assert backend.count() == 0


def test_what_interrupted_calls_left_is_swept(backend: MilvusBackend, open_at: Opener, tmp_path: Path) -> None:
    backend.upsert(batch_of(rows(2)))
    backend.close()
    folder = tmp_path / "kb" / "collections"
    (folder / "mrl_half").mkdir()
    (folder / f"{_milvus_lite.DOOMED}1").mkdir()
    (folder / f"{_milvus_lite.DOOMED}1" / "schema.json").write_text("{")
    (folder / "yours").mkdir()
    half = open_at(f"milvus:{tmp_path}/kb?collection=half")
    half.write_manifest(MANIFEST, None)
    assert half.collections() == ["default", "half"] and half.count() == 0
    assert not (folder / f"{_milvus_lite.DOOMED}1").exists() and (folder / "yours").exists()
    assert open_at().count() == 2


def test_a_log_that_was_written_already_is_not_read_again(
    backend: MilvusBackend, open_at: Opener, tmp_path: Path
) -> None:
    """As after a kill between the two: Milvus Lite by itself then has every row of it twice."""
    folder, kept = tmp_path / "kb" / "collections" / "mrl_default" / "wal", tmp_path / "kept"
    backend.upsert(batch_of(rows(5)))
    backend.delete(["0"])
    backend.upsert(batch_of(rows(2, start=3, seed=1)))
    shutil.copytree(folder, kept)
    backend.flush()
    backend.upsert(batch_of(rows(5, start=10)))
    later = tmp_path / "later"
    _copied_whole(tmp_path / "kb", later)
    shutil.copytree(kept, later / "collections" / "mrl_default" / "wal", dirs_exist_ok=True)
    one = open_at(f"milvus:{later}")
    names = {"1", "2", "3", "4", *map(str, range(10, 15))}
    assert one.count() == 9 == one.stats().vectors and one.get(["0"]) == [None]
    assert sorted(id for page in one.scan() for id in page.ids) == sorted(names)
    assert sorted(one.coarse_search(prefix(vectors(1), COARSE), 50, None)[0].ids) == sorted(names)


def _copied_whole(folder: Path, target: Path) -> None:
    """A copy of a folder in which the engine, which goes on in the background, was writing nothing meanwhile."""

    def state() -> list[tuple[str, int, int]]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]

    deadline = time.monotonic() + 60
    while True:
        before = state()
        time.sleep(0.5)
        if before == state():
            shutil.copytree(folder, target)
            if before == state():
                return
            shutil.rmtree(target)
        assert time.monotonic() < deadline, "the engine never comes to rest"


def test_a_dropped_folder_is_freed(backend: MilvusBackend, tmp_path: Path) -> None:
    backend.upsert(batch_of(rows(2000)))
    backend.flush()
    backend.drop()
    assert list((tmp_path / "kb" / "collections").iterdir()) == []


@pytest.fixture
def reachable() -> Iterator[Path]:
    with reachable_folder() as folder:
        yield folder


def test_a_folder_without_permission(open_at: Opener, reachable: Path) -> None:
    open_at(f"milvus:{reachable}/warm").write_manifest(MANIFEST, None)  # whatever is imported late is there now
    closed, sealed, kept = reachable / "closed", reachable / "sealed", reachable / "kept"
    made = open_at(f"milvus:{sealed}")
    made.write_manifest(MANIFEST, None)
    made.close()
    closed.mkdir(mode=0)
    kept.mkdir(mode=0o555)
    (sealed / "LOCK").chmod(0)
    with without_privileges():
        with pytest.raises(BackendError, match=f"permission denied: .*{closed}.*check the permissions") as caught:
            open_at(f"milvus:{closed}/kb")
        assert isinstance(caught.value.__cause__, PermissionError)
        one = open_at(f"milvus:{sealed}")
        for call in (one.read_manifest, one.count, one.collections):
            with pytest.raises(BackendError, match=f"permission denied: .*{sealed}.*check the permissions") as caught:
                call()
            assert not isinstance(caught.value, BackendUnavailable)
        with pytest.raises(BackendError, match="permission denied"):
            open_at(f"milvus:{kept}/new").write_manifest(MANIFEST, None)
    for path in (sealed / "LOCK", closed, kept):
        path.chmod(0o700)
    assert one.read_manifest() == MANIFEST


def test_data_that_cannot_be_read(backend: MilvusBackend, open_at: Opener, tmp_path: Path) -> None:
    backend.upsert(batch_of(rows(3)))
    backend.close()
    (data,) = (tmp_path / "kb" / "collections" / "mrl_default").rglob("*.parquet")
    data.unlink()
    data.mkdir()
    with pytest.raises(BackendError) as caught:
        open_at().count()
    assert not isinstance(caught.value, BackendUnavailable)
