"""What Linux tells of running processes: their memory and processor time; and keeping them on one core."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Memory", "cpu_seconds", "family", "memory", "occupied", "pin"]

PROC = Path("/proc")


@dataclass(frozen=True)
class Memory:
    """Bytes in memory of some processes together; pages that several share count once."""

    resident: int
    of_files: int
    """Mapped pages of files, which the system can take back without writing them out."""


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for each in PROC.iterdir():
        if each.name.isdigit():
            with contextlib.suppress(OSError):
                parents.setdefault(int(_stat(int(each.name))[1]), []).append(int(each.name))
    found = [pid]
    for each_pid in found:
        found += parents.get(each_pid, [])
    return found


def memory(pids: Iterable[int]) -> Memory:
    """Proportional set size (PSS), summed."""
    resident = of_files = 0
    for pid in pids:
        for key, size in _rollup(pid):
            resident += size if key == "Pss" else 0
            of_files += size if key == "Pss_File" else 0
    return Memory(resident, of_files)


def _rollup(pid: int) -> Iterator[tuple[str, int]]:
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]:
            key, _, value = line.partition(":")
            yield key, int(value.split()[0]) * 1024


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time used so far, also by children that ended."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            ticks += sum(map(int, _stat(pid)[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` after the name: state, parent, …"""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def pin(pids: Iterable[int]) -> None:
    """Keep all threads of some processes, and what they will start, on one core."""
    core = {max(os.sched_getaffinity(0))}
    for pid in pids:
        with contextlib.suppress(OSError):
            for thread in list((PROC / str(pid) / "task").iterdir()):
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread.name), core)


def occupied(folder: Path) -> int:
    """Bytes that the files of a folder take on disk; holes in files take none."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(base) / name).stat().st_blocks * 512
    return total
