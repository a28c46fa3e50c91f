"""Which structure the coarse index gets: by what was asked for, by size, by a memory budget, and by measuring."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mrl_retrieval.coarse import CodeLists
from mrl_retrieval.errors import InvalidInput, MemoryBudgetError
from mrl_retrieval.kernels import available
from mrl_retrieval.matryoshka import FloatArray, prefix
from mrl_retrieval.parallel import THREADS
from mrl_retrieval.storage import Snapshot

from . import devices, symphony
from .background import Stopped
from .coded import CodedStructure
from .flat import FlatStructure
from .gpu import GPUStructure
from .graph import GraphStructure
from .hnsw import HNSWStructure
from .lessons import Sample, learned
from .measuring import Measured, measure, sampled
from .structure import Allowed, Structure

__all__ = ["INDEXES", "Choice", "Wish", "can_learn", "is_due", "is_usable", "make", "started"]

INDEXES = ("auto", "flat", "ivf", "hnsw", "graph", "gpu")

_EXACT_ROWS = 10_000
"""Up to so many prefixes are compared in single precision: it costs less than one tenth of a millisecond at 64 dims."""
_IVF_ROWS = 40_000
"""From so many on ``auto`` tries lists: below, all codes are scanned in the time that the rest of a search takes."""
_GPU_ROWS = 10_000
"""From so many on ``auto`` takes a GPU, where there is one."""
_BYTES = {"hnsw": HNSWStructure.bytes_for, "graph": GraphStructure.bytes_for, "gpu": GPUStructure.bytes_for}
_LEAST_PER_LIST = 39
_SAMPLE_PER_LIST = 40
_GROWTH = 4
_BLOCK = 32768

_WORTH = 0.8
"""Lists are taken if they take no more than this part of the time of a scan."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the options ask for."""

    index: str | None = None
    """One of :data:`INDEXES`; None: what was asked for when the structure in use was chosen, at first ``"auto"``."""
    memory_budget: int | None = None
    """Bytes that the structure may take; None: likewise, at first any number."""
    probes: int | None = None
    """How many lists a search looks into; None: as many as was measured to be enough."""

    @classmethod
    def checked(cls, index: Any, memory_budget: Any, probes: Any = None) -> Wish:
        """A wish from what a caller passed.

        Raises:
            InvalidInput: there is no such index, or one of the numbers is none from 1 up.
            BackendError, MissingExtra: there is no such index on this machine, or without a package.
        """
        if index is not None and not (isinstance(index, str) and index in INDEXES):
            raise InvalidInput(f"index={index!r}; expected one of {', '.join(map(repr, INDEXES))}")
        if index == "gpu":
            devices.required()
        if index == "graph":
            symphony.required()
        for name, value in (("memory_budget", memory_budget), ("probes", probes)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InvalidInput(f"{name}={value!r}; expected a whole number from 1 up, or None")
        return cls(index, memory_budget, probes)

    def after(self, chosen: dict[str, Any]) -> Wish:
        """The same, with what is not given taken from an earlier choice."""
        index, budget = self.index or chosen.get("asked", "auto"), self.memory_budget or chosen.get("memory_budget")
        return Wish(index, budget, self.probes)


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen; kept beside the cache file."""

    index: str
    """``"flat"``, ``"ivf"``, ``"hnsw"``, ``"graph"`` or ``"gpu"``."""
    asked: str
    """The wish: ``"auto"`` or one of these."""
    memory_budget: int | None
    """The bytes that it was allowed to take."""
    rows: int
    """How many vectors there were."""
    why: str

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def started(dims: int, rows: int) -> Structure:
    """A structure that needs no training, to begin with."""
    return FlatStructure.empty(dims) if rows <= _EXACT_ROWS or not available() else CodedStructure.empty(dims)


def is_usable(structure: Structure, chosen: dict[str, Any], wish: Wish) -> bool:
    """Whether what a cache file holds is worth using here: what is for a GPU is not, where it has no room on one, and
    codes are not, where nothing can read them fast, unless they were asked for, or have learned something."""
    if isinstance(structure, GPUStructure):
        return structure.device is not None
    if available() or not isinstance(structure, CodedStructure):
        return True
    return wish.after(chosen).index != "auto" or structure.lesson is not None


def is_due(chosen: dict[str, Any], structure: Structure, alive: int, wish: Wish) -> bool:
    """Whether it is time to choose (again): the collection has grown fourfold since it was done, the structure has
    changed too much, or something else is asked for."""
    index = wish.index or chosen.get("asked", "auto")
    if index == "auto" and not (available() or _has_gpu_for(alive)):
        return False
    if chosen.get("asked", "auto") != index:
        return _possible(index, alive)
    if chosen:
        grown = alive > _EXACT_ROWS and alive >= _GROWTH * int(chosen.get("rows", 0))
        return grown or structure.wants_renewal
    if index == "auto":
        if _has_gpu_for(alive):
            return not isinstance(structure, GPUStructure)
        return alive >= (_EXACT_ROWS + 1 if isinstance(structure, FlatStructure) else _IVF_ROWS)
    return _possible(index, alive)


def _has_gpu_for(rows: int) -> bool:
    return rows >= _GPU_ROWS and devices.find() is not None


def can_learn(index: str | None) -> bool:
    """Whether an index of that name learns how deep to search."""
    return index in (None, "auto", "flat", "ivf")


def _possible(index: str, rows: int) -> bool:
    return rows >= {"ivf": 16 * _LEAST_PER_LIST, "hnsw": 1, "graph": 1}.get(index, 0)


def make(
    snapshot: Snapshot, wish: Wish, stop: Callable[[], bool] = lambda: False, sample: Sample | None = None
) -> tuple[Structure, Choice]:
    """The structure that a collection should have now, with all its prefixes, from ``snapshot.state.first`` on.

    Args:
        snapshot: of the collection.
        wish: with an index; see :meth:`Wish.after`.
        stop: asked from time to time whether to give up.
        sample: to learn from how deep to search; the structure is one that can learn then.

    Raises:
        InvalidInput: an index was asked for that needs more vectors than there are, or cannot learn; the sample is too
            small.
        MemoryBudgetError: nothing that was asked for fits the budget, or the GPU.
        BackendError: there is no GPU, and one was asked for; a graph cannot be built.
        Stopped: ``stop`` said so.
    """
    maker = _Maker(snapshot, wish, stop, sample)
    if wish.index not in (None, "auto"):
        return maker.one(wish.index, f"index={wish.index!r} was asked for")
    if sample is None and _has_gpu_for(maker.rows) and maker.fits_gpu():
        return maker.one("gpu", "a GPU compares all of them at once")
    if maker.rows < _IVF_ROWS or not available():
        why = "too few vectors for lists to pay" if available() else "without numba (extra fast) nothing else is faster"
        return maker.one("flat", f"{why} ({maker.rows})")
    return maker.measured()


class _Maker:
    """Makes structures for one snapshot."""

    def __init__(self, snapshot: Snapshot, wish: Wish, stop: Callable[[], bool], sample: Sample | None) -> None:
        self._snapshot = snapshot
        self._sample_queries = sample
        self._wish = wish
        self._stop = stop
        state = snapshot.state
        self._first, self._end, self._dims = state.first, state.vectors, state.coarse_dims
        self._live = snapshot.vector_mask(None)
        self.rows = int(np.count_nonzero(self._live))

    def one(self, index: str, why: str) -> tuple[Structure, Choice]:
        """The structure of that name."""
        self._check_budget(index)
        if self._sample_queries is not None and index not in ("flat", "ivf"):
            raise InvalidInput(
                f"an index of kind {index!r} does not learn how deep to search; use index='auto', 'flat' or 'ivf'"
            )
        structure = self._empty(index)
        self._fill(structure)
        if isinstance(structure, CodedStructure) and structure.codes.lists > 1:
            measured = self._measure(structure)
            why = f"{why}; about {measured.lists} lists a search keep {measured.kept:.3f} of what a scan finds"
        self._learn(structure)
        return structure, self._choice(index, why)

    def measured(self) -> tuple[Structure, Choice]:
        """Lists, if on the data itself they are faster than a scan of all codes and keep the neighbours."""
        if not self._fits("ivf"):
            return self.one("flat", "lists do not fit the memory budget")
        structure = self._empty("ivf")
        assert isinstance(structure, CodedStructure)
        self._fill(structure)
        measured = self._measure(structure)
        why = (
            f"about {measured.lists} of {structure.codes.lists} lists find on {sampled()} of its vectors "
            f"{measured.kept:.3f} of what a scan finds, in {measured.share_of_time:.2f} of its time"
        )
        if measured.share_of_time > _WORTH:
            return self.one("flat", why)
        self._learn(structure)
        return structure, self._choice("ivf", why)

    def _measure(self, structure: CodedStructure) -> Measured:
        everyone = Allowed(np.ones(structure.count, dtype=np.bool_) if self.rows == structure.count else self._live)
        positions = self._positions(sampled(), seed=2)
        return measure(structure, self._snapshot, everyone, positions, self._check_stop)

    def _learn(self, structure: Structure) -> None:
        if self._sample_queries is not None and isinstance(structure, CodedStructure):
            structure.lesson = learned(structure.codes, self._snapshot, self._live, self._sample_queries)

    def _choice(self, index: str, why: str) -> Choice:
        return Choice(index, self._wish.index or "auto", self._wish.memory_budget, self.rows, why)

    # -- memory --------------------------------------------------------------------------------------------

    def _check_budget(self, index: str) -> None:
        if not self._fits(index):
            need, budget = self._bytes(index), self._wish.memory_budget
            raise MemoryBudgetError(
                f"an index of kind {index!r} over {self.rows} vectors of {self._dims} dims takes about {need} bytes, "
                f"memory_budget is {budget}: raise it, or use fewer coarse_dims"
            )

    def fits_gpu(self) -> bool:
        """Whether the budget, and what is free on the GPU, suffice for an index there."""
        device, rows = devices.find(), self._end - self._first
        return self._fits("gpu") and device is not None and GPUStructure.fits(rows, self._dims, device)

    def _fits(self, index: str) -> bool:
        return self._wish.memory_budget is None or self._bytes(index) <= self._wish.memory_budget

    def _bytes(self, index: str) -> int:
        """About how many bytes a structure takes, deleted vectors included."""
        rows, dims = self._end - self._first, self._dims
        if index in _BYTES:
            return _BYTES[index](rows, dims)
        if index == "flat" and (rows <= _EXACT_ROWS or not available()):
            return rows * dims * 4
        lists = self._lists() if index == "ivf" else 0
        return CodeLists.bytes_for(rows, dims, lists)

    # -- making --------------------------------------------------------------------------------------------

    def _empty(self, index: str) -> Structure:
        if index == "flat":
            codes = self._sample_queries is not None
            return CodedStructure.empty(self._dims) if codes else started(self._dims, self.rows)
        if index == "hnsw":
            return HNSWStructure.empty(self._sample(min(self.rows, 100_000)))
        if index == "graph":
            return GraphStructure.of_blocks(self._prefixes(self._first), self._end - self._first, self._dims)
        if index == "gpu":
            return GPUStructure.empty(self._dims, devices.required(), capacity=self._end - self._first)
        least = 16 * _LEAST_PER_LIST
        if self.rows < least:
            raise InvalidInput(
                f"index='ivf' needs at least {least} vectors to make its lists, the collection has {self.rows}; use "
                "index='auto' or 'flat'"
            )
        lists = self._lists()
        sample = self._sample(_SAMPLE_PER_LIST * lists)
        self._check_stop()
        made = CodeLists.trained(sample, lists, threads=THREADS, stop=self._stop)
        return CodedStructure(made)

    def _lists(self) -> int:
        wanted = 1 << round(math.log2(4 * math.sqrt(max(self.rows, 1))))
        return max(1, min(wanted, self.rows // _LEAST_PER_LIST))

    def _sample(self, n: int) -> FloatArray:
        """Prefixes of at most ``n`` vectors, drawn with a fixed seed, in the order in which they are stored."""
        return prefix(self._drawn(n, seed=1), self._dims)

    def _drawn(self, n: int, seed: int) -> FloatArray:
        return self._snapshot.fine.gather(self._positions(n, seed))

    def _positions(self, n: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        places = np.flatnonzero(self._live)
        if n < len(places):
            places = np.sort(np.random.default_rng(seed).choice(places, n, replace=False))
        return places + self._first

    def _fill(self, structure: Structure) -> None:
        for block in self._prefixes(self._first + structure.count):
            structure.add(block)
        if isinstance(structure, CodedStructure):
            structure.codes.settle()

    def _prefixes(self, first: int) -> Iterator[FloatArray]:
        for start in range(first, self._end, _BLOCK):
            self._check_stop()
            vectors = self._snapshot.fine.read(start, min(start + _BLOCK, self._end))
            yield prefix(vectors, self._dims)
        self._check_stop()

    def _check_stop(self) -> None:
        if self._stop():
            raise Stopped
