"""The two passes over codes, for one range of documents or several at once: who may be among the best k."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mrl_retrieval.errors import MissingExtra
from mrl_retrieval.matryoshka import FloatArray

from .bounds import QueryCodes
from .layout import BLOCK, CHUNK, Chunk
from .reference import refined, scanned

__all__ = ["Mask", "PositionArray", "Survivors", "first_pass", "has_kernels", "largest", "reread"]

PositionArray = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# A pass gives up on a query of which more than this share of documents, or so many, may be among the best.
_ROOM_SHARE = 8
_ROOM = 4096
_BLOCKS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Survivors:
    """The documents that may be among the best k of one query."""

    places: PositionArray
    """(n,), ascending."""
    scores: FloatArray
    margins: FloatArray
    lower: FloatArray
    """The k largest lower bounds, or fewer where there are not so many documents."""
    whole: bool
    """Whether these are all that may be. Else they are some, with the likely ones among them."""

    @staticmethod
    def joined(parts: Sequence[Survivors], k: int) -> Survivors:
        """Those of all parts that reach the k-th largest lower bound."""
        lower = _largest_of(np.concatenate([part.lower for part in parts]), k)
        places = np.concatenate([part.places for part in parts])
        scores = np.concatenate([part.scores for part in parts])
        margins = np.concatenate([part.margins for part in parts])
        there = np.flatnonzero(scores + margins >= largest(lower, k))
        there = there[np.argsort(places[there], kind="stable")]
        whole = all(part.whole for part in parts)
        return Survivors(places[there], scores[there], margins[there], lower, whole)


def has_kernels() -> bool:
    """Whether the passes can be done by compiled code."""
    try:
        from . import kernels  # noqa: F401
    except MissingExtra:
        return False
    return True


def largest(values: FloatArray, k: int) -> np.float32:
    """The k-th largest; -inf where there are not so many."""
    if len(values) < k:
        return np.float32(-np.inf)
    return np.float32(np.partition(values, len(values) - k)[len(values) - k])


def _largest_of(values: FloatArray, k: int) -> FloatArray:
    return np.partition(values, len(values) - k)[-k:] if len(values) > k else values


def first_pass(
    chunks: list[Chunk],
    queries: QueryCodes,
    k: int,
    allowed: Mask,
    floors: FloatArray | None = None,
    *,
    threads: int = 1,
    compiled: bool,
) -> tuple[list[Survivors], int]:
    """What high halves leave, for each query (Q); and the bytes read.

    ``floors`` (Q,) are scores that k of the documents are known to reach.
    """
    bits = _bits(allowed)
    least = np.full(len(queries.planes), -np.inf, dtype=np.float32) if floors is None else floors
    # At least one block each.
    cuts = np.linspace(0, len(bits), max(1, min(threads, len(bits))) + 1).astype(int).tolist()
    run = _compiled_part if compiled else _plain_part

    def part(start: int, stop: int) -> tuple[list[Survivors], int]:
        return run(chunks, queries, k, least, bits, start, stop)

    if len(cuts) == 2:
        parts = [part(*cuts)]
    else:
        with ThreadPoolExecutor(len(cuts) - 1) as pool:
            parts = list(pool.map(part, cuts[:-1], cuts[1:]))
    survivors = [Survivors.joined([found[q] for found, _ in parts], k) for q in range(len(queries.planes))]
    return survivors, sum(read for _, read in parts) * chunks[0].layout.block_bytes


def reread(
    chunks: list[Chunk], queries: QueryCodes, q: int, places: PositionArray, scores: FloatArray, *, compiled: bool
) -> tuple[FloatArray, FloatArray]:
    """Scores and margins of documents (n,), of which the rows are read too. ``scores`` are those of the first pass."""
    if not compiled:
        return refined(chunks, queries, q, places, scores)
    from .kernels import refine

    layout, better, margins = chunks[0].layout, scores.copy(), np.empty_like(scores)
    rows = _addresses(chunks) + CHUNK // BLOCK * layout.block_bytes
    refine(rows, layout.row_bytes, queries.integers[q], queries.numbers[q], places, better, margins)
    return better, margins


def _compiled_part(
    chunks: list[Chunk],
    queries: QueryCodes,
    k: int,
    least: FloatArray,
    bits: npt.NDArray[np.uint16],
    start: int,
    stop: int,
) -> tuple[list[Survivors], int]:
    from .kernels import scan

    layout, count, room = chunks[0].layout, len(queries.planes), _room(start, stop, k)
    heaps = np.repeat(least[:, None], k, axis=1)
    places, counts = np.empty((count, room), dtype=np.int64), np.zeros(count, dtype=np.int64)
    scores, margins = np.empty((count, room), dtype=np.float32), np.empty((count, room), dtype=np.float32)
    read = scan(
        _addresses(chunks),
        bits,
        start,
        stop,
        (layout.block_bytes, layout.head // 4, layout.tail // 8),
        queries.planes,
        queries.offsets,
        queries.numbers,
        heaps,
        places,
        scores,
        margins,
        counts,
    )
    parts = []
    for q, n in enumerate(np.abs(counts)):
        parts.append(Survivors(places[q, :n], scores[q, :n], margins[q, :n], heaps[q], bool(counts[q] >= 0)))
    return parts, int(read)


def _plain_part(
    chunks: list[Chunk],
    queries: QueryCodes,
    k: int,
    least: FloatArray,
    bits: npt.NDArray[np.uint16],
    start: int,
    stop: int,
) -> tuple[list[Survivors], int]:
    room, read, blocks = _room(start, stop, k), 0, CHUNK // BLOCK
    none, nobody = np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)
    parts = [Survivors(nobody, none, none, np.repeat(floor, k), True) for floor in least]
    for at in range(start // blocks, (stop + blocks - 1) // blocks):
        begin, end = max(start, at * blocks), min(stop, (at + 1) * blocks)
        touched = np.flatnonzero(bits[begin:end]) + begin
        read += len(touched)
        for i in range(0, len(touched), _BLOCKS_AT_ONCE):
            some = touched[i : i + _BLOCKS_AT_ONCE]
            scores, margins = scanned(chunks[at], some - at * blocks, queries)
            taken = np.flatnonzero(np.unpackbits(bits[some].view(np.uint8), bitorder="little"))
            places = some[taken // BLOCK] * BLOCK + taken % BLOCK
            for q, known in enumerate(parts):
                if known.whole:
                    s, m = scores[q, taken], margins[q, taken]
                    joined = Survivors.joined([known, Survivors(places, s, m, s - m, True)], k)
                    parts[q] = joined if len(joined.places) <= room else replace(joined, whole=False)
    return parts, read


def _bits(allowed: Mask) -> npt.NDArray[np.uint16]:
    """Which documents of each block take part: (blocks,)."""
    blocks, over = -(-len(allowed) // BLOCK), -len(allowed) % BLOCK
    if allowed.all():
        bits = np.full(blocks, 0xFFFF, dtype="<u2")
        bits[-1] >>= over
        return bits
    masks = np.concatenate([allowed, np.zeros(over, dtype=np.bool_)])
    return np.packbits(masks, bitorder="little").view("<u2")


def _room(start: int, stop: int, k: int) -> int:
    return max(_ROOM, 4 * k, (stop - start) * BLOCK // _ROOM_SHARE)


def _addresses(chunks: list[Chunk]) -> PositionArray:
    return np.array([chunk.address for chunk in chunks], dtype=np.int64)
