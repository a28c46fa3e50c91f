"""The machine of a writer loses its power at any moment; what the writer was told is in must be in.

::

    python -m tests.power_loss --operations 60 --images 2000

The writer is that of :mod:`tests.crash`, on the embedded store. ``strace`` takes down every system call by which it
changes files. From that, the disks are made that a power loss may leave behind: after any call, what was synchronised is
there; of every other write, truncation and change of a directory each may be there or not, whatever came after it, and
of a write a part of its sectors. Each such disk is opened and held to what was acknowledged up to then, as
after a kill. That is stricter than real file systems are, which keep the order of some of these.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash import ROOT, Log, check

SECTOR = 512
_CALLS = (
    "open,openat,creat,close,write,writev,pwrite64,pwritev,pwritev2,lseek,truncate,ftruncate,fallocate,fsync,fdatasync,"
    "sync_file_range,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,dup,"
    "dup2,dup3,copy_file_range,sendfile"
)
_LINE = re.compile(r"(\d+) +(.*)")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)")


@dataclass
class File:
    """What is on the platter, and what the system still holds back: ``(offset, bytes)``, or a new length."""

    synced: bytes = b""
    held_back: list[tuple[int, bytes] | int] = field(default_factory=list)

    def sync(self) -> None:
        self.synced, self.held_back = _with(self.synced, self.held_back), []

    def after_power_loss(self, luck: random.Random, kept: float) -> bytes:
        survivors: list[tuple[int, bytes] | int] = []
        for change in self.held_back:
            if luck.random() >= kept:
                continue
            if isinstance(change, tuple) and luck.random() < 0.3:
                offset, data = change
                sectors = range(offset - offset % SECTOR, offset + len(data), SECTOR)
                cut = max(0, luck.choice(sectors) - offset)
                change = (offset, data[:cut]) if luck.random() < 0.5 else (offset + cut, data[cut:])
            survivors.append(change)
        return _with(self.synced, survivors)


@dataclass
class Folder:
    """Entries that are on the platter, and changes that are not: ``(name, what it is now)``."""

    synced: dict[str, File | Folder] = field(default_factory=dict)
    held_back: list[dict[str, File | Folder | None]] = field(default_factory=list)

    @property
    def entries(self) -> dict[str, File | Folder]:
        return _applied(self.synced, self.held_back)

    def sync(self) -> None:
        self.synced, self.held_back = self.entries, []

    def write_to(self, path: Path, luck: random.Random, kept: float) -> None:
        """Make the folder as a power loss may leave it."""
        path.mkdir()
        survivors = [change for change in self.held_back if luck.random() < kept]
        for name, entry in _applied(self.synced, survivors).items():
            if isinstance(entry, Folder):
                entry.write_to(path / name, luck, kept)
            else:
                (path / name).write_bytes(entry.after_power_loss(luck, kept))


def _with(content: bytes, changes: list[tuple[int, bytes] | int]) -> bytes:
    made = bytearray(content)
    for change in changes:
        if isinstance(change, int):
            made[:] = made[:change].ljust(change, b"\0")
        elif change[1]:
            offset, data = change
            made[len(made) :] = bytes(max(0, offset - len(made)))
            made[offset : offset + len(data)] = data
    return bytes(made)


def _applied(
    entries: dict[str, File | Folder], changes: list[dict[str, File | Folder | None]]
) -> dict[str, File | Folder]:
    made: dict[str, File | Folder | None] = dict(entries)
    for change in changes:
        made |= change
    return {name: entry for name, entry in made.items() if entry is not None}


@dataclass
class _Descriptor:
    entry: File | Folder
    flags: str
    position: int = 0


class Disk:
    """The files below one folder, as a sequence of system calls leaves them.

    Args:
        root: the folder.
        deaf_to: calls that are to be as if they had not been made, to see what they are good for.
    """

    def __init__(self, root: Path, deaf_to: tuple[str, ...] = ()) -> None:
        self.root = root
        self._deaf_to = deaf_to
        self.top = Folder()
        self.said: list[str] = []
        self._open: dict[int, _Descriptor] = {}

    def _find(self, path: str) -> tuple[Folder, str] | None:
        """The folder that holds the entry, and its name; None: not below the root."""
        whole = Path(path)
        if not whole.is_absolute() or not whole.is_relative_to(self.root) or whole == self.root:
            return None
        folder: Folder = self.top
        *parents, name = whole.relative_to(self.root).parts
        for parent in parents:
            entry = folder.entries[parent]
            assert isinstance(entry, Folder)
            folder = entry
        return folder, name

    def do(self, call: str, arguments: list[str], result: int) -> bool:
        """Take one successful call; whether it changed anything here, or said something."""
        if call in ("openat", "mkdirat", "unlinkat"):
            base, *arguments = arguments
            if base != "AT_FDCWD" and not _text(arguments[0]).startswith("/"):
                assert int(base) not in self._open, f"{call} relative to an open folder is not understood"
                return False
        match call, arguments:
            case "openat" | "open", [path, flags, *_]:
                return self._opened(_text(path), flags, result)
            case "close", [number]:
                self._open.pop(int(number), None)
                return False
            case "mkdir" | "mkdirat", [path, *_]:
                return self._enter(_text(path), Folder())
            case "unlink" | "unlinkat" | "rmdir", [path, *_]:
                return self._enter(_text(path), None)
            case "rename", [old, new]:
                return self._renamed(_text(old), _text(new))
            case "write", ["1", data, _]:
                self.said += _bytes(data).decode().splitlines()
                return True
        if not arguments or not arguments[0].isdecimal() or int(arguments[0]) not in self._open:
            assert call.startswith(("dup", "write", "lseek", "f", "pwrite")) or not _mentions(arguments, self.root), (
                f"{call}({', '.join(arguments)}) is not understood"
            )
            return False
        return self._changed(self._open[int(arguments[0])], call, arguments[1:], result)

    def _opened(self, path: str, flags: str, number: int) -> bool:
        self._open.pop(number, None)
        if Path(path) == self.root:
            self._open[number] = _Descriptor(self.top, flags)
            return False
        found = self._find(path)
        if found is None:
            return False
        folder, name = found
        made = name not in folder.entries
        if made:
            folder.held_back.append({name: File()})
        entry = folder.entries[name]
        self._open[number] = _Descriptor(entry, flags)
        if "O_TRUNC" in flags and not made:
            assert isinstance(entry, File)
            entry.held_back.append(0)
        return made or "O_TRUNC" in flags

    def _enter(self, path: str, entry: File | Folder | None) -> bool:
        if Path(path) == self.root:
            return True
        found = self._find(path)
        if found is None:
            return False
        found[0].held_back.append({found[1]: entry})
        return True

    def _renamed(self, old: str, new: str) -> bool:
        source, target = self._find(old), self._find(new)
        if source is None or target is None:
            assert source is target is None, f"rename({old}, {new}) crosses the border"
            return False
        assert source[0] is target[0], f"rename({old}, {new}) from folder to folder is not understood"
        source[0].held_back.append({target[1]: source[0].entries[source[1]], source[1]: None})
        return True

    def _changed(self, of: _Descriptor, call: str, arguments: list[str], result: int) -> bool:
        match call, of.entry, arguments:
            case "fsync" | "fdatasync", entry, []:
                if call not in self._deaf_to:
                    entry.sync()
            case "pwrite64", File() as file, [data, _, offset]:
                file.held_back.append((int(offset), _bytes(data)[:result]))
            case "write", File() as file, [data, _]:
                assert "O_WRONLY" in of.flags and "O_APPEND" not in of.flags, "where this is written is not known"
                file.held_back.append((of.position, _bytes(data)[:result]))
                of.position += result
            case "ftruncate", File() as file, [length]:
                file.held_back.append(int(length))
            case "lseek", _, _:
                of.position = result
                return False
            case _:
                raise AssertionError(f"{call}({', '.join(arguments)}) is not understood")
        return True


def _bytes(text: str) -> bytes:
    assert text[0] == text[-1] == '"', text[:40]
    return bytes.fromhex(text[1:-1].replace("\\x", ""))


def _text(argument: str) -> str:
    return _bytes(argument).decode()


def _mentions(arguments: list[str], root: Path) -> bool:
    return any(one.startswith('"') and str(root).encode() in _bytes(one) for one in arguments)


def calls(trace: Path) -> Iterator[tuple[str, list[str], int]]:
    """The successful calls of a trace, in the order in which they returned."""
    unfinished: dict[str, str] = {}
    with trace.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            match = _LINE.match(line)
            if match is None:
                continue
            thread, text = match.groups()
            if text.endswith("<unfinished ...>"):
                unfinished[thread] = text.removesuffix("<unfinished ...>").rstrip()
                continue
            if text.startswith("<... "):
                text = unfinished.pop(thread) + text.partition(" resumed>")[2].lstrip()
            call = _CALL.match(text)
            if call is not None and int(call[3]) >= 0:
                yield call[1], call[2].split(", ") if call[2] else [], int(call[3])


def can_trace() -> bool:
    """Whether there is strace, and the system lets it trace."""
    return (
        bool(shutil.which("strace"))
        and not subprocess.run(
            ["strace", "-qq", "-e", "trace=none", "true"], capture_output=True, check=False
        ).returncode
    )


def record(folder: Path, operations: int, seed: int, options: dict[str, Any]) -> Path:
    """Let a writer do that many operations on ``folder/kb``; the file with its system calls."""
    trace = folder / "trace"
    command = ["strace", "-f", "-qq", "-xx", "-s", "100000000", "-e", f"trace={_CALLS}", "-e", "signal=none"]
    command += ["-o", str(trace), sys.executable, "-m", "tests.crash", "--write", f"faiss:{folder}/kb"]
    command += ["--options", json.dumps(options), "--seed", str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True) as process:
        assert process.stdout is not None
        done = 0
        for line in process.stdout:
            done += '"done"' in line
            if done == operations:
                break
        os.killpg(process.pid, signal.SIGKILL)
    if done < operations:
        raise RuntimeError(f"the writer ended by itself after {done} operations")
    return trace


def run(
    folder: Path,
    operations: int,
    images: int,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    deaf_to: tuple[str, ...] = (),
) -> Iterator[Log]:
    """Record, then check that many disks, spread evenly over the calls; yields the log of each."""
    luck = random.Random(seed)
    taken = list(calls(record(folder, operations, seed, options or {})))
    disk = Disk(folder / "kb", deaf_to)
    moments = sum(disk.do(*call) for call in taken)
    disk, moment, checked = Disk(folder / "kb", deaf_to), 0, 0
    for call in taken:
        moment += disk.do(*call)
        while checked * moments < moment * images:
            checked += 1
            after = folder / f"after-{checked}"
            disk.top.write_to(after, luck, luck.choice([0.0, 0.2, 0.5, 0.8, 1.0]))
            log = Log()
            log.take(disk.said)
            try:
                check(f"faiss:{after}", options or {}, log)
            except Exception as error:
                error.add_note(f"after call {moment} of {moments} that change something, disk {checked}: {after}")
                raise
            shutil.rmtree(after)
            yield log


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=60)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--options", type=json.loads, default={}, help="of the backend, as JSON")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="power-loss-"))
    logs = run(folder, arguments.operations, arguments.images, arguments.seed, arguments.options)
    cut_short = [log.cut_short for log in logs]
    shutil.rmtree(folder)
    sys.stdout.write(
        f"{len(cut_short)} disks after a power loss, {sum(cut_short)} of them within an operation: nothing lost, nothing "
        "half written, nothing twice\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
