"""When the full vectors come to the GPU too, to help with the rerank of batches, and when they do not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mrl_retrieval.errors import BackendError
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.storage import Snapshot
from mrl_retrieval.storage.segments import PositionArray

from .devices import Device

if TYPE_CHECKING:
    from .gpu_rerank import DeviceVectors

__all__ = ["Shortlists"]

logger = logging.getLogger(__name__)

_BATCH = 16
"""Fewer queries are reranked by the CPU before the device has begun."""
_VECTORS_PER_QUERY = 40
"""The vectors are brought over when batches have had one query for so many of them: by then the CPU has spent about as
much on the rerank as it takes to read them all."""


class Shortlists:
    """Of candidates, those that can be among the best; with the vectors on a device, if they come to be there.
    Thread-safe."""

    def __init__(self, device: Device | None) -> None:
        self._device = device
        """None: there is none, or no room on it."""
        self._queries = 0
        self._vectors: DeviceVectors | None = None
        self._lock = threading.Lock()

    def of(
        self, snapshot: Snapshot, queries: FloatArray, positions: PositionArray, k: int
    ) -> Sequence[PositionArray] | None:
        """Of the candidates (Q, n) of full queries (Q, D), all that can be among the best ``k``, ties included; None:
        this cannot tell.

        Raises:
            CorruptionError: a vector is not as it was written.
        """
        found = None
        if len(queries) >= _BATCH:
            try:
                vectors = self._held(snapshot, len(queries))
                found = None if vectors is None else vectors.shortlist(snapshot, queries, positions, k)
            except BackendError as error:
                logger.warning("candidates are reranked by the CPU alone from now on: %s", error)
                self._vectors = self._device = None
        return found

    def _held(self, snapshot: Snapshot, queries: int) -> DeviceVectors | None:
        with self._lock:
            device, state = self._device, snapshot.state
            if device is None or self._vectors is not None:
                return self._vectors
            self._queries += queries
            if self._queries * _VECTORS_PER_QUERY < state.vectors - state.first:
                return None
            from .gpu_rerank import DeviceVectors, fits

            if not fits(snapshot, device):
                self._device = None
                return None
            self._vectors = DeviceVectors(snapshot, device)
            return self._vectors
