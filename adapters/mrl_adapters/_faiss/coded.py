"""4-bit codes of prefixes, scanned whole (``flat``) or in the lists nearest to the query (``ivf``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mrl_retrieval.coarse import CodeLists
from mrl_retrieval.coarse.container import read_arrays, write_arrays
from mrl_retrieval.coarse.depth import depth_for
from mrl_retrieval.coarse.within import Reach, WithinMargin
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.parallel import THREADS, spread
from mrl_retrieval.storage import Near

from .lessons import Lesson
from .structure import Allowed, Found, Structure

__all__ = ["CodedStructure"]

_WORTH_A_THREAD = 16


class CodedStructure(Structure):
    """Over :class:`~mrl_retrieval.coarse.CodeLists`. The lists within ``margin`` are searched (see
    ``mrl_retrieval/coarse/depth.py``) or, without one, or where a filter leaves less than half, the nearest ``probes``,
    the more the less is left."""

    kind: ClassVar[str] = "coded"

    def __init__(
        self, lists: CodeLists, probes: int = 1, lesson: Lesson | None = None, margin: float | None = None
    ) -> None:
        self.codes = lists
        self.probes = probes
        self.margin = margin
        self.lesson = lesson
        self.within = WithinMargin(lists)

    @classmethod
    def empty(cls, dims: int, centroids: FloatArray | None = None, probes: int = 1) -> CodedStructure:
        """Without any prefix, around centroids (n, dims) or, without them, in one list."""
        return cls(CodeLists(dims, centroids), probes)

    @property
    def dims(self) -> int:
        return self.codes.dims

    @property
    def count(self) -> int:
        return self.codes.count

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes

    def add(self, prefixes: FloatArray) -> None:
        self.codes.add(prefixes, threads=THREADS)

    def drop_front(self, n: int) -> None:
        self.codes.drop_front(n)

    def search(self, queries: FloatArray, limit: int, allowed: Allowed, probes: int | None = None) -> Found:
        if len(queries) < 2 * _WORTH_A_THREAD:
            return self._search(queries, limit, allowed, probes)
        scores = np.empty((len(queries), limit), dtype=np.float32)
        places = np.empty((len(queries), limit), dtype=np.int64)

        def search(start: int, stop: int) -> None:
            scores[start:stop], places[start:stop] = self._search(queries[start:stop], limit, allowed, probes)

        spread(len(queries), search, least=_WORTH_A_THREAD)
        return scores, places

    def _search(self, queries: FloatArray, limit: int, allowed: Allowed, probes: int | None) -> Found:
        if probes is None and self.margin is not None and 2 * allowed.count >= self.count:
            reach = Reach(limit, self.margin)
            return self.within.found(queries, reach, allowed.mask, allowed.count, limit)[:2]
        return self.codes.search(queries, limit, probes or self.probes, allowed.mask, allowed.count)

    def candidates(self, queries: FloatArray, recall: float, k: int, allowed: Allowed) -> Near:
        if not allowed.count:
            return Near.full(np.empty((len(queries), 0), np.int64))
        depth = None if self.lesson is None else self.lesson.depth
        reach = depth_for(depth, recall, k, allowed.count / self.count)
        if len(queries) < 2 * _WORTH_A_THREAD:
            return Near(*self.within.candidates(queries, reach, allowed.mask, allowed.count, k))
        found: dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = {}

        def search(start: int, stop: int) -> None:
            found[start] = self.within.candidates(queries[start:stop], reach, allowed.mask, allowed.count, k)

        spread(len(queries), search, least=_WORTH_A_THREAD)
        return Near.stacked([part for _, part in sorted(found.items())])

    def write(self, path: Path) -> None:
        probes = np.array([self.probes], np.int64)
        lesson = {} if self.lesson is None else self.lesson.arrays()
        margin = {} if self.margin is None else {"margin": np.array([self.margin], np.float64)}
        write_arrays(path, {"probes": probes, **margin, **dict(self.codes.arrays()), **lesson})

    @classmethod
    def read(cls, content: npt.NDArray[np.uint8]) -> CodedStructure:
        arrays = read_arrays(content)
        if not {"probes", "rotation", "codes", "slots"} <= arrays.keys():
            raise ValueError(f"it holds {sorted(arrays)}")
        probes = int(arrays.pop("probes")[0])
        margin = float(arrays.pop("margin")[0]) if "margin" in arrays else None
        if margin is not None and not margin > 0:
            raise ValueError(f"its margin is {margin}")
        return cls(CodeLists.of_arrays(arrays), probes, Lesson.of_arrays(arrays), margin)

    def differing(self, start: int, prefixes: FloatArray) -> bool:
        return self.codes.differing(start, prefixes)

    def details(self) -> Mapping[str, Any]:
        lesson = {} if self.lesson is None else self.lesson.details()
        if self.codes.lists == 1:
            return {"index": "flat, 4-bit codes", **lesson}
        margin = {} if self.margin is None else {"margin": round(self.margin, 4)}
        return {"index": "ivf, 4-bit codes", "lists": self.codes.lists, **margin, "probes": self.probes, **lesson}
