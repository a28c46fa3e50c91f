"""FAISS's graph over prefixes in 8 bits (``hnsw``): fast on data without clusters, at several times the memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mrl_retrieval.matryoshka import FloatArray

from .calls import faiss, faiss_errors, read_index, untyped, write_index
from .structure import Allowed, Found, Structure

__all__ = ["HNSWStructure"]

_NEIGHBOURS = 32
_EF_CONSTRUCTION = 100
# A graph is of no use where few of those that it leads to are allowed: then all of them are compared.
_FEW = 10
# It is made again when it has dropped this share of what it holds.
_RENEWAL_SHARE = 4


class HNSWStructure(Structure):
    """Over ``faiss.IndexHNSWSQ``. It cannot forget: places that are dropped stay in it, before the first."""

    kind: ClassVar[str] = "hnsw"

    def __init__(self, index: Any) -> None:
        self._index = index
        self._dropped = 0

    @classmethod
    def empty(cls, sample: FloatArray, ef: int = 64) -> HNSWStructure:
        """Without any prefix; the ranges of the 8 bits are those of a sample (n, dims), and a fifth more."""
        index = untyped.IndexHNSWSQ(
            sample.shape[1], faiss.ScalarQuantizer.QT_8bit, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT
        )
        index.hnsw.efConstruction = _EF_CONSTRUCTION
        quantizer = untyped.downcast_index(index.storage).sq
        quantizer.rangestat_arg = 0.2
        with faiss_errors("training the graph"):
            index.train(sample)
        index.hnsw.efSearch = ef
        return cls(index)

    @property
    def dims(self) -> int:
        return int(self._index.d)

    @property
    def count(self) -> int:
        return int(self._index.ntotal) - self._dropped

    @property
    def nbytes(self) -> int:
        return self.bytes_for(int(self._index.ntotal), self.dims)

    @staticmethod
    def bytes_for(rows: int, dims: int) -> int:
        """About how many bytes so many prefixes take."""
        return rows * (dims + (2 * _NEIGHBOURS + 4) * 4)

    def add(self, prefixes: FloatArray) -> None:
        with faiss_errors("adding vectors"):
            self._index.add(prefixes)

    def drop_front(self, n: int) -> None:
        self._dropped += n

    def search(self, queries: FloatArray, limit: int, allowed: Allowed, probes: int | None = None) -> Found:
        selector = None
        if self._dropped or allowed.count < self.count:
            mask = allowed.mask
            if self._dropped:
                mask = np.concatenate([np.zeros(self._dropped, dtype=np.bool_), mask])
            bits = np.packbits(mask, bitorder="little")
            selector = untyped.IDSelectorBitmap(bits)
        scores = np.empty((len(queries), 0), np.float32)
        places = np.empty((len(queries), 0), np.int64)
        with faiss_errors("searching"):
            if allowed.count * _FEW > self.count:
                params = untyped.SearchParametersHNSW(
                    sel=selector, efSearch=max(probes or self._index.hnsw.efSearch, limit)
                )
                scores, places = self._index.search(queries, limit, params=params)
            if not places.size or (places < 0).any():
                flat = faiss.downcast_index(self._index.storage)
                scores, places = untyped.Index.search(
                    flat, queries, limit, params=untyped.SearchParameters(sel=selector) if selector else None
                )
        return scores, places - self._dropped

    @property
    def wants_renewal(self) -> bool:
        return self._dropped * _RENEWAL_SHARE > self.count

    @property
    def can_be_kept(self) -> bool:
        return not self._dropped  # FAISS's file does not tell where the first place is

    def write(self, path: Path) -> None:
        write_index(self._index, path)

    @classmethod
    def read(cls, content: npt.NDArray[np.uint8]) -> HNSWStructure:
        return cls(read_index(content, faiss.IndexHNSWSQ))

    def differing(self, start: int, prefixes: FloatArray) -> bool:
        held = self._index.reconstruct_n(start + self._dropped, len(prefixes))
        storage = faiss.downcast_index(self._index.storage)
        return not np.array_equal(held, storage.sa_decode(storage.sa_encode(prefixes)))

    def details(self) -> Mapping[str, Any]:
        return {"index": "hnsw, 8 bits", "neighbours": _NEIGHBOURS}
