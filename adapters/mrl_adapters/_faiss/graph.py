"""A graph that never changes, and codes beside it (``graph``): the fastest at high recall, at the most memory.

SymphonyQG can neither add nor remove. So the first places, the body, are in its graph, and what is added later is in
the head, as 4-bit codes that every search scans. Of the body there are codes too: they serve the searches for which the
graph is no use, because few of its places are allowed, or many candidates are wanted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mrl_retrieval.coarse import CodeLists
from mrl_retrieval.coarse.container import read_arrays, write_arrays
from mrl_retrieval.kernels import available
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.parallel import THREADS, spread
from mrl_retrieval.storage.files import temporary

from . import symphony
from .structure import Allowed, Found, Mask, Structure
from .symphony import SymphonyGraph

__all__ = ["GraphStructure"]

_EF = 64
"""Candidates that a search of the graph keeps at least; of each that is asked for, so many:"""
_KEPT = 1.5
_KEPT_OF_FEW = 2.0  # of those asked for, where fewer than half are allowed: no far one may fill a place that was left
_WORTH_A_THREAD = 16
_BLOCK = 32768
# A search of the graph that keeps more than one of so many places takes longer than a scan of all their codes.
_WIDEST = 300
# Where not all are allowed, the graph is asked for as many as will do nearly always; then for so many times that.
_DEVIATIONS = 3
_GROWTH = 4
# The graph is due to be made again when what it lacks, and what is dropped, is so much, and this share of it.
_HEAD = 10_000
_HEAD_SHARE = 4


class GraphStructure(Structure):
    """Over :class:`~.symphony.SymphonyGraph` and two :class:`~mrl_retrieval.coarse.CodeLists` of one list each.

    Scores of the body are cosines where the graph found them, and estimates otherwise; those of the head are estimates.
    """

    kind: ClassVar[str] = "graph"

    def __init__(self, graph: SymphonyGraph | None, body: CodeLists, head: CodeLists, dropped: int = 0) -> None:
        self._graph = graph
        self._body = body
        self._head = head
        self._dropped = dropped
        """How many of the graph's vectors are before the first place."""

    @classmethod
    def of(cls, prefixes: FloatArray) -> GraphStructure:
        """With unit prefixes (n, dims); of very few no graph is made. It takes long, and cannot be stopped.

        Raises:
            MissingExtra: the library is not installed.
            BackendError: the graph cannot be built.
        """
        n, dims = prefixes.shape
        body, head = CodeLists(dims), CodeLists(dims)
        if n < symphony.LEAST_POINTS:
            head.add(prefixes)
            return cls(None, body, head)
        for start in range(0, n, _BLOCK):
            body.add(prefixes[start : start + _BLOCK], threads=THREADS)
        body.settle()
        return cls(SymphonyGraph.of(prefixes), body, head)

    @classmethod
    def of_blocks(cls, blocks: Iterable[FloatArray], count: int, dims: int) -> GraphStructure:
        """The same of ``count`` prefixes that come in blocks. All are in memory at once, in single precision."""
        prefixes = np.empty((count, dims), dtype=np.float32)
        at = 0
        for block in blocks:
            prefixes[at : at + len(block)] = block
            at += len(block)
        return cls.of(prefixes)

    @property
    def dims(self) -> int:
        return self._body.dims

    @property
    def count(self) -> int:
        return self._body.count + self._head.count

    @property
    def nbytes(self) -> int:
        points = 0 if self._graph is None else self._graph.points
        return symphony.bytes_for(points, self.dims) + self._body.nbytes + self._head.nbytes

    @staticmethod
    def bytes_for(rows: int, dims: int) -> int:
        """About how many bytes so many prefixes take. To make a graph of them takes more."""
        return symphony.bytes_for(rows, dims) + CodeLists.bytes_for(rows, dims, 0)

    @property
    def wants_renewal(self) -> bool:
        outside = self._head.count + self._dropped
        return outside > max(_HEAD, self._body.count // _HEAD_SHARE)

    def add(self, prefixes: FloatArray) -> None:
        self._head.add(prefixes, threads=THREADS)

    def drop_front(self, n: int) -> None:
        of_body = min(n, self._body.count)
        self._body.drop_front(of_body)
        self._head.drop_front(n - of_body)
        self._dropped += of_body
        if not self._body.count:
            self._graph, self._body, self._dropped = None, CodeLists(self.dims), 0

    # -- searching -----------------------------------------------------------------------------------------

    def search(self, queries: FloatArray, limit: int, allowed: Allowed, probes: int | None = None) -> Found:
        scores = np.empty((len(queries), limit), dtype=np.float32)
        places = np.empty((len(queries), limit), dtype=np.int64)
        n = self._body.count
        of_head = _part(allowed, n, self.count)
        of_body = Allowed(allowed.mask[:n], allowed.count - of_head.count)

        def search(start: int, stop: int) -> None:
            some = queries[start:stop]
            parts = []
            if of_body.count:
                parts.append(self._in_body(some, min(limit, of_body.count), of_body, probes or _EF))
            if of_head.count:
                found, at = _scanned(self._head, some, min(limit, of_head.count), of_head)
                parts.append((found, at + n))
            scores[start:stop], places[start:stop] = _best(parts, limit)

        spread(len(queries), search, least=_WORTH_A_THREAD)
        return scores, places

    def _in_body(self, queries: FloatArray, limit: int, allowed: Allowed, ef: int) -> Found:
        """What the graph finds, as far as that is enough of what is allowed; for other queries, what all codes find."""
        scores = np.empty((len(queries), limit), dtype=np.float32)
        places = np.empty((len(queries), limit), dtype=np.int64)
        rest = np.arange(len(queries))
        for k, kept in self._widths(limit, allowed.count, ef):
            assert self._graph is not None
            found = self._graph.search(queries[rest], k, kept)
            if found is None:
                break
            if allowed.count == self._graph.points:
                return found
            near = found[1] - self._dropped
            order, enough = _first(near, limit, allowed.mask)
            done = rest[enough]
            scores[done] = np.take_along_axis(found[0], order, axis=1)[enough]
            places[done] = np.take_along_axis(near, order, axis=1)[enough]
            rest = rest[~enough]
            if not rest.size:
                return scores, places
        scores[rest], places[rest] = _scanned(self._body, queries[rest], limit, allowed)
        return scores, places

    def _widths(self, limit: int, allowed: int, ef: int) -> Iterator[tuple[int, int]]:
        """How many to ask the graph for, and to keep for that, one after the other, as long as a scan takes longer."""
        points = 0 if self._graph is None else self._graph.points
        widest = points / (_WIDEST if available() else 1)
        # If the allowed ones are anywhere, k has a negative binomial distribution.
        excess = limit * (points - allowed) / allowed
        k = math.ceil(limit + excess + _DEVIATIONS * math.sqrt(excess * points / allowed))
        share = _KEPT if 2 * allowed > points else _KEPT_OF_FEW
        while k <= points and (kept := max(ef, math.ceil(share * k))) <= widest:
            yield k, kept
            k *= _GROWTH

    # -- keeping -------------------------------------------------------------------------------------------

    def write(self, path: Path) -> None:
        arrays = {"dropped": np.array([self._dropped], np.int64)}
        for part, codes in (("body", self._body), ("head", self._head)):
            arrays.update({f"{part}.{name}": array for name, array in codes.arrays()})
        if self._graph is None:
            write_arrays(path, arrays)
            return
        written = temporary(path)
        try:
            self._graph.write(written)
            write_arrays(path, {**arrays, "graph": np.memmap(written, dtype=np.uint8, mode="r")})
        finally:
            written.unlink(missing_ok=True)

    @classmethod
    def read(cls, content: npt.NDArray[np.uint8]) -> GraphStructure:
        arrays = read_arrays(content)
        if "dropped" not in arrays or arrays["dropped"].shape != (1,):
            raise ValueError(f"it holds {sorted(arrays)}, expected a graph and codes")
        dropped = int(arrays["dropped"][0])
        body, head = _codes_of(arrays, "body."), _codes_of(arrays, "head.")
        if "graph" not in arrays:
            graph, points = None, 0
        else:
            graph = SymphonyGraph.read(arrays["graph"], body.dims)
            points = graph.points
        if body.dims != head.dims or dropped < 0 or points != dropped + body.count:
            raise ValueError(
                f"its parts do not fit: {body.count} codes of {body.dims} dims, {head.count} of {head.dims}, a graph "
                f"of {points}, {dropped} of them dropped"
            )
        return cls(graph, body, head, dropped)

    def differing(self, start: int, prefixes: FloatArray) -> bool:
        # By the codes: the library gives no vector out. Its graph was made of the same prefixes, and has no other file.
        of_body = min(max(self._body.count - start, 0), len(prefixes))
        parts = [(self._body, start, prefixes[:of_body])]
        parts.append((self._head, max(start - self._body.count, 0), prefixes[of_body:]))
        return any(codes.differing(at, some) for codes, at, some in parts if len(some))

    def details(self) -> Mapping[str, Any]:
        in_graph = 0 if self._graph is None else self._graph.points
        return {"index": "graph, SymphonyQG", "in_graph": in_graph, "added_since": self._head.count}


def _part(allowed: Allowed, start: int, stop: int) -> Allowed:
    """What is allowed of the places from ``start`` to ``stop``."""
    mask = allowed.mask[start:stop]
    return Allowed(mask, stop - start if allowed.count == len(allowed.mask) else None)


def _scanned(codes: CodeLists, queries: FloatArray, limit: int, allowed: Allowed) -> Found:
    return codes.search(queries, limit, 1, allowed.mask, allowed.count)


def _first(near: npt.NDArray[np.int64], limit: int, mask: Mask) -> tuple[npt.NDArray[np.int64], Mask]:
    """Where in each row of places, best first, the first ``limit`` allowed ones are, and whether there are as many."""
    held = (near >= 0) & mask[np.maximum(near, 0)]
    order = np.argsort(~held, axis=1, kind="stable")[:, :limit]
    return order, np.count_nonzero(held, axis=1) >= limit


def _best(parts: list[Found], limit: int) -> Found:
    """The best of what was found in each part."""
    if len(parts) == 1:
        return parts[0]
    scores, places = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
    best = np.argpartition(-scores, limit - 1, axis=1)[:, :limit]
    return np.take_along_axis(scores, best, axis=1), np.take_along_axis(places, best, axis=1)


def _codes_of(arrays: dict[str, npt.NDArray[Any]], part: str) -> CodeLists:
    return CodeLists.of_arrays({name.removeprefix(part): a for name, a in arrays.items() if name.startswith(part)})
