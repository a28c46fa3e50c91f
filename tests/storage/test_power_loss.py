"""A commit survives the loss of power: what was synchronised is all that is left, and it is enough."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mrl_retrieval.errors import MRLError
from tests import power_loss
from tests.power_loss import Disk, File

needs_strace = pytest.mark.skipif(not power_loss.can_trace(), reason="there is no strace to take down system calls")


@needs_strace
def test_after_a_power_loss(tmp_path: Path) -> None:
    """The short form; ``python -m tests.power_loss`` is the long one."""
    logs = list(power_loss.run(tmp_path, operations=10, images=60, seed=3))
    assert len(logs) == 60 and logs[-1].done >= 5 and any(log.cut_short for log in logs)


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_after_many_power_losses(tmp_path: Path, dtype: str) -> None:
    logs = list(power_loss.run(tmp_path, operations=60, images=500, seed=4, options={"fine_dtype": dtype}))
    assert len(logs) == 500 and logs[-1].done >= 50


@needs_strace
@pytest.mark.parametrize("call", ["fsync", "fdatasync"])
def test_each_kind_of_synchronising_is_needed(tmp_path: Path, call: str) -> None:
    """Without it rows are lost, so that these tests would notice."""
    with pytest.raises((AssertionError, MRLError)):
        list(power_loss.run(tmp_path, operations=8, images=200, seed=5, deaf_to=(call,)))


def quoted(data: bytes) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in data) + '"'


def test_the_model_of_a_disk(tmp_path: Path) -> None:
    """What was synchronised is there, the rest may be, and never anything else."""
    disk = Disk(tmp_path / "kb")
    path, other = quoted(f"{tmp_path}/kb/a".encode()), quoted(f"{tmp_path}/kb/b".encode())
    disk.do("openat", ["AT_FDCWD", path, "O_RDWR|O_CREAT", "0666"], 5)
    disk.do("pwrite64", ["5", quoted(b"first"), "5", "0"], 5)
    assert disk.do("fsync", ["5"], 0)
    disk.do("pwrite64", ["5", quoted(b"F" * 1000), "1000", "5"], 1000)
    assert not disk.do("pwrite64", ["7", quoted(b"elsewhere"), "9", "0"], 9)
    found = set()
    luck = random.Random(0)
    for number in range(300):
        after = tmp_path / f"after-{number}"
        disk.top.write_to(after, luck, 0.5)
        found.add((after / "a").read_bytes() if (after / "a").exists() else None)
    # Synchronising a file says nothing of its entry in the folder.
    assert None in found and b"first" in found and b"first" + b"F" * 1000 in found
    assert b"first" + b"F" * 507 in found and b"first" + b"\0" * 507 + b"F" * 493 in found
    assert all(one is None or (one[:5] == b"first" and set(one[5:]) <= {0, ord("F")}) for one in found)

    disk.do("openat", ["AT_FDCWD", quoted(str(tmp_path / "kb").encode()), "O_RDONLY|O_DIRECTORY"], 6)
    disk.do("fsync", ["6"], 0)
    disk.do("rename", [path, other], 0)
    names = set()
    for number in range(300, 340):
        disk.top.write_to(tmp_path / f"after-{number}", luck, 0.5)
        names.add(tuple(sorted(one.name for one in (tmp_path / f"after-{number}").iterdir())))
    assert names == {("a",), ("b",)}
    disk.do("ftruncate", ["5", "2"], 0)
    disk.do("fdatasync", ["5"], 0)
    disk.do("fsync", ["6"], 0)
    (entry,) = disk.top.synced.values()
    assert isinstance(entry, File) and entry.synced == b"fi" and list(disk.top.synced) == ["b"]


def test_calls_of_threads_that_overlap(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text(
        '1 openat(AT_FDCWD, "\\x61", O_RDONLY) = 3\n'
        '1 pwrite64(3, "\\x61\\x2c", 2, 0 <unfinished ...>\n'
        "2 fsync(4)                          = 0\n"
        "1 <... pwrite64 resumed>)           = 2\n"
        '2 unlink("\\x62")                    = -1 ENOENT (No such file or directory)\n'
        "+++ exited with 0 +++\n"
    )
    assert list(power_loss.calls(trace)) == [
        ("openat", ["AT_FDCWD", '"\\x61"', "O_RDONLY"], 3),
        ("fsync", ["4"], 0),
        ("pwrite64", ["3", '"\\x61\\x2c"', "2", "0"], 2),
    ]
