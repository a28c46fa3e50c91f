"""Prefixes as 4-bit codes in lists: what a coarse search scans, in whole or the lists nearest to the query.

Documents have places, consecutive numbers from 0. Each is in one list: that of its nearest centroid, or the only one
there is. A list is a chain of blocks of 16 documents, laid out so that one byte product of the processor serves all
16: byte ``4 * lane + i`` of group ``g`` has components ``8 g + i`` (low half) and ``8 g + 4 + i`` (high half) of the
document in that lane. Documents are added at the end of chains; a deleted one stays, and is left out by the mask that
each search is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mrl_retrieval.matryoshka import FloatArray

from .clusters import k_means
from .codes import ByteCentroids, Codes, byte_centroids, loops, padded, random_rotation

__all__ = ["ALL", "CodeLists", "Parts"]

Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]
Found = tuple[FloatArray, Places]

ALL: Mask = np.empty(0, np.bool_)
"""The mask that leaves nothing out."""

_LANES = 16
_BLOCK = 16384
_NAMES = frozenset(
    {"rotation", "centroid_codes", "centroid_scales", "first", "last", "fill"}
    | {"slots", "codes", "scales", "places", "following", "owner"}
)
# Fewer allowed documents than one in so many are looked up one by one.
_FEW = 32


class Parts(NamedTuple):
    """What a search reads; it says nothing about how much of it is in use."""

    rotation: FloatArray
    centroid_codes: Codes
    centroid_scales: FloatArray
    first: npt.NDArray[np.int32]
    following: npt.NDArray[np.int32]
    codes: Codes
    scales: npt.NDArray[np.uint16]
    places: npt.NDArray[np.int32]


class CodeLists:
    """Codes of prefixes with ``dims`` components, in lists around ``centroids``.

    Args:
        dims: of the prefixes.
        centroids: (n, dims), in the space of the prefixes; None: one list, without a centroid.
        compiled: whether to use compiled loops; None: where numba is installed.
    """

    def __init__(self, dims: int, centroids: FloatArray | None = None, *, compiled: bool | None = None) -> None:
        self.dims = dims
        self.rotation = random_rotation(dims)
        self._loops = loops(compiled)
        rotated = np.empty((0, padded(dims)), np.float32) if centroids is None else centroids @ self.rotation
        self._centroids = byte_centroids(rotated)
        self._start(1 if centroids is None else len(centroids))

    @classmethod
    def trained(
        cls,
        sample: FloatArray,
        lists: int,
        *,
        threads: int = 1,
        stop: Callable[[], bool] = lambda: False,
        compiled: bool | None = None,
    ) -> CodeLists:
        """Empty lists around the centroids of a sample of prefixes (n, dims), at least as many as ``lists``."""
        made = cls(sample.shape[1], compiled=compiled)
        rotated = np.empty((len(sample), made.rotation.shape[1]), np.float32)
        made._loops.rotate(sample, made.rotation, rotated)
        made._centroids = k_means(rotated, lists, loops=made._loops, threads=threads, stop=stop)
        made._start(lists)
        return made

    def _start(self, lists: int) -> None:
        self.count = 0
        self._blocks = 0
        self._first = np.full(lists, -1, np.int32)
        self._last = np.full(lists, -1, np.int32)
        self._fill = np.full(lists, _LANES, np.int64)
        self._slots = np.empty(0, np.int32)
        self._resize(0)

    def _resize(self, blocks: int) -> None:
        """Make room for so many blocks."""
        old = self._blocks
        groups = padded(self.dims) // 8

        def grown(name: str, shape: tuple[int, ...], dtype: Any, fill: int) -> npt.NDArray[Any]:
            array = np.empty((blocks, *shape), dtype)
            if old:
                array[:old] = getattr(self, name)[:old]
            array[old:] = fill
            return array

        self._codes = grown("_codes", (groups, 64), np.uint8, 0)
        self._scales = grown("_scales", (_LANES,), np.uint16, 0)
        self._places = grown("_places", (_LANES,), np.int32, -1)
        self._following = grown("_following", (), np.int32, -1)
        self._owner = grown("_owner", (), np.int32, 0)

    @property
    def lists(self) -> int:
        """How many lists there are."""
        return len(self._first)

    @property
    def parts(self) -> Parts:
        """What a search reads, until something is added."""
        held = self._centroids
        return Parts(
            self.rotation,
            held.codes,
            held.scales,
            self._first,
            self._following,
            self._codes,
            self._scales,
            self._places,
        )

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        held = (self._codes, self._scales, self._places, self._following, self._owner, self._slots)
        return sum(array.nbytes for array in held) + self._centroids.codes.nbytes + self._centroids.values.nbytes

    @staticmethod
    def bytes_for(rows: int, dims: int, lists: int) -> int:
        """About how many bytes so many documents in so many lists take."""
        width = padded(dims)
        per_block = _LANES * (width // 2 + 2 + 4) + 8
        return (rows // _LANES + lists) * per_block + 4 * rows + lists * (5 * width + 20)

    # -- writing -------------------------------------------------------------------------------------------

    def add(self, prefixes: FloatArray, threads: int = 1) -> None:
        """Give prefixes (n, dims) the next places."""
        starts = range(0, len(prefixes), _BLOCK)
        if threads > 1 and len(starts) > 1:
            with ThreadPoolExecutor(threads) as pool:
                encoded = list(pool.map(lambda start: self._encoded(prefixes[start : start + _BLOCK]), starts))
        else:
            encoded = [self._encoded(prefixes[start : start + _BLOCK]) for start in starts]
        if not encoded:
            return
        owners, codes, scales = (np.concatenate(parts) for parts in zip(*encoded, strict=True))
        self._put(owners, codes, scales)

    def _encoded(self, prefixes: FloatArray) -> tuple[Places, npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
        rotated = np.empty((len(prefixes), self.rotation.shape[1]), np.float32)
        self._loops.rotate(prefixes, self.rotation, rotated)
        owners = np.zeros(len(rotated), np.int64)
        if self.lists > 1:
            held = self._centroids
            half_squares = held.half_squares[: self.lists]
            self._loops.assign(rotated, held.codes, held.scales, half_squares, owners)
            rotated -= held.values[owners]
        codes, scales = np.empty(rotated.shape, np.uint8), np.empty(len(rotated), np.float32)
        self._loops.encode(rotated, codes, scales)
        return owners, codes, scales.astype(np.float16).view(np.uint16)

    def _put(self, owners: Places, codes: npt.NDArray[np.uint8], scales: npt.NDArray[np.uint16]) -> None:
        # In the order of their lists, so that a list's new documents share blocks that follow each other.
        order = np.argsort(owners, kind="stable")
        sorted_owners = owners[order]
        held, begins, counts = np.unique(sorted_owners, return_index=True, return_counts=True)
        room = np.minimum(_LANES - self._fill[held], counts)
        new_blocks = -(-(counts - room) // _LANES)
        if (needed := self._blocks + int(new_blocks.sum())) > len(self._codes):
            self._resize(needed if not self._blocks else max(needed, self._blocks + self._blocks // 4))
        rank = np.arange(len(order)) - np.repeat(begins, counts)
        starts = self._blocks + np.cumsum(new_blocks) - new_blocks
        in_old = rank < np.repeat(room, counts)
        old = np.repeat(self._last[held].astype(np.int64) * _LANES + self._fill[held], counts) + rank
        new = np.repeat(starts * _LANES - room, counts) + rank
        slots = np.where(in_old, old, new)
        self._chain(held, starts, new_blocks)
        last_rank = counts - 1
        last_slots = slots[begins + last_rank]
        self._fill[held] = last_slots % _LANES + 1
        self._loops.put(codes[order], slots, self._codes)
        self._scales.reshape(-1)[slots] = scales[order]
        self._places.reshape(-1)[slots] = self.count + order
        self._grow_slots(self.count + len(order))
        self._slots[self.count + order] = slots
        self.count += len(order)

    def _grow_slots(self, count: int) -> None:
        if count > len(self._slots):
            slots = np.empty(max(count, len(self._slots) * 5 // 4), np.int32)
            slots[: self.count] = self._slots[: self.count]
            self._slots = slots

    def _chain(self, held: Places, starts: Places, new_blocks: Places) -> None:
        """Hang new blocks onto lists."""
        grows = new_blocks > 0
        held, starts, new_blocks = held[grows], starts[grows], new_blocks[grows]
        total = int(new_blocks.sum())
        numbers = np.arange(self._blocks, self._blocks + total)
        self._following[numbers] = numbers + 1
        ends = starts + new_blocks - 1
        self._following[ends] = -1
        self._owner[numbers] = np.repeat(held, new_blocks)
        begun = self._last[held] < 0
        self._first[held[begun]] = starts[begun]
        self._following[self._last[held[~begun]]] = starts[~begun]
        self._last[held] = ends
        self._blocks += total

    def drop_front(self, n: int) -> None:
        """Forget the documents in the first ``n`` places; the others move up. Their room is not given back."""
        places = self._places[: self._blocks]
        np.subtract(places, n, out=places, where=places >= 0)
        places[places < 0] = -1
        self._slots = self._slots[n : self.count].copy()
        self.count -= n

    def settle(self) -> None:
        """Lay the blocks of each list side by side, and give back room that is kept for growth: searches are faster
        then. To be called once much was added."""
        order = np.empty(self._blocks, np.int64)
        at = 0
        for block in self._first.tolist():
            while block >= 0:
                order[at] = block
                at += 1
                block = int(self._following[block])
        moved = np.empty(len(order), np.int64)
        moved[order] = np.arange(len(order))
        for name in ("_codes", "_scales", "_places", "_owner"):
            setattr(self, name, getattr(self, name)[order])
        following = self._following[order]
        self._following = np.where(following < 0, -1, moved[following]).astype(np.int32)
        there = self._first >= 0
        self._first[there] = moved[self._first[there]]
        self._last[there] = moved[self._last[there]]
        slots = self._slots[: self.count]
        self._slots = (moved[slots >> 4] * _LANES + (slots & (_LANES - 1))).astype(np.int32)

    def differing(self, start: int, prefixes: FloatArray) -> bool:
        """Whether the places from ``start`` on hold other codes than :meth:`add` makes of these prefixes (n, dims)."""
        owners, codes, scales = self._encoded(prefixes)
        slots = self._slots[start : start + len(prefixes)]
        blocks, lanes = slots >> 4, slots & (_LANES - 1)
        bytes_ = self._codes.reshape(len(self._codes), -1, _LANES, 4)[blocks, :, lanes]
        held = np.stack([bytes_ & 15, bytes_ >> 4], axis=2).reshape(codes.shape)
        return not (
            np.array_equal(held, codes)
            and np.array_equal(self._scales[blocks, lanes], scales)
            and np.array_equal(self._owner[blocks], owners)
            and np.array_equal(self._places[blocks, lanes], np.arange(start, start + len(prefixes)))
        )

    # -- searching -----------------------------------------------------------------------------------------

    def search(self, queries: FloatArray, limit: int, probes: int, allowed: Mask, alive: int) -> Found:
        """Scores and places of the best ``limit`` documents of the ``probes`` lists nearest to each query, in no order.

        Args:
            queries: (Q, dims) unit rows, or zero rows.
            limit: at least 1. Where that many are allowed, that many come back: more lists are searched if need be.
            probes: lists to search, at least 1.
            allowed: (count,) which documents take part.
            alive: how many these are.

        Returns:
            (Q, min(limit, alive)) scores, which estimate the cosines, and places.
        """
        limit = min(limit, alive)
        scores = np.empty((len(queries), limit), np.float32)
        places = np.empty((len(queries), limit), np.int64)
        if not limit or not len(queries):
            return scores, places
        counts = np.zeros(len(queries), np.int64)
        held = self._centroids
        if alive * _FEW <= self.count and self.lists > 1:
            slots = np.sort(self._slots[: self.count][allowed])
            self._loops.search_slots(
                queries,
                self.rotation,
                held.codes,
                held.scales,
                self._owner,
                self._codes,
                self._scales,
                self._places,
                slots,
                limit,
                scores,
                places,
                counts,
            )
            return scores, places
        if alive == self.count:
            allowed = ALL
        # Of a part of the documents, as many are to be met as of all.
        probes = min(self.lists, -(-probes * self.count // alive))
        self._search(queries, allowed, probes, limit, scores, places, counts)
        while probes < self.lists and (short := np.flatnonzero(counts < limit)).size:
            probes = min(self.lists, 4 * probes)
            again_scores, again_places = scores[short], places[short]
            again_counts = counts[short]
            self._search(queries[short], allowed, probes, limit, again_scores, again_places, again_counts)
            scores[short], places[short], counts[short] = again_scores, again_places, again_counts
        return scores, places

    def _search(self, queries: FloatArray, allowed: Mask, probes: int, limit: int, *out: npt.NDArray[Any]) -> None:
        self._loops.search(queries, *self.parts, allowed, probes, limit, *out)

    # -- keeping -------------------------------------------------------------------------------------------

    def arrays(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """All that has to be kept, by name; :meth:`of_arrays` makes the same of it."""
        n = self._blocks
        yield "rotation", self.rotation
        yield "centroid_codes", self._centroids.codes
        yield "centroid_scales", self._centroids.scales
        yield "first", self._first
        yield "last", self._last
        yield "fill", self._fill
        yield "slots", self._slots[: self.count]
        yield "codes", self._codes[:n]
        yield "scales", self._scales[:n]
        yield "places", self._places[:n]
        yield "following", self._following[:n]
        yield "owner", self._owner[:n]

    @classmethod
    def of_arrays(cls, arrays: dict[str, npt.NDArray[Any]], *, compiled: bool | None = None) -> CodeLists:
        """The lists that :meth:`arrays` was called on.

        Raises:
            ValueError: they do not fit each other. Compiled loops would read beyond them.
        """
        if missing := sorted(_NAMES - arrays.keys()):
            raise ValueError(f"it lacks the arrays {missing}")
        made = cls.__new__(cls)
        made.rotation = arrays["rotation"]
        made.dims = len(made.rotation)
        made._loops = loops(compiled)
        made._centroids = ByteCentroids(arrays["centroid_codes"], arrays["centroid_scales"])
        made.count = len(arrays["slots"])
        made._blocks = len(arrays["codes"])
        for name in _NAMES - {"rotation", "centroid_codes", "centroid_scales"}:
            setattr(made, f"_{name}", arrays[name])
        made._check()
        return made

    def _check(self) -> None:
        blocks, lists, groups = self._blocks, self.lists, padded(self.dims) // 8
        shapes = {
            "rotation": (self.rotation.shape, (self.dims, 8 * groups)),
            "centroids": (self._centroids.codes.shape[1:], (2 * groups, 64)),
            "codes": (self._codes.shape, (blocks, groups, 64)),
            "scales": (self._scales.shape, (blocks, _LANES)),
            "places": (self._places.shape, (blocks, _LANES)),
            "following": (self._following.shape, (blocks,)),
            "owner": (self._owner.shape, (blocks,)),
            "last": (self._last.shape, (lists,)),
            "fill": (self._fill.shape, (lists,)),
        }
        for name, (found, expected) in shapes.items():
            if found != expected:
                raise ValueError(f"its array {name!r} has shape {found}, expected {expected}")
        numbers = np.arange(blocks)
        held = len(self._centroids.scales)
        sound = (
            (self._following == -1) | ((self._following > numbers) & (self._following < blocks)),
            (self._first >= -1) & (self._first < blocks) & (self._last >= -1) & (self._last < blocks),
            (self._owner >= 0) & (self._owner < lists),
            (self._places >= -1) & (self._places < self.count),
            (self._slots >= 0) & (self._slots < blocks * _LANES),
            (self._fill >= 0) & (self._fill <= _LANES),
            np.array([lists <= max(held, 1)]),
        )
        if not all(each.all() for each in sound):
            raise ValueError("its lists point beyond its blocks")
