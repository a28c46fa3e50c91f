"""Exact search: codes of 4 bits with proof, against a scan of everything, here and in FAISS.

    python -m benchmarks.exact --data M --rows 1000000

``.cache/NAME`` holds ``vectors.npy`` (N, D) and ``queries.npy`` (Q, D), unit rows of float32. One query at a time, top
10, each way's times from rounds that take turns, so that a noisy neighbour hits all of them. FAISS has float32 rows in
memory; ours are float16 rows in files, and the codes beside them. Each answer of ours is held to that of a full scan.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any, cast

import faiss as _faiss_module
import numpy as np

from benchmarks.report import table
from mrl_retrieval.exact import Answer, ExactCopy
from mrl_retrieval.exact.codes import Coder
from mrl_retrieval.exact.layout import CHUNK, Chunk, Layout
from mrl_retrieval.exact.search import search
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.storage import CollectionFiles, Snapshot
from mrl_retrieval.storage.checks import vector_sums
from mrl_retrieval.storage.records import SegmentFormat, Span
from mrl_retrieval.storage.scan import exact_scan
from mrl_retrieval.storage.segments import FineView, Segments
from mrl_retrieval.storage.state import State

CACHE = Path(__file__).parents[1] / ".cache"
K = 10
_BLOCK = 16_384
_SLOW = 100_000
_OURS, _EIGHT, _READING = "4 bits, then 8, 1 thread", "8 bits at once, 1 thread", "reading the 4 bits, no more"
_FLAT, _PANORAMA = "FAISS IndexFlatIP", "FAISS IndexFlatIPPanorama"


class Eight(Coder):
    """All components in the head: one pass over 8 bits, for comparison."""

    head = property(lambda self: self.dims + -self.dims % 4)
    tail = property(lambda self: 0)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="M", help="folder in .cache")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    vectors = np.load(CACHE / options.data / "vectors.npy", mmap_mode="r")[: options.rows]
    queries = np.load(CACHE / options.data / "queries.npy")[: options.queries].astype(np.float32)
    folder = Path(mkdtemp(dir=CACHE, prefix="exact-"))
    try:
        print(run(options.data, vectors, queries, options.rounds, folder))
    finally:
        shutil.rmtree(folder)


def run(name: str, vectors: FloatArray, queries: FloatArray, rounds: int, folder: Path) -> str:
    """The table."""
    n, dims = vectors.shape
    fine = _stored(vectors, folder)
    started = time.perf_counter()
    snapshot = cast(
        Snapshot, SimpleNamespace(state=State(1, n, 0, n, 64, "c"), fine=fine, vector_mask=lambda _: np.ones(n, bool))
    )
    copy = ExactCopy.follow(snapshot, None, CollectionFiles(folder, "none"))
    built = time.perf_counter() - started
    mask = np.ones(n, dtype=bool)

    def by(threads: int) -> Callable[[FloatArray], Answer]:
        return lambda query: copy.search(snapshot, query, K, mask, threads=threads)

    def in_numpy(query: FloatArray) -> Answer:
        return search(copy.chunks, copy.coder, np.array(copy.reach), fine, 0, query, K, mask, compiled=False)

    ours = {_OURS: by(1), "4 bits, then 8, 2 threads": by(2)}
    answers: dict[str, list[Answer]] = {way: [] for way in (*ours, _EIGHT)}
    # What is compared takes turns; what needs much room comes alone.
    seconds = _rounds(
        {**ours, _READING: _reading(copy), _FLAT: _faiss("IndexFlatIP", vectors)}, queries, rounds, answers
    )
    seconds |= _rounds({_EIGHT: _eight(copy.coder, fine, n)}, queries, rounds, answers)
    if hasattr(_faiss_module, "IndexFlatIPPanorama"):
        seconds |= _rounds({_PANORAMA: _faiss("IndexFlatIPPanorama", vectors, 8, 256)}, queries, rounds, {})
    few = queries[: min(2, len(queries))]
    slow: dict[str, Callable[[FloatArray], Any]] = {
        "full scan of stored rows": lambda q: exact_scan(fine, np.arange(n), q, K)
    }
    if n <= _SLOW:
        slow["4 bits, then 8, in NumPy"] = in_numpy
    seconds |= _rounds(slow, few, 1, {})
    for way, found in answers.items():
        for query, answer in zip(few, found, strict=False):
            expected = np.sort(exact_scan(fine, np.arange(n), query[None], K)[0][0])
            assert np.array_equal(np.sort(answer.found[0][0]), expected), way
    started = time.perf_counter()
    copy.search(snapshot, queries, K, mask)
    batch = (time.perf_counter() - started) / len(queries)
    blocks = sum(chunk.blocks.nbytes for chunk in copy.chunks)
    bandwidth = [blocks / statistic(seconds[_READING]) for statistic in (np.min, np.median)]
    flat = float(np.median(seconds[_FLAT]))
    rows: list[list[object]] = []
    for way, times in seconds.items():
        of = answers.get(way)
        counts: list[object] = ["", "", "", ""]
        if of:
            read = float(np.mean([a.bytes_read for a in of]))
            shares = (read / np.min(times) / bandwidth[0], read / np.median(times) / bandwidth[1])
            counts = [
                round(read / 1e6, 1),
                " ".join(f"{share:.0%}" for share in shares),
                *(round(np.median(c)) for c in _counts(of)),
            ]
        p50 = float(np.median(times))
        rows.append([way, round(min(times) * 1e3, 2), round(p50 * 1e3, 2), round(flat / p50, 2), *counts])
    header = ["way", "least ms", "p50 ms", "FlatIP / it", "MB read", "of bandwidth", "seen twice", "scored"]
    return "\n".join(
        [
            f"{name}: {n:,} x {dims}, top {K}, {len(queries)} queries, {rounds} rounds",
            table(header, rows),
            f"batch of {len(queries)}: {batch * 1e3:.2f} ms a query on one thread. Reading alone: "
            f"{bandwidth[0] / 1e9:.1f} GB/s at best, {bandwidth[1] / 1e9:.1f} as a rule. The codes take "
            f"{copy.nbytes / n:.0f} bytes a document and {built / n * 1e6:.1f} us to make. Shares of bandwidth: of the "
            "least times, of the medians.",
        ]
    )


def _counts(answers: list[Answer]) -> tuple[list[int], list[int]]:
    return [a.reread for a in answers], [a.rescored for a in answers]


def _rounds(
    ways: dict[str, Callable[[FloatArray], Any]], queries: FloatArray, rounds: int, answers: dict[str, list[Answer]]
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for round in range(rounds + 1):
        for way, find in ways.items():
            for query in queries[: len(queries) if round else 1]:
                started = time.perf_counter()
                found = find(query[None])
                if round:
                    seconds[way].append(time.perf_counter() - started)
                    if round == 1 and way in answers:
                        answers[way].append(found)
    return seconds


def _stored(vectors: FloatArray, folder: Path) -> FineView:
    """The vectors as a store has them, in float16."""
    layout = SegmentFormat("float16", vectors.shape[1], len(vectors), "c")
    segments, spans, sums = Segments(folder / "segments", layout), list[Span](), []
    for start in range(0, len(vectors), _BLOCK):
        records = layout.encode(np.asarray(vectors[start : start + _BLOCK]))
        spans += segments.append(spans[-1] if spans else None, start, records)
        sums.append(vector_sums(records))
    return segments.view(0, len(vectors), spans, np.concatenate(sums))


def _eight(coder: Coder, fine: FineView, n: int) -> Callable[[FloatArray], Answer]:
    plain = Eight(coder.mean, coder.spread, coder.order)
    layout, chunks, reach = Layout(plain.head, 0), list[Chunk](), np.zeros(2)
    for start in range(0, n, CHUNK):
        stop = min(start + CHUNK, n)
        codes = [plain.encode(fine.read(at, min(at + 512, stop))) for at in range(start, stop, 512)]
        reach = np.max([reach, *(c.reach for c in codes)], axis=0)
        chunks.append(layout.empty().extended(codes))
    everybody = np.ones(n, dtype=bool)
    return lambda query: search(chunks, plain, reach, fine, 0, query, K, everybody)


def _faiss(name: str, vectors: FloatArray, *arguments: int) -> Callable[[FloatArray], Any]:
    faiss: Any = _faiss_module
    faiss.omp_set_num_threads(1)
    index = getattr(faiss, name)(vectors.shape[1], *arguments)
    for start in range(0, len(vectors), _BLOCK):
        index.add(np.ascontiguousarray(vectors[start : start + _BLOCK]))
    return lambda query: index.search(query, K)


def _reading(copy: ExactCopy) -> Callable[[FloatArray], Any]:
    """Read what the first pass reads, and do nothing with it: as fast as it can be."""
    import numba as _numba

    numba: Any = _numba

    @numba.njit  # type: ignore[untyped-decorator]
    def total(words: Any) -> int:
        found = 0
        for word in words:
            found += word
        return found

    return lambda _: [total(chunk.blocks.reshape(-1).view(np.int64)) for chunk in copy.chunks]


if __name__ == "__main__":
    main()
