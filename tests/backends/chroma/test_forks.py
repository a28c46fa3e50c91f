"""A forked child of a process that has used Chroma: Chroma's threads are not there, and nobody may wait for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("chromadb", reason="chromadb is not installed: pip install 'mrl-retrieval[chroma]'")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

SCRIPT = """
import os, signal, sys, threading, warnings
from mrl_retrieval.documents import Row
from mrl_retrieval.errors import MRLError
from mrl_retrieval.registry import open_backend
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.backends.common import COARSE, DIM, batch_of, manifest, queries

warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, at every fork beside threads
address, what = sys.argv[1:]
query = queries(1, dim=DIM)

def nearest(backend):
    return [row.id for row in backend.search(SearchRequest(query, (Stage(COARSE, 20), Stage(DIM, 1))))[0].rows]

backend = open_backend(address)
if backend.read_manifest() is None:
    backend.write_manifest(manifest(), None)
backend.upsert(batch_of([Row("of the parent", None, {}, query[0])]))
assert nearest(backend) == ["of the parent"]
if what == "locked":  # by a thread that the child does not have
    held = threading.Event()
    def hold():
        with backend._write_lock, backend._connection._lock:
            held.set()
            threading.Event().wait()
    threading.Thread(target=hold, daemon=True).start()
    held.wait()
child = os.fork()
if child == 0:
    signal.alarm(60)  # ends it where it hangs
    if what != "unused":
        try:
            open_backend(address).close()
            print(nearest(backend), flush=True)
            backend.upsert(batch_of([Row("of the child", "text", {}, -query[0])]))
            print(backend.get(["of the child"])[0].document, flush=True)
        except MRLError as error:
            print(type(error).__name__, error, flush=True)
        backend.close()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
if what != "locked":
    print(nearest(backend), flush=True)
    backend.close()
os._exit(0)
"""


def lines_of(address: str, what: str) -> list[str]:
    command = [sys.executable, "-c", SCRIPT, address, what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("what", ["used", "locked"])
@pytest.mark.parametrize("place", ["", "{}"])
def test_chroma_in_this_process_is_refused_at_once(tmp_path: Path, place: str, what: str) -> None:
    error, *parent = lines_of("chroma:" + place.format(tmp_path), what)
    assert error.startswith("BackendError Chroma was used in process") and "'spawn'" in error
    assert parent == (["['of the parent']"] if what == "used" else [])


def test_a_server_is_connected_to_anew(chroma_server: str) -> None:
    lines = lines_of(f"chroma+{chroma_server}?collection=forked", "used")
    assert lines == ["['of the parent']", "text", "['of the parent']"]


@pytest.mark.parametrize("place", ["", "{}"])
def test_a_child_that_does_not_use_it_ends(tmp_path: Path, place: str) -> None:
    assert lines_of("chroma:" + place.format(tmp_path), "unused") == ["['of the parent']"]
