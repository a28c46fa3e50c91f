"""No temporary folder stays behind: after an exit, after a kill, after a backend that was only forgotten."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("milvus_lite", reason="milvus-lite is not installed: pip install 'mrl-retrieval[milvus]'")

from mrl_adapters._milvus import lite as _milvus_lite
from mrl_adapters._temporary import Temporary, remove_stale
from mrl_retrieval.registry import open_backend
from tests.backends.common import batch_of
from tests.backends.milvus.helpers import MANIFEST, rows, run

USES_BOTH = """
    import sys
    import numpy as np
    from mrl_retrieval import MatryoshkaRetriever
    opened = [MatryoshkaRetriever(None, place) for place in ("milvus:", f"milvus:{sys.argv[1]}/kb")]
    for one in opened:
        one.index(["a", "b"], ["a", "b"], vectors=np.eye(24)[:2])
    print("in", flush=True)
"""


@pytest.fixture
def system_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's folder for temporary files, here and in the processes started from here."""
    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_process_that_closes_nothing(system_folder: Path, tmp_path: Path) -> None:
    process = run(USES_BOTH, str(tmp_path), stdout=subprocess.PIPE)
    assert process.communicate(timeout=60)[0] == "in\n" and process.returncode == 0
    assert list(system_folder.iterdir()) == []


def test_a_process_that_is_killed(system_folder: Path, tmp_path: Path) -> None:
    process = run(USES_BOTH + "    sys.stdin.read()", str(tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "in\n"
    theirs = sorted(system_folder.iterdir())
    assert len(theirs) == 2
    with open_backend("milvus:") as mine:
        mine.write_manifest(MANIFEST, None)
        assert sorted(folder for folder in system_folder.iterdir() if folder in theirs) == theirs  # it lives
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert sorted(system_folder.iterdir()) == theirs
    with open_backend("milvus:") as mine:
        mine.write_manifest(MANIFEST, None)
        (left,) = system_folder.iterdir()
        assert left not in theirs
    assert list(system_folder.iterdir()) == []


@pytest.mark.parametrize("path", ["", "kb"])
def test_a_backend_that_is_forgotten(system_folder: Path, tmp_path: Path, path: str) -> None:
    backend: Any = open_backend(f"milvus:{tmp_path / path if path else ''}")
    backend.write_manifest(MANIFEST, None)
    backend.upsert(batch_of(rows(3)))
    assert len(list(system_folder.iterdir())) == 1
    del backend
    gc.collect()
    deadline = time.monotonic() + 60
    while list(system_folder.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(system_folder.iterdir()) == []
    if path:  # the folder was freed too, and nothing is lost
        with open_backend(f"milvus:{tmp_path / path}", lock_timeout=60) as again:
            assert again.read_manifest() == MANIFEST and again.count() == 3


def test_what_is_not_ours_stays(system_folder: Path) -> None:
    target = system_folder / "target"
    target.mkdir()
    (target / "owner").touch()
    (system_folder / "mrl-milvus-link").symlink_to(target)
    (system_folder / "mrl-milvus-without-owner").mkdir()
    (system_folder / "mrl-milvus-file").touch()
    before = sorted(system_folder.rglob("*"))
    remove_stale(system_folder, "mrl-milvus-")
    assert sorted(system_folder.rglob("*")) == before
    remove_stale(system_folder / "nowhere", "mrl-milvus-")


def test_only_the_process_that_made_it_removes_it(system_folder: Path) -> None:
    code = """
        import os
        from mrl_adapters._temporary import Temporary
        one = Temporary("mrl-milvus-")
        child = os.fork()
        one.remove() if child == 0 else os.waitpid(child, 0)
        if child == 0:
            os._exit(0)
        assert one.path.is_dir()
        another = Temporary("mrl-milvus-")
        assert one.path.is_dir()
        one.remove()
        one.remove()
        another.remove()
    """
    assert run(code).wait(60) == 0
    assert list(system_folder.iterdir()) == []


def test_a_system_without_locks(system_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: int, operation: int) -> None:
        raise OSError(os.strerror(37))

    with monkeypatch.context() as patch:
        patch.setattr("mrl_adapters._temporary.fcntl.flock", refuse)
        one = Temporary("mrl-milvus-")
    remove_stale(system_folder, "mrl-milvus-")
    assert one.path.is_dir()
    one.remove()
    assert not one.path.exists()


def test_at_exit_one_failure_does_not_keep_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    closed = []

    class Fake:
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            closed.append(self.name)
            raise OSError(f"{self.name} is full")

    monkeypatch.setattr(_milvus_lite, "_ENGINES", {name: Fake(name) for name in ("a", "b")})
    _milvus_lite._close_all()
    assert sorted(closed) == ["a", "b"] and "closing a failed" in caplog.text
