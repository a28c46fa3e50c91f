"""The same over FAISS's flat index on a GPU, where FAISS is built for one and PyTorch is not there."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from mrl_retrieval.matryoshka import FloatArray

from .calls import faiss_errors, untyped
from .devices import Device
from .gpu import GPUStructure
from .structure import Allowed, Found

if TYPE_CHECKING:
    from .half_matrix import Half

__all__ = ["FaissGPUStructure"]

_MOST = 2048
"""FAISS's GPUs give no more results than that."""
_BLOCK = 16_384


class FaissGPUStructure(GPUStructure):
    """A ``faiss.GpuIndexFlatIP`` in float16, and the same prefixes on the host.

    That index knows no filters and forgets nothing. What is not allowed is asked for too and left out; where then too
    few are left, or more than 2,048 are wanted, the host compares. To forget, the index is filled again.
    """

    def __init__(self, dims: int, device: Device, capacity: int = 0) -> None:
        self._room: Half = np.empty((capacity, dims), np.float16)
        self._prefixes: Half = self._room[:0]
        super().__init__(self._prefixes, device)
        # FAISS's GPU indexes are not to be used by two threads at once.
        self._lock = threading.Lock()
        with faiss_errors("making an index on the GPU"):
            self._index = _on_device(untyped.IndexFlatIP(dims))

    @property
    def nbytes(self) -> int:
        return 2 * self._prefixes.nbytes

    def add(self, prefixes: FloatArray | Half) -> None:
        count = len(self._prefixes)
        end = count + len(prefixes)
        rounded = prefixes.astype(np.float16)
        with faiss_errors("adding vectors on the GPU"):
            self._index.add(rounded.astype(np.float32))
        if end > len(self._room):
            grown: Half = np.empty((max(end, len(self._room) * 3 // 2), self.dims), np.float16)
            grown[:count] = self._prefixes
            self._room = grown
        self._room[count:end] = rounded
        self._hold(self._room[:end])

    def drop_front(self, n: int) -> None:
        rest = self._prefixes[n:].copy()
        with faiss_errors("cutting off what is gone on the GPU"):
            self._index.reset()
            for start in range(0, len(rest), _BLOCK):
                self._index.add(rest[start : start + _BLOCK].astype(np.float32))
        self._room = rest
        self._hold(rest)

    def _hold(self, prefixes: Half) -> None:
        self._prefixes = self._held = prefixes

    def search(self, queries: FloatArray, limit: int, allowed: Allowed, probes: int | None = None) -> Found:
        out = self.count - allowed.count
        asked = min(limit + out, _MOST, self.count)
        if asked < limit:
            return self._on_cpu(queries, limit, allowed)
        with self._lock, faiss_errors("searching on the GPU"):
            scores, places = self._index.search(queries, asked)
        if not out:
            return scores, places
        fits = allowed.mask[places]
        # The first allowed ones of each query, in the order in which FAISS gives them: the best first.
        order = np.argsort(~fits, axis=1, kind="stable")[:, :limit]
        scores, places = np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1)
        lacking = np.flatnonzero(np.count_nonzero(fits, axis=1) < limit)
        if len(lacking):
            scores[lacking], places[lacking] = self._on_cpu(queries[lacking], limit, allowed)
        return scores, places

    def _on_cpu(self, queries: FloatArray, limit: int, allowed: Allowed) -> Found:
        scores = np.empty((len(queries), 0), np.float32)
        places = np.empty((len(queries), 0), np.int64)
        for start in range(0, allowed.count, _BLOCK):
            block = allowed.places[start : start + _BLOCK]
            scores = np.concatenate([scores, queries @ self._prefixes[block].astype(np.float32).T], axis=1)
            places = np.concatenate([places, np.broadcast_to(block, (len(queries), len(block)))], axis=1)
            if scores.shape[1] > limit:
                best = np.argpartition(-scores, limit - 1, axis=1)[:, :limit]
                scores, places = np.take_along_axis(scores, best, 1), np.take_along_axis(places, best, 1)
        return scores, places


def _on_device(index: Any) -> Any:
    """A flat index, on the first GPU, in float16."""
    options = untyped.GpuClonerOptions()
    options.useFloat16 = True
    resources = untyped.StandardGpuResources()
    moved = untyped.index_cpu_to_gpu(resources, 0, index, options)
    moved.referenced_objects = [resources]
    return moved
