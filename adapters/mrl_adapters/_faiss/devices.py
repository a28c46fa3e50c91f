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
from typing import Literal

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
    """Where an index is."""

    name: str
    """PyTorch's: ``"cuda"``, ``"cpu"``."""
    model: str
    """For people."""
    library: Literal["torch", "faiss"] = "torch"
    """What is used on it."""

    def free_bytes(self) -> int | None:
        """Memory that is free on it; None: it is not told."""
        if self.library != "torch" or not self.name.startswith("cuda"):
            return None
        import torch

        return int(torch.cuda.mem_get_info(self.name)[0])


@functools.cache
def find() -> Device | None:
    """The GPU that PyTorch can use, or else FAISS. None: there is none, or none of them is built for it.

    A process that was forked from one that used the GPU cannot use it: CUDA does not survive a fork.
    """
    if not ("torch" in sys.modules or any(Path(node).exists() for node in _NODES)):
        return None
    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.cuda._is_in_bad_fork():
            return None
        if torch.cuda.is_available():
            return Device("cuda", torch.cuda.get_device_name())
    return Device("cuda", "the first that FAISS finds", "faiss") if _faiss_finds_one() else None


def _faiss_finds_one() -> bool:
    import faiss

    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0 and not _forked


def has_room(device: Device, nbytes: int) -> bool:
    """Whether so many bytes are free on a device, as far as it tells."""
    free = device.free_bytes()
    return free is None or nbytes <= free


_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True  # FAISS does not tell whether its GPU was in use; so it is as if it was
    find.cache_clear()


os.register_at_fork(after_in_child=_after_fork)


def required() -> Device:
    """The same, for who asked for it.

    Raises:
        MissingExtra: PyTorch is not installed, and FAISS finds no GPU.
        BackendError: there is no GPU that one of them can use, or two builds of FAISS lie over each other.
    """
    if (problem := doubled_faiss()) is not None:
        raise BackendError(f"index='gpu': {problem}")
    if (device := find()) is not None:
        return device
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra("index='gpu'", "gpu")
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    raise BackendError(
        "index='gpu': looked for a GPU with torch.cuda.is_available() and faiss.get_num_gpus(), found none; torch "
        f"{torch.__version__} is built for {build}, CUDA_VISIBLE_DEVICES is "
        f"{os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}. Where there is a GPU with its driver, pip install "
        "'mrl-retrieval[gpu]' and a build of torch for it, and open the collection in a process that was not forked "
        "from one that used the GPU; elsewhere use index='auto'"
    )


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
            metadata.distribution(name)
            found.append(name)
    return found
