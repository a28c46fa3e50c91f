"""Backends of qdrant-edge that nobody closes: forgotten, left to the end of the process, or copied by a fork."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
import qdrant_edge

from mrl_adapters._qdrant_edge import holders
from mrl_adapters._qdrant_edge.shard import SharedShard
from mrl_retrieval.errors import BackendError
from mrl_retrieval.registry import open_backend
from tests.backends.common import batch_of, manifest, random_rows
from tests.backends.qdrant.helpers import filled


@pytest.fixture
def system_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's folder for temporary files, here and in the processes started from here."""
    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def forgotten(address: str) -> None:
    """Make a collection, and lose it."""
    backend: Any = open_backend(address)
    backend.write_manifest(manifest(), None)
    backend.upsert(batch_of(random_rows(5)))
    del backend
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "mrl-qdrant-edge-abandon":
            thread.join()


def test_a_forgotten_folder_is_let_go(tmp_path: Path) -> None:
    forgotten(f"qdrant-edge:{tmp_path}/kb")
    assert not any(files.place == tmp_path / "kb" for files in holders._SHARDS)
    qdrant_edge.EdgeShard.load(str(tmp_path / "kb" / "default" / "shard")).close()  # the engine has let go, too
    with open_backend(f"qdrant-edge:{tmp_path}/kb") as again:
        assert again.count() == 5


def test_a_forgotten_temporary_folder_goes_after_the_engine(
    system_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[list[Path]] = []
    finish = SharedShard.finish
    monkeypatch.setattr(
        SharedShard, "finish", lambda self: (finish(self), there.append(list(system_folder.iterdir())))[0]
    )
    forgotten("qdrant-edge:")
    assert [len(folders) for folders in there] == [1]
    assert list(system_folder.iterdir()) == []


def test_what_others_still_use_stays_open(tmp_path: Path) -> None:
    with filled(f"qdrant-edge:{tmp_path}/kb") as backend:
        (shared,) = (shard for files, shard in holders._SHARDS.items() if files.place == tmp_path / "kb")
        other: Any = open_backend(f"qdrant-edge:{tmp_path}/kb")
        other.upsert(batch_of(random_rows(5)))
        assert shared.users == 2
        other.close()
        del other
        gc.collect()
        assert shared.users == 1
        assert backend.count() == 5


def test_a_failure_is_logged_where_nobody_can_be_told(
    system_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    finish = SharedShard.finish

    def fails(self: SharedShard) -> None:
        finish(self)
        raise BackendError("the disk is full")

    monkeypatch.setattr(SharedShard, "finish", fails)
    with caplog.at_level(logging.WARNING):
        forgotten("qdrant-edge:")
    assert "nobody had closed" in caplog.text and "the disk is full" in caplog.text
    assert list(system_folder.iterdir()) == []


CLOSES_NOTHING = """
import sys
from mrl_retrieval.registry import open_backend
from tests.backends.common import batch_of, manifest, random_rows
opened = [open_backend(place) for place in ("qdrant-edge:", f"qdrant-edge:{sys.argv[1]}/kb")]
for one in opened:
    one.write_manifest(manifest(), None)
    one.upsert(batch_of(random_rows(5)))
print("in")
"""

CHILD_CLOSES = """
import os
from mrl_retrieval.registry import open_backend
from tests.backends.common import batch_of, manifest, random_rows
backend = open_backend("qdrant-edge:")
backend.write_manifest(manifest(), None)
backend.upsert(batch_of(random_rows(5)))
child = os.fork()
if child == 0:
    backend.close()
    raise SystemExit
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert backend._place.is_dir()
assert backend.count() == 5
backend.close()
print("in")
"""


@pytest.mark.parametrize("script", [CLOSES_NOTHING, CHILD_CLOSES])
def test_no_temporary_folder_stays_and_none_goes_early(script: str, system_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[3])
    assert (done.stdout, done.stderr, done.returncode) == ("in\n", "", 0)
    assert list(system_folder.iterdir()) == []
    if script is CLOSES_NOTHING:
        with open_backend(f"qdrant-edge:{tmp_path}/kb") as again:
            assert again.count() == 5
