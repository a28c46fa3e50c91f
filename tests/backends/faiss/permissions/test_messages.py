"""What is said where reading or writing is not allowed, or fails although it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mrl_retrieval.registry import open_backend
from tests.backends.faiss.helpers import rows
from tests.backends.faiss.permissions.nobody import (
    give_back,
    said,
    take_away,
)

WRITE = """
backend = open_backend(address, lock_timeout=0.1)
manifest = backend.read_manifest()
backend.search(two_stages(vectors_of(1)))
works = {
    "upsert": lambda: backend.upsert(rows(["x"])),
    "delete": lambda: backend.delete(["d07"]),
    "manifest": lambda: backend.write_manifest(manifest, manifest),
    "flush": backend.flush,
    "compact": backend.compact,
    "repair": backend.repair,
    "drop": backend.drop,
}
for name, work in works.items():
    try:
        work()
    except BackendError as error:
        print(name, error)
backend.close()
"""


def test_writing_says_what_is_missing(filled, address, place):
    filled.close()
    take_away(place)
    told = said(WRITE, address, place).splitlines()
    assert [line.split()[0] for line in told] == [
        "upsert", "delete", "manifest", "flush", "compact", "repair", "drop",
    ]  # fmt: skip
    for line in told:
        assert f"{place}/kb/default/write.lock" in line and "no permission to write" in line
        assert "Give this user the permission" in line
    assert open_backend(address).count() == 40


def test_making_a_collection_says_what_is_missing(filled, address, place):
    filled.close()
    take_away(place)
    script = (
        "from tests.backends import common\n"
        "try: open_backend(address + '?collection=new').write_manifest(common.manifest(), None)\n"
        "except BackendError as error: print(error)\n"
    )
    told = said(script, address, place)
    assert f"creating {place}/kb/new is not allowed" in told
    assert f"no permission to make files in {place}/kb (dr-xr-xr-x" in told


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("kb", "no permission to enter {}"),
        ("kb/mrl-store.json", "no permission to read {}"),
        ("kb/default", "no permission to enter {}"),
        ("kb/default/store.sqlite", "no permission to read {}"),
        ("kb/default/segments", "no permission to enter {}"),
        ("kb/default/segments/000001.seg", "no permission to read {}"),
    ],
)
def test_reading_says_what_is_missing(filled, address, place, path, missing):
    filled.close()
    take_away(place)
    (place / path).chmod(0)
    script = (
        "try:\n"
        "    backend = open_backend(address)\n"
        "    backend.read_manifest()\n"
        "    backend.search(two_stages(vectors_of(1)))\n"
        "except BackendError as error: print(error)\n"
    )
    told = said(script, address, place)
    give_back(place)
    assert missing.format(place / path) in told and "Give this user the permission" in told
    assert "this process is user" in told


def test_what_the_permissions_allow_is_not_blamed_on_them(kb, address, tmp_path):
    """The limit of open files is what stands in the way."""
    kb.upsert(rows(["a"]))
    kb.close()
    script = (
        "import os, resource, sys\n"
        "import mrl_adapters.faiss\n"
        "from mrl_retrieval.errors import BackendError\n"
        "from mrl_retrieval.registry import open_backend\n"
        "backend = open_backend(sys.argv[1])\n"
        "backend.read_manifest()\n"
        "backend._store._connections.reset()\n"
        "held = [os.open('/dev/null', os.O_RDONLY) for _ in range(20)]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "try: print(backend.count())\n"
        "except BackendError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, address], capture_output=True, text=True, cwd=Path(__file__).parents[4]
    )
    assert done.returncode == 0, done.stderr
    assert "limit of open files" in done.stdout and "no permission" not in done.stdout, done.stdout
