"""Bitmaps of rows that match a filter, kept from one search to the next."""

from __future__ import annotations

import threading
from collections import OrderedDict

from mrl_retrieval.filters import And, Filter, IdIn, Not, Or

from .query import Mask
from .state import State

__all__ = ["MaskCache", "mask_key"]


class MaskCache:
    """The bitmaps of the filters used last, for one generation. Bounded in bytes."""

    def __init__(self, limit_bytes: int = 64 * 2**20) -> None:
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._of: tuple[str, int] = ("", -1)
        self._masks: OrderedDict[str, Mask] = OrderedDict()
        self._bytes = 0

    def get(self, state: State, key: str) -> Mask | None:
        """The mask of a filter in this state, if it is known."""
        with self._lock:
            if self._of != (state.collection_id, state.generation) or key not in self._masks:
                return None
            self._masks.move_to_end(key)
            return self._masks[key]

    def put(self, state: State, key: str, mask: Mask) -> None:
        """Keep a mask, and forget those of other generations."""
        with self._lock:
            if self._of != (state.collection_id, state.generation):
                self._of = (state.collection_id, state.generation)
                self._masks.clear()
                self._bytes = 0
            if key not in self._masks and mask.nbytes <= self._limit // 4:
                self._masks[key] = mask
                self._bytes += mask.nbytes
            while self._bytes > self._limit:
                self._bytes -= self._masks.popitem(last=False)[1].nbytes


def mask_key(filter: Filter | None) -> str | None:
    """What a bitmap is kept by; None for one that is not worth keeping: allow-lists of ids are made for one search, and
    long. It is not the filter itself: as dataclasses, those for 1 and for True are equal."""
    return None if _has_ids(filter) else repr(filter)


def _has_ids(filter: Filter | None) -> bool:
    if isinstance(filter, (And, Or)):
        return any(map(_has_ids, filter.parts))
    return _has_ids(filter.part) if isinstance(filter, Not) else isinstance(filter, IdIn)
