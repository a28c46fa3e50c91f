"""Several who use one shard: backends of a process, other processes, children."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import qdrant_edge

from mrl_retrieval.documents import Row
from mrl_retrieval.errors import (
    BackendError,
    CollectionNotFound,
    LockTimeout,
)
from mrl_retrieval.registry import open_backend
from tests.backends.common import batch_of, manifest, random_rows
from tests.backends.qdrant.helpers import filled


def test_backends_of_one_process_share_a_shard(tmp_path: Path) -> None:
    with filled(f"qdrant-edge:{tmp_path}/kb", 5) as a, filled(f"qdrant-edge:{tmp_path}/./kb") as b:
        assert (a.count(), b.count()) == (5, 5)
        b.upsert(batch_of([Row("new", None, {}, None)]))
        assert a.count() == 6
        a.close()
        assert b.count() == 6
        with pytest.raises(BackendError, match="was closed"):
            a.count()
        with filled(f"qdrant-edge:{tmp_path}/kb?collection=other", 2) as c:
            assert c.collections() == ["default", "other"]
        b.drop()
        with pytest.raises(CollectionNotFound), open_backend(f"qdrant-edge:{tmp_path}/kb") as d:
            d.count()
        b.write_manifest(manifest(), None)
        assert b.count() == 0


HOLDER = """
import sys
from mrl_retrieval.registry import open_backend
with open_backend(sys.argv[1]) as backend:
    backend.read_manifest()
    print(backend.count(), flush=True)
    sys.stdin.readline()
"""


def test_another_process_gets_a_clear_error(tmp_path: Path) -> None:
    address = f"qdrant-edge:{tmp_path}/kb"
    with filled(address, 3):
        pass
    process = subprocess.Popen([sys.executable, "-c", HOLDER, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"3\n"
        with open_backend(address, lock_timeout=0.1) as backend:
            assert backend.read_manifest() is not None  # looking takes no lock
            assert backend.collections() == ["default"]
            for call in (backend.count, backend.drop, lambda: backend.upsert(batch_of(random_rows(1)))):
                with pytest.raises(LockTimeout, match=rf"process {process.pid}.*one process at a time"):
                    call()
            process.communicate(b"\n", timeout=30)
            assert backend.count() == 3
    finally:
        process.kill()
        process.communicate()


def test_a_shard_that_another_program_has_open(tmp_path: Path) -> None:
    with filled(f"qdrant-edge:{tmp_path}/kb", 3):
        pass
    shard = qdrant_edge.EdgeShard.load(str(tmp_path / "kb" / "default" / "shard"))
    try:
        with open_backend(f"qdrant-edge:{tmp_path}/kb") as backend:
            with pytest.raises(LockTimeout, match="another program"):
                backend.count()
            shard.close()
            assert backend.count() == 3
    finally:
        shard.close()


FORKER = """
import os, sys
from mrl_retrieval.errors import BackendError, LockTimeout
from mrl_retrieval.registry import open_backend
backend = open_backend(sys.argv[1], lock_timeout=0.1)
backend.read_manifest()
assert backend.count() == 3
child = os.fork()
if child == 0:
    code = 1
    try:
        backend.count()
    except BackendError as error:
        code = 0 if "forked" in str(error) else 2
    try:
        with open_backend(sys.argv[1], lock_timeout=0.1) as other:
            other.count()
        code = 3
    except LockTimeout:
        pass
    backend.close()
    os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert backend.count() == 3  # and the lock is still ours
with open_backend(sys.argv[1]) as same:
    assert same.count() == 3
backend.close()
print("good")
"""


def test_a_forked_child_leaves_the_parents_shard_alone(tmp_path: Path) -> None:
    with filled(f"qdrant-edge:{tmp_path}/kb", 3):
        pass
    command = [sys.executable, "-c", FORKER, f"qdrant-edge:{tmp_path}/kb"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("good\n", 0), done.stderr
