"""Running a script as a user who may read what others made, and nothing more."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["as_nobody", "visible_folder"]

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
        cwd=Path(__file__).parents[3],
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
