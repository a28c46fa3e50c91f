"""Running a script as a user who may read what others made, and nothing more."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["IDS", "answering", "as_nobody", "files", "give_back", "said", "take_away", "visible_folder"]

IDS = [f"d{i:02}" for i in range(40)]
"""The rows of a filled collection."""

_NOBODY = 65534
# Everything is imported first: Python itself may lie where only its owner can read.
_BEFORE = """
import os, secrets, sys
import numpy as np
import mrl_adapters.faiss
from mrl_retrieval.errors import BackendError, BackendUnavailable, CorruptionError
from mrl_retrieval.registry import open_backend
from mrl_retrieval import MatryoshkaRetriever
from tests.backends.faiss.helpers import *

if os.geteuid() == 0:  # root is allowed everything, so become somebody else
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
else:
    assert not os.access(sys.argv[3], os.W_OK), "the test has to take the permission to write away"
address = sys.argv[1]
"""


def as_nobody(script: str, address: str, folder: Path) -> subprocess.Popen[str]:
    """A process that runs ``script``, which has ``address``, may read ``folder`` and may not write there."""
    return subprocess.Popen(
        [sys.executable, "-c", _BEFORE + script, address, str(_NOBODY), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[4],
    )


@contextmanager
def visible_folder() -> Iterator[Path]:
    """A temporary folder that other users can enter, which pytest's own cannot be."""
    with tempfile.TemporaryDirectory(prefix="mrl-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        yield folder
        for each in [folder, *folder.rglob("*")]:
            if not each.is_symlink():
                each.chmod(0o700 if each.is_dir() else 0o600)


def files(place: Path) -> set[str]:
    return {path.name for path in (place / "kb" / "default").iterdir()}


def take_away(place: Path) -> None:
    """Leave to others, and where this is not root to this process too, the permission to read."""
    for path in [place / "kb", *(place / "kb").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)


def give_back(place: Path) -> None:
    for path in [place / "kb", *(place / "kb").rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def said(script: str, address: str, place: Path) -> str:
    """What a script prints that runs as nobody."""
    with as_nobody(script, address, place / "kb" / "default") as child:
        out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    return out


@contextmanager
def answering(script: str, address: str, place: Path) -> Iterator[Callable[[object], list[str]]]:
    """A process that answers each line it gets with one of its own; called with a line, this gives the answer's words.

    ``script`` is what it does with ``line``; ``backend`` is open.
    """
    loop = "backend = open_backend(address)\nfor line in sys.stdin:\n" + "".join(
        f"    {one}\n" for one in script.splitlines()
    )
    with as_nobody(loop, address, place / "kb" / "default") as child:
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None

        def ask(line: object = "") -> list[str]:
            print(line, file=child.stdin, flush=True)
            return child.stdout.readline().split()

        yield ask
        child.stdin.close()
        assert child.wait(60) == 0, child.stderr.read()
