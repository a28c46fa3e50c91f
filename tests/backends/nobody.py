"""What a user without rights meets, for the tests of several backends."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["reachable_folder", "without_privileges"]

_NOBODY = 65534


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Root may read everything; be nobody meanwhile. Nothing can be imported where Python is root's alone."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextlib.contextmanager
def reachable_folder() -> Iterator[Path]:
    """A temporary folder that everybody can get to, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="mrl-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        yield folder
        for each in [folder, *folder.iterdir()]:
            if each.is_dir():
                each.chmod(0o700)
