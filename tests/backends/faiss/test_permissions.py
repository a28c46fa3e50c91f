"""Collections in folders that this process may read, but not write to; and what is said where it may not even read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mrl_retrieval.registry import open_backend
from tests.backends import common
from tests.backends.faiss.helpers import exact, ids_of, rows, two_stages, vectors_of
from tests.backends.faiss.nobody import as_nobody, visible_folder

IDS = [f"d{i:02}" for i in range(40)]
READ = """
backend = open_backend(address)
assert backend.read_manifest() is not None
print(ids_of(backend.search(two_stages(vectors_of(3, 9)))) == ids_of(backend.search(exact(vectors_of(3, 9)))))
print(backend.count(), backend.count(parse_filter({"n": 3})), len(backend.get(["d07"])), backend.verify().ok)
print(sum(len(batch) for batch in backend.scan(vectors=True)), backend._store._connections._opening.mode)
"""
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


@pytest.fixture
def place():
    with visible_folder() as folder:
        yield folder


@pytest.fixture
def address(place):
    return f"faiss:{place}/kb"


@pytest.fixture
def filled(opened, address):
    backend = opened(address)
    backend.write_manifest(common.manifest(), None)
    backend.upsert(rows(IDS, vectors_of(40)))
    return backend


def files(place):
    return {path.name for path in (place / "kb" / "default").iterdir()}


def take_away(place):
    """Leave to others, and where this is not root to this process too, the permission to read."""
    for path in [place / "kb", *(place / "kb").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)


def give_back(place):
    for path in [place / "kb", *(place / "kb").rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def said(script, address, place):
    with as_nobody(script, address, place / "kb" / "default") as child:
        out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    return out


def test_a_closed_collection_is_read_and_left_as_it_is(filled, address, place):
    filled.flush()
    filled.close()
    before = files(place)
    assert "store.sqlite-wal" not in before
    take_away(place)
    assert said(READ, address, place).split() == ["True", "40", "1", "1", "True", "40", "immutable"]
    assert files(place) == before


def test_beside_a_writer_every_commit_is_seen(filled, address, place):
    if os.geteuid():
        pytest.skip("only root can write to a folder that it lets nobody write to")
    take_away(place)
    script = (
        "backend = open_backend(address)\n"
        "for line in sys.stdin:\n"
        "    found = ids_of(backend.search(two_stages(vectors_of(1, int(line)), 1, 60)))\n"
        "    print(found[0][0], backend.count(), backend._store._connections._opening.mode, flush=True)\n"
    )
    with as_nobody(script, address, place / "kb" / "default") as child:

        def ask(seed):
            print(seed, file=child.stdin, flush=True)
            return child.stdout.readline().split()

        for seed in range(100, 103):
            filled.upsert(rows([f"new{seed}"], vectors_of(1, seed)))
            assert ask(seed) == [f"new{seed}", str(seed - 59), "ro"]
        filled.close()  # the reader's connection keeps the log from being taken away, and it is still right
        assert ask(101) == ["new101", "43", "ro"]
        with open_backend(address) as again:
            again.upsert(rows(["new200"], vectors_of(1, 200)))
            again.compact()
            assert ask(200) == ["new200", "44", "ro"]
        child.stdin.close()
        assert child.wait(60) == 0, child.stderr.read()


def test_written_to_and_closed_between_two_calls(filled, address, place):
    filled.close()
    take_away(place)
    script = (
        "backend = open_backend(address)\n"
        "for line in sys.stdin:\n"
        "    print(backend.count(), backend._store._connections._opening.mode, flush=True)\n"
    )
    with as_nobody(script, address, place / "kb" / "default") as child:
        for extra in range(3):
            print(file=child.stdin, flush=True)
            assert child.stdout.readline().split() == [str(40 + extra), "immutable"]
            give_back(place)
            with open_backend(address) as writer:
                writer.upsert(rows([f"more{extra}"]))
            take_away(place)
        child.stdin.close()
        assert child.wait(60) == 0, child.stderr.read()


def test_written_to_within_one_call_is_an_error_and_not_a_mixture(filled, address, place):
    filled.close()
    take_away(place)
    script = (
        "backend = open_backend(address)\n"
        "batches = backend.scan(batch_size=10)\n"
        "print(len(next(batches)), flush=True)\n"
        "sys.stdin.readline()\n"
        "try: print('not seen', sum(map(len, batches)))\n"
        "except BackendUnavailable as error: print(error)\n"
        "print(backend.count())\n"
    )
    with as_nobody(script, address, place / "kb" / "default") as child:
        assert child.stdout.readline() == "10\n"
        give_back(place)
        with open_backend(address) as writer:
            writer.delete(IDS[:30])
        take_away(place)
        out, err = child.communicate("\n", timeout=60)
    assert child.returncode == 0, err
    assert "store.sqlite was written to while it was read" in out and "repeat the call" in out
    assert out.split()[-1] == "10"


def test_a_backup_of_what_is_written_to_meanwhile_takes_no_good_ones_place(filled, address, place):
    filled.close()
    take_away(place)
    shelf = place / "shelf"
    shelf.mkdir()
    shelf.chmod(0o777)
    (shelf / "kb.tar").write_text("the last good one")
    (shelf / "kb.tar").chmod(0o666)
    script = (
        "from mrl_retrieval.storage import upkeep\n"
        "write = upkeep.write_backup\n"
        "def slowly(*all):\n"
        "    report = write(*all)\n"
        "    print('written', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    return report\n"
        "upkeep.write_backup = slowly\n"
        "backend = open_backend(address)\n"
        f"try: print(backend.backup({str(shelf / 'kb.tar')!r}, overwrite=True))\n"
        "except BackendUnavailable as error: print(error)\n"
        "upkeep.write_backup = write\n"
        f"print(backend.backup({str(shelf / 'new.tar')!r}).rows)\n"
    )
    with as_nobody(script, address, place / "kb" / "default") as child:
        assert child.stdout.readline() == "written\n"
        give_back(place)
        with open_backend(address) as writer:
            writer.delete(IDS[:30])
        take_away(place)
        out, err = child.communicate("\n", timeout=60)
    assert child.returncode == 0, err
    assert "was written to while it was read" in out and out.split()[-1] == "10"
    assert (shelf / "kb.tar").read_text() == "the last good one"
    assert sorted(path.name for path in shelf.iterdir()) == ["kb.tar", "new.tar"]


KILLED = """
import os, signal, sys
from mrl_retrieval.registry import open_backend
from tests.backends.faiss.helpers import *
backend = open_backend(sys.argv[1])
backend.upsert(rows(["killed"]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_log_that_a_killed_writer_left_behind_counts(filled, address, place):
    filled.close()
    root = Path(__file__).parents[3]
    killed = subprocess.run([sys.executable, "-c", KILLED, address], cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert {"store.sqlite-wal", "store.sqlite-shm"} < files(place)
    take_away(place)
    assert said(READ, address, place).split() == ["True", "41", "1", "1", "True", "41", "ro"]
    give_back(place)
    (place / "kb" / "default" / "store.sqlite-shm").unlink()
    take_away(place)
    script = "try: open_backend(address).read_manifest()\nexcept BackendError as error: print(error)\n"
    told = said(script, address, place)
    assert "store.sqlite-wal has" in told and "store.sqlite-shm" in told
    assert "Open the collection once where that is allowed" in told
    give_back(place)
    with open_backend(address) as whole:
        assert whole.count() == 41
    take_away(place)
    assert said(READ, address, place).split()[1] == "41"


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


def test_the_answers_are_those_of_the_owner(filled, address, place):
    queries = vectors_of(5, 3)
    expected = [ids_of(filled.search(request)) for request in (two_stages(queries), exact(queries))]
    scores = np.concatenate([ranking.scores for ranking in filled.search(two_stages(queries))])
    filled.close()
    take_away(place)
    script = (
        "backend = open_backend(address)\n"
        "queries = vectors_of(5, 3)\n"
        "print([ids_of(backend.search(request)) for request in (two_stages(queries), exact(queries))])\n"
        "print(np.concatenate([ranking.scores for ranking in backend.search(two_stages(queries))]).tolist())\n"
    )
    found, found_scores = said(script, address, place).splitlines()
    assert found == str(expected) and found_scores == str(scores.tolist())


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
        [sys.executable, "-c", script, address], capture_output=True, text=True, cwd=Path(__file__).parents[3]
    )
    assert done.returncode == 0, done.stderr
    assert "limit of open files" in done.stdout and "no permission" not in done.stdout, done.stdout
