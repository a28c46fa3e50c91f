"""FAISS used plainly: an index over the full vectors in memory, written to one file.

FAISS stores nothing but vectors, so the metadata that are filtered by are NumPy arrays beside it, and no documents
are kept: the least that a program around it could do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import faiss as _faiss
import numpy as np
import numpy.typing as npt

from benchmarks.comparison.side import Batch, Equal, Setting, Side
from mrl_retrieval.matryoshka import FloatArray

faiss: Any = _faiss  # its stubs do not know half of its classes

_KEYS = ("tenth", "mille")


class Flat(Side):
    note = "IndexFlatIP; vectors and filter columns only"

    def create(self) -> None:
        self._index = self._new()
        self._columns: dict[str, list[npt.NDArray[np.int64]]] = {key: [] for key in _KEYS}

    def _new(self) -> Any:
        return faiss.IndexFlatIP(self.dims)

    def upsert(self, batch: Batch) -> None:
        self._index.add(batch.vectors)
        for key, parts in self._columns.items():
            parts.append(np.array([metadata[key] for metadata in batch.metadatas]))

    def finish(self) -> None:
        faiss.write_index(self._index, str(self.place.folder / "vectors.faiss"))
        np.save(self.place.folder / "columns.npy", [np.concatenate(self._columns[key]) for key in _KEYS])

    def open(self) -> None:
        self._index = faiss.read_index(str(self.place.folder / "vectors.faiss"))
        self._filters = dict(zip(_KEYS, np.load(self.place.folder / "columns.npy"), strict=True))

    def settings(self, k: int) -> Sequence[Setting]:
        return [{}]

    def search(self, query: FloatArray, k: int, only: Equal | None, setting: Setting) -> list[int]:
        parameters = self._parameters(setting)
        if only is not None:
            bits = np.packbits(self._filters[only.key] == only.value, bitorder="little")
            parameters.sel = selector = faiss.IDSelectorBitmap(bits)
            parameters.referenced_objects = [selector, bits]  # FAISS holds only pointers to them
        found = self._index.search(query[None], k, params=parameters)[1][0]
        return [int(i) for i in found if i >= 0]

    def _parameters(self, setting: Setting) -> Any:
        return faiss.SearchParameters()

    def close(self) -> None:
        del self._index


class Hnsw(Flat):
    note = "IndexHNSWFlat, M=32; vectors and filter columns only"

    def _new(self) -> Any:
        return faiss.IndexHNSWFlat(self.dims, 32, faiss.METRIC_INNER_PRODUCT)

    def settings(self, k: int) -> Sequence[Setting]:
        return [{"efSearch": n} for n in (16, 32, 64, 128, 256, 512, 1024, 4096) if n >= k]

    def _parameters(self, setting: Setting) -> Any:
        return faiss.SearchParametersHNSW(efSearch=setting["efSearch"])
