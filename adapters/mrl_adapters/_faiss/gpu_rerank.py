"""Full vectors in float16 on a GPU: of the candidates of many queries, those that can be among the best.

The scores of hits do not come from here: what is left is scored again, where it is stored, so that answers are the same
to the last bit with a GPU and without one. The device only spares the CPU the candidates that cannot win.
"""

from __future__ import annotations

import threading

import numpy as np

from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.storage import Snapshot
from mrl_retrieval.storage.segments import PositionArray

from . import devices
from .devices import Device
from .half_matrix import HalfMatrix
from .torch_calls import torch, torch_errors

__all__ = ["DeviceVectors", "fits"]

_SCRATCH = 512 << 20
_SHARE = 3
"""The vectors may take one part in so many of the memory that is free on the device: the rest is to grow into."""
_BLOCK = 8192
# Dead vectors at the beginning are cut off when they are this share of all.
_CUT_SHARE = 4


def fits(snapshot: Snapshot, device: Device) -> bool:
    """Whether the full vectors of a collection have room on a device."""
    state = snapshot.state
    nbytes = (state.vectors - state.first) * snapshot.fine.layout.dims * 2
    return devices.has_room(device, _SHARE * nbytes + _SCRATCH)


class DeviceVectors:
    """The stored vectors of one collection, from :attr:`first` on. They never change: numbers are given once.
    Thread-safe."""

    def __init__(self, snapshot: Snapshot, device: Device, scratch: int = _SCRATCH) -> None:
        state, layout = snapshot.state, snapshot.fine.layout
        self.collection_id = state.collection_id
        self.first = state.first
        """Number of the first vector that is held."""
        self._device = device
        self._scratch = scratch
        self._lock = threading.Lock()
        self._matrix = HalfMatrix(layout.dims, device, state.vectors - state.first)
        self._rounded = layout.dtype != "float16"
        self._short = False

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self._matrix.nbytes

    def shortlist(
        self, snapshot: Snapshot, queries: FloatArray, positions: PositionArray, k: int
    ) -> list[PositionArray] | None:
        """Of the candidates of each query, all that can be among its best ``k``, ties included.

        Let a score here and one in storage differ by e at the most. Then the k-th best score here is at most e above
        the k-th best in storage, and what belongs to the best k there has a score here that is at most 2e below the
        k-th here. All those are kept; where more than a few are, the query keeps all of its candidates.

        Args:
            snapshot: of the collection that this object was made for.
            queries: (Q, D) unit or zero rows, of full length.
            positions: (Q, n) numbers of stored vectors.
            k: at least 1.

        Returns:
            Their numbers for each query; None where the device cannot tell: do without.

        Raises:
            CorruptionError: a vector is not as it was written.
        """
        few = 2 * k + 16
        if positions.shape[1] <= few or not len(queries):
            return None
        # Bringing many vectors over takes seconds: who comes meanwhile does without.
        if not self._lock.acquire(blocking=False):
            return None
        try:
            if not self._follow(snapshot):
                return None
            held, first = self._matrix.rows, self.first
        finally:
            self._lock.release()
        tolerance = 2 * self.error(held.shape[1], self._rounded)
        step = max(1, self._scratch // (10 * positions.shape[1] * held.shape[1]))
        kept: list[PositionArray] = []
        with torch_errors("scoring candidates on the GPU"), torch.inference_mode():
            for start in range(0, len(queries), step):
                asked = torch.tensor(queries[start : start + step], device=held.device)
                near = torch.tensor(positions[start : start + step] - first, device=held.device)
                best = _cosines(held, near, asked).topk(few, sorted=True)
                least = best.values[:, k - 1, None] - tolerance
                inside = (best.values >= least).cpu().numpy()
                order = best.indices.cpu().numpy()
                for candidates, chosen, within in zip(positions[start : start + step], order, inside, strict=True):
                    kept.append(candidates if within[-1] else candidates[chosen[within]])
        return kept

    @staticmethod
    def error(dims: int, rounded: bool) -> float:
        """How far a cosine here may be from that in storage.

        With u = 2^-24, a sum of ``dims`` products in float32, in any order, is off by dims u times the lengths of the
        two vectors at the most, a length by half of that, and a few operations add one u each: less than 2 (dims + 8) u
        in all, here and in storage. Where storage has not float16 itself, rounding to it moves a vector by 2^-11 of its
        length, and, where components are below what float16 can tell, by 2^-25 each: less than 2^-9 together, for
        lengths from 1/2 up.

        Source: N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1.
        """
        return (dims + 8) * 2.0**-22 + (2.0**-9 if rounded else 0.0)

    def _follow(self, snapshot: Snapshot) -> bool:
        """Take up what was written since; whether everything in the snapshot is here."""
        state = snapshot.state
        if state.collection_id != self.collection_id or state.first < self.first:
            return False
        matrix = self._matrix
        if (state.first - self.first) * _CUT_SHARE > matrix.count:
            cut = min(state.first - self.first, matrix.count)
            matrix.drop_front(cut)
            self.first = state.first
        for start in range(self.first + matrix.count, state.vectors, _BLOCK):
            vectors = snapshot.fine.read(start, min(start + _BLOCK, state.vectors))
            squares = np.einsum("nd,nd->n", vectors, vectors)
            self._short |= bool(((squares > 0) & (squares < 0.25)).any())
            matrix.add(vectors)
        return not (self._rounded and self._short)


def _cosines(held: torch.Tensor, places: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Cosines (Q, n) of queries (Q, D) with their candidates, in float32 whatever is set for matrix products."""
    vectors = held[places]
    dots = (vectors * queries[:, None]).sum(-1)
    lengths = vectors.float().square_().sum(-1).sqrt_()
    return torch.where(lengths > 0, dots / lengths, 0.0)
