"""Reading without permission to write, while somebody else writes."""

from __future__ import annotations

import os

import pytest

from mrl_retrieval.registry import open_backend
from tests.backends.faiss.helpers import rows, vectors_of
from tests.backends.faiss.permissions.nobody import (
    IDS,
    answering,
    as_nobody,
    give_back,
    take_away,
)


def test_beside_a_writer_every_commit_is_seen(filled, address, place):
    if os.geteuid():
        pytest.skip("only root can write to a folder that it lets nobody write to")
    take_away(place)
    script = (
        "found = ids_of(backend.search(two_stages(vectors_of(1, int(line)), 1, 60)))\n"
        "print(found[0][0], backend.count(), backend._store._connections._opening.mode, flush=True)\n"
    )
    with answering(script, address, place) as ask:
        for seed in range(100, 103):
            filled.upsert(rows([f"new{seed}"], vectors_of(1, seed)))
            assert ask(seed) == [f"new{seed}", str(seed - 59), "ro"]
        filled.close()  # the reader's connection keeps the log from being taken away, and it is still right
        assert ask(101) == ["new101", "43", "ro"]
        with open_backend(address) as again:
            again.upsert(rows(["new200"], vectors_of(1, 200)))
            again.compact()
            assert ask(200) == ["new200", "44", "ro"]


def test_written_to_and_closed_between_two_calls(filled, address, place):
    filled.close()
    take_away(place)
    script = "print(backend.count(), backend._store._connections._opening.mode, flush=True)"
    with answering(script, address, place) as ask:
        for extra in range(3):
            assert ask() == [str(40 + extra), "immutable"]
            give_back(place)
            with open_backend(address) as writer:
                writer.upsert(rows([f"more{extra}"]))
            take_away(place)


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
