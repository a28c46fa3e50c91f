"""What a process holds in memory, told apart by what would become of it under pressure."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Held", "held", "load_average"]

_SELF = Path("/proc/self")


@dataclass(frozen=True)
class Held:
    """Bytes. Pages that a library reads into the system's cache without mapping them are in none."""

    anonymous: int
    """Private memory (RssAnon) and shared memory (RssShmem): what must stay, or be swapped."""
    mapped: int
    """Pages of data files that were touched through a mapping: the system can drop them and read them again."""
    fine: int
    """The same of the files that hold full vectors, read for candidates only; not in ``mapped``."""

    def since(self, before: Held) -> dict[str, int]:
        """What was added."""
        return {key: value - asdict(before)[key] for key, value in asdict(self).items()}


def held(files: Iterable[Path], fine: Iterable[Path] = ()) -> Held:
    """Of this process; ``files`` are the data files or folders whose mapped pages count, ``fine`` some of them."""
    status = dict(line.split(":", 1) for line in (_SELF / "status").read_text().splitlines() if ":" in line)
    anonymous = sum(int(status[key].split()[0]) * 1024 for key in ("RssAnon", "RssShmem"))
    of_files, of_fine = _roots(files), _roots(fine)
    mapped = in_fine = 0
    for path, size in _mappings():
        if path.startswith(of_fine):
            in_fine += size
        elif path.startswith(of_files):
            mapped += size
    return Held(anonymous, mapped, in_fine)


def _roots(paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(f"{path.resolve()}{os.sep}" for path in paths)


def _mappings() -> Iterator[tuple[str, int]]:
    """Path, as that of a folder, and resident bytes of each mapping of a file; private copies are left out."""
    path, resident = "", 0
    for line in (_SELF / "smaps").read_text().splitlines():
        key, _, rest = line.partition(":")
        if key == "Rss":
            resident = int(rest.split()[0]) * 1024
        elif key == "Anonymous":
            yield path, resident - int(rest.split()[0]) * 1024
        elif " " in key:  # the first line of a mapping: address, permissions, offset, device, inode, path
            parts = line.split(maxsplit=5)
            path = parts[5] + os.sep if len(parts) == 6 else ""


def load_average() -> float:
    """Processes that wanted to run in the last minute: a measurement beside others is worth less."""
    return os.getloadavg()[0]
