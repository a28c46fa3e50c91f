"""A float16 matrix on a device that grows at its end and is cut off at its beginning."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mrl_retrieval.matryoshka import FloatArray

from .devices import Device
from .torch_calls import torch, torch_errors

__all__ = ["Half", "HalfMatrix"]

Half = npt.NDArray[np.float16]


class HalfMatrix:
    """Rows in consecutive places. What :attr:`rows` gave stays as it was, whatever is added or dropped later."""

    def __init__(self, dims: int, device: Device, capacity: int = 0) -> None:
        self._count = 0
        with torch_errors(f"making room for {capacity} vectors on the GPU"):
            self._held = torch.empty((capacity, dims), dtype=torch.float16, device=device.name)

    @property
    def rows(self) -> torch.Tensor:
        """(count, dims)."""
        return self._held[: self._count]

    @property
    def dims(self) -> int:
        """Length of a row."""
        return int(self._held.shape[1])

    @property
    def count(self) -> int:
        """How many rows there are."""
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes on the device, with what is kept free for more rows."""
        return self._held.nbytes

    def add(self, vectors: FloatArray | Half) -> None:
        """Append rows (n, dims), rounded."""
        end = self._count + len(vectors)
        with torch_errors("adding vectors on the GPU"):
            held = self._held
            if end > len(held):
                room = max(end, len(held) * 3 // 2)
                grown = torch.empty((room, self.dims), dtype=torch.float16, device=held.device)
                grown[: self._count] = held[: self._count]
                held = grown
            held[self._count : end] = torch.from_numpy(vectors.astype(np.float16))
        self._held, self._count = held, end

    def drop_front(self, n: int) -> None:
        """Forget the first ``n``."""
        with torch_errors("cutting off vectors on the GPU"):
            self._held = self._held[n : self._count].clone()
        self._count -= n

    def on_host(self, start: int, stop: int) -> Half:
        """Rows ``start`` to ``stop``, copied."""
        with torch_errors("reading vectors from the GPU"):
            found: Half = self._held[start:stop].cpu().numpy()
        return found
