"""The folder of a collection that is to leave nothing behind."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path

from mrl_retrieval.storage.files import os_errors

__all__ = ["Temporary"]


class Temporary:
    """A new folder that only this user can enter. It goes at the end of the process at the latest.

    Raises:
        BackendError: none can be made.
    """

    def __init__(self) -> None:
        with os_errors("making a temporary folder"):
            self.path = Path(tempfile.mkdtemp(prefix="mrl-qdrant-edge-")).resolve()
        self._finalizer = weakref.finalize(self, _remove, self.path, os.getpid())

    def remove(self) -> None:
        """Remove it with all it holds. Nothing to do a second time, or in a forked child, whose parent has it."""
        self._finalizer()


def _remove(path: Path, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(path, ignore_errors=True)
