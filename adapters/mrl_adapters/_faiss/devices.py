"""Which GPU is at hand, and whether FAISS is installed in one piece. Asking costs little where there is none."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from mrl_retrieval.errors import BackendError, MissingExtra

__all__ = ["Device", "doubled_faiss", "find", "has_room", "required", "warn_if_faiss_is_doubled"]

logger = logging.getLogger(__name__)

# What the drivers of NVIDIA and AMD, and Windows' subsystem for Linux, make. Loading torch takes seconds: without one
# of these it would find nothing.
_NODES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")
# The distributions that install the package ``faiss``. Going through all that is installed takes a tenth of a second.
_FAISS_BUILDS = (
    "faiss-cpu",
    "faiss-cuda",
    "faiss-gpu",
    "faiss-gpu-cu11",
    "faiss-gpu-cu12",
    "faiss-gpu-cu12-cuvs",
    "faiss-gpu-cu13-cuvs",
    "faiss-gpu-cuvs",
)


@dataclass(frozen=True, slots=True)
class Device:
    """Where PyTorch puts things."""

    name: str
    """PyTorch's: ``"cuda"``, ``"cpu"``."""
    model: str
    """For people."""

    def free_bytes(self) -> int | None:
        """Memory that is free on it; None: it is not told."""
        if not self.name.startswith("cuda"):
            return None
        import torch

        return int(torch.cuda.mem_get_info(self.name)[0])


@functools.cache
def find() -> Device | None:
    """The GPU that PyTorch would use. None: there is none, or no PyTorch that can use it.

    A process that was forked from one that used the GPU cannot use it: CUDA does not survive a fork.
    """
    if not ("torch" in sys.modules or any(Path(node).exists() for node in _NODES)):
        return None
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available() or torch.cuda._is_in_bad_fork():
        return None
    return Device("cuda", torch.cuda.get_device_name())


def has_room(device: Device, nbytes: int) -> bool:
    """Whether so many bytes are free on a device, as far as it tells."""
    free = device.free_bytes()
    return free is None or nbytes <= free


os.register_at_fork(after_in_child=find.cache_clear)


def required() -> Device:
    """The same, for who asked for it.

    Raises:
        MissingExtra: PyTorch is not installed.
        BackendError: there is no GPU that it can use, or two builds of FAISS lie over each other.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra("index='gpu'", "gpu")
    if (problem := doubled_faiss()) is not None:
        raise BackendError(f"index='gpu': {problem}")
    device = find()
    if device is None:
        import torch

        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        raise BackendError(
            f"index='gpu': looked for a GPU with torch.cuda.is_available(), found none; torch {torch.__version__} is "
            f"built for {build}, CUDA_VISIBLE_DEVICES is {os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}. Where "
            "there is a GPU with its driver, pip install 'mrl-retrieval[gpu]' and a build of torch for it, and open "
            "the collection in a process that was not forked from one that used the GPU; elsewhere use index='auto'"
        )
    return device


def doubled_faiss() -> str | None:
    """What is wrong where several builds of FAISS are installed; None: nothing.

    All of them install the package ``faiss``. The one that comes second overwrites the files of the first, and removing
    either leaves the other without its own.
    """
    builds = _faiss_builds()
    if len(builds) < 2:
        return None
    return (
        f"{' and '.join(builds)} are both installed, and overwrite each other's files, as both are the package "
        f"'faiss'; keep one: pip uninstall -y {' '.join(builds)}; pip install faiss-gpu (or faiss-cpu)"
    )


@functools.cache
def warn_if_faiss_is_doubled() -> None:
    """Log :func:`doubled_faiss`, once in a process."""
    if (problem := doubled_faiss()) is not None:
        logger.warning("%s", problem)


def _faiss_builds() -> list[str]:
    found = []
    for name in _FAISS_BUILDS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(metadata.distribution(name).metadata["Name"])
    return found
