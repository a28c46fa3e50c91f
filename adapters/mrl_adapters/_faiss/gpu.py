"""Prefixes in float16 on a GPU (``gpu``): every one is compared, for many queries at once in one matrix product."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from mrl_retrieval.coarse.container import read_arrays, write_arrays
from mrl_retrieval.errors import BackendError
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.storage import Snapshot
from mrl_retrieval.storage.segments import PositionArray

from . import devices
from .devices import Device
from .shortlists import Shortlists
from .structure import Allowed, Found, Structure

if TYPE_CHECKING:
    from torch import Tensor

    from .half_matrix import Half, HalfMatrix

__all__ = ["GPUStructure"]

SCRATCH = 256 << 20
"""Bytes on the device that a search may take beside the prefixes, about."""
_QUERIES = 1024
"""That many queries share a matrix product."""
# A filter that lets through one in so many, or fewer: what it lets through is gathered; otherwise scores are masked.
_LIST_SHARE = 4


class GPUStructure(Structure):
    """Over one float16 matrix on a device. Where there is no GPU, what was read stays on the host, and is not searched.

    A score is off by 2^-10 at the most, 2^-11 for each of the two unit vectors that are rounded to float16, and by the
    rounding of sums in float32, which is far less: a neighbour is missed only where so little decides.
    """

    kind: ClassVar[str] = "gpu"

    def __init__(self, held: HalfMatrix | Half, device: Device | None, scratch: int = SCRATCH) -> None:
        self._held = held
        self.device = device
        """None: there is none, and nothing can be searched."""
        self._scratch = scratch
        self._mask: tuple[weakref.ref[Allowed], Tensor] | None = None
        with_torch = device is not None and device.library == "torch"
        self._mixes = with_torch and _mixes(held)
        self._shortlists = Shortlists(device if with_torch else None)

    @classmethod
    def empty(cls, dims: int, device: Device, capacity: int = 0, scratch: int = SCRATCH) -> GPUStructure:
        """Without any prefix, and with room for ``capacity`` of them."""
        if device.library == "faiss":
            from .faiss_gpu import FaissGPUStructure

            return FaissGPUStructure(dims, device, capacity)
        from .half_matrix import HalfMatrix

        return cls(HalfMatrix(dims, device, capacity), device, scratch)

    @property
    def dims(self) -> int:
        return self._held.shape[1] if isinstance(self._held, np.ndarray) else self._held.dims

    @property
    def count(self) -> int:
        return len(self._held) if isinstance(self._held, np.ndarray) else self._held.count

    @property
    def nbytes(self) -> int:
        return self._held.nbytes

    @staticmethod
    def bytes_for(rows: int, dims: int) -> int:
        """How many bytes so many prefixes take on the device."""
        return rows * dims * 2

    @staticmethod
    def fits(rows: int, dims: int, device: Device) -> bool:
        """Whether so many have room there, and may grow by a half."""
        # While it grows, the old matrix and the new one, of one and a half its size, are both there.
        return devices.has_room(device, GPUStructure.bytes_for(rows, dims) * 5 // 2 + 2 * SCRATCH)

    def add(self, prefixes: FloatArray | Half) -> None:
        self._matrix.add(prefixes)

    def drop_front(self, n: int) -> None:
        self._matrix.drop_front(n)

    # -- searching -----------------------------------------------------------------------------------------

    def search(self, queries: FloatArray, limit: int, allowed: Allowed, probes: int | None = None) -> Found:
        from .torch_calls import torch, torch_errors

        held, count = self._matrix.rows, self.count
        scores = np.empty((len(queries), limit), np.float32)
        places = np.empty((len(queries), limit), np.int64)
        few = allowed.count < count and allowed.count * _LIST_SHARE <= count
        with torch_errors("searching on the GPU"), torch.inference_mode():
            listed = torch.from_numpy(allowed.places).to(held.device) if few else None
            mask = self._mask_of(allowed, held) if allowed.count < count and not few else None
            for start in range(0, len(queries), _QUERIES):
                stop = min(start + _QUERIES, len(queries))
                asked = torch.tensor(queries[start:stop], device=held.device)
                best, where = self._best(asked, limit, held, listed, mask)
                scores[start:stop] = best.cpu().numpy()
                places[start:stop] = where.cpu().numpy()
        return scores, places

    def _best(
        self, queries: Tensor, limit: int, held: Tensor, listed: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Scores and places (Q, limit) of the best, found block by block, on the device."""
        from .torch_calls import torch

        best = torch.empty((len(queries), 0), dtype=torch.float32, device=held.device)
        where = torch.empty((len(queries), 0), dtype=torch.int64, device=held.device)
        for start, stop in self._blocks(len(queries), len(held) if listed is None else len(listed)):
            rows = held[start:stop] if listed is None else held[listed[start:stop]]
            scores = self._products(queries, rows)
            if mask is not None:
                scores.masked_fill_(~mask[start:stop], -torch.inf)
            top = scores.topk(min(limit, stop - start), sorted=False)
            found = top.indices + start if listed is None else listed[top.indices + start]
            best, where = torch.cat([best, top.values], 1), torch.cat([where, found], 1)
            if best.shape[1] > limit:
                top = best.topk(limit, sorted=False)
                best, where = top.values, where.gather(1, top.indices)
        return best, where

    def _blocks(self, queries: int, rows: int) -> Iterator[tuple[int, int]]:
        """So many rows at a time that their scores, and a float32 copy of them, fit the scratch memory."""
        step = max(1, self._scratch // (4 * max(queries, self.dims)))
        for start in range(0, rows, step):
            yield start, min(start + step, rows)

    def _products(self, queries: Tensor, rows: Tensor) -> Tensor:
        """Products (Q, n), added up in float32; in float16 they would make ties of neighbours."""
        from .torch_calls import torch

        if self._mixes:
            return torch.mm(queries.half(), rows.T, out_dtype=torch.float32)
        return queries @ rows.float().T

    def _mask_of(self, allowed: Allowed, held: Tensor) -> Tensor:
        """The mask, on the device; the last one stays there, as most searches share that of all live vectors."""
        from .torch_calls import torch

        kept = self._mask
        if kept is not None and kept[0]() is allowed:
            return kept[1]
        mask = torch.tensor(allowed.mask, device=held.device)
        self._mask = weakref.ref(allowed), mask
        return mask

    def shortlist(
        self, snapshot: Snapshot, queries: FloatArray, positions: PositionArray, k: int
    ) -> Sequence[PositionArray] | None:
        return self._shortlists.of(snapshot, queries, positions, k)

    @property
    def _matrix(self) -> HalfMatrix:
        if isinstance(self._held, np.ndarray):
            raise BackendError("the coarse index is one for a GPU, and there is none here: open with index='auto'")
        return self._held

    # -- the cache file ------------------------------------------------------------------------------------

    def write(self, path: Path) -> None:
        write_arrays(path, {"prefixes": self._on_host(0, self.count)})

    @classmethod
    def read(cls, content: npt.NDArray[np.uint8]) -> GPUStructure:
        arrays = read_arrays(content)
        prefixes = arrays.get("prefixes")
        if prefixes is None or prefixes.ndim != 2 or prefixes.dtype != np.float16:
            raise ValueError(f"it holds {sorted(arrays)}, expected prefixes in float16")
        device = devices.find()
        if device is None or not devices.has_room(device, cls.bytes_for(*prefixes.shape) + SCRATCH):
            return cls(prefixes, None)
        made = cls.empty(prefixes.shape[1], device, len(prefixes))
        made.add(prefixes)
        return made

    def differing(self, start: int, prefixes: FloatArray) -> bool:
        return not np.array_equal(self._on_host(start, start + len(prefixes)), prefixes.astype(np.float16))

    def _on_host(self, start: int, stop: int) -> Half:
        held = self._held
        return held[start:stop] if isinstance(held, np.ndarray) else held.on_host(start, stop)

    def details(self) -> Mapping[str, Any]:
        return {"index": "flat, float16, on the GPU", "device": self.device.model if self.device else "none is here"}


def _mixes(held: HalfMatrix | Half) -> bool:
    """Whether float16 matrices can be multiplied into a float32 one there, which halves what is read."""
    from .torch_calls import torch

    assert not isinstance(held, np.ndarray)
    one = torch.zeros((1, held.dims), dtype=torch.float16, device=held.rows.device)
    try:
        torch.mm(one, one.T, out_dtype=torch.float32)
    except (TypeError, RuntimeError):  # not in this version of PyTorch, or not on this device
        return False
    return True
