"""Two stages on a GPU, against the CPU and against full-dimension flat search on the same GPU, in one run.

    python -m benchmarks.gpu --rows 1000000 --dims 768

The vectors are made: a mixture of clusters with a decaying spectrum, from a seed. What is timed are the stages, without
the documents of the hits: queries come from host memory, and numbers and scores of the best go back to it. The rerank
reads float16 vectors from files, as the embedded store has them; on the GPU it is what the library does, a shortlist
there, and the last scores on the CPU. ``--device cpu`` runs the same code in PyTorch's CPU: for a look at whether it
works, not at how fast it is.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from benchmarks.report import machine, table
from mrl_adapters._faiss import devices
from mrl_adapters._faiss.calls import untyped as faiss
from mrl_adapters._faiss.choosing import started
from mrl_adapters._faiss.devices import Device
from mrl_adapters._faiss.structure import Allowed, Structure
from mrl_retrieval.matryoshka import FloatArray, normalize, prefix
from mrl_retrieval.storage import Snapshot
from mrl_retrieval.storage.checks import vector_sums
from mrl_retrieval.storage.records import SegmentFormat, Span
from mrl_retrieval.storage.segments import FineView, Segments
from mrl_retrieval.storage.state import State
from mrl_retrieval.storage.stored_cosines import stored_cosines

K = 10
_BLOCK = 16_384
_ROUNDS = 3
_TRUE = 100
"""Recall is that of so many queries."""

Numbers = npt.NDArray[np.int64]
Way = Callable[[FloatArray], Numbers]
"""From queries (Q, D) to the numbers (Q, K) of the best."""

_CPU, _TWO = "CPU, two stages", "torch, two stages"
_FLAT_FAISS, _FLAT_TORCH = "FAISS GPU, all dims, float16", "torch, all dims, float16"


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dims", type=int, default=768)
    parser.add_argument("--coarse", type=int, default=128)
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--singles", type=int, default=100)
    parser.add_argument("--device", choices=["gpu", "cpu"], default="gpu")
    options = parser.parse_args()
    device = Device("cpu", "PyTorch's CPU") if options.device == "cpu" else devices.find()
    if device is None:
        print("no GPU that PyTorch can use is at hand: nothing was measured (--device cpu runs it all the same)")
        return
    with TemporaryDirectory() as folder:
        print(run(options, device, Path(folder)))


def run(options: argparse.Namespace, device: Device, folder: Path) -> str:
    """The table."""
    queries = np.concatenate(list(made(options.batch, options.dims, seed=2)))
    ways, truth = prepared(options, device, folder, queries[:_TRUE])
    seconds = {name: timed(way, queries, options.singles) for name, way in ways.items()}
    reference = _FLAT_FAISS if _FLAT_FAISS in ways else _FLAT_TORCH
    rows: list[list[object]] = []
    for name, (single, batch) in seconds.items():
        found = ways[name](queries[:_TRUE])
        recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), truth.tolist(), strict=True)])
        ratios = [a / b for way in (_CPU, reference) for a, b in zip(seconds[way], (single, batch), strict=True)]
        rows.append(
            [
                name,
                f"{recall:.4f}",
                f"{single * 1e6:.0f}",
                f"{batch / options.batch * 1e6:.1f}",
                *(f"{ratio:.2f}" for ratio in ratios),
            ]
        )
    short = "all dims" if reference == _FLAT_FAISS else "all dims, torch"
    header = ["way", f"recall@{K}", "one: p50 us", "batch: us a query", "CPU / it, one", "batch"]
    return "\n".join(
        [
            f"{options.rows:,} x {options.dims}, coarse {options.coarse}, {options.candidates} candidates, top {K}; "
            f"{options.singles} queries alone, batches of {options.batch}, best of {_ROUNDS}; on {device.model}",
            machine(),
            table([*header, f"{short} / it, one", "batch"], rows),
            *(
                []
                if reference == _FLAT_FAISS
                else ["FAISS finds no GPU here, or is built without: compared with PyTorch alone."]
            ),
        ]
    )


def made(rows: int, dims: int, seed: int) -> Iterator[FloatArray]:
    """Unit rows in blocks; the clusters are the same for every seed."""
    common, rng = np.random.default_rng(0), np.random.default_rng(seed)
    spectrum = np.arange(1, dims + 1, dtype=np.float32) ** -0.35
    centres = common.standard_normal((2000, dims), dtype=np.float32) * spectrum
    for start in range(0, rows, _BLOCK):
        n = min(_BLOCK, rows - start)
        noise = rng.standard_normal((n, dims), dtype=np.float32) * spectrum
        yield normalize(centres[rng.integers(0, len(centres), n)] + noise)


def timed(way: Way, queries: FloatArray, singles: int) -> tuple[float, float]:
    """Seconds: the median of single queries, and the least of whole batches."""
    way(queries[:1])
    alone = []
    for query in queries[:singles]:
        begun = time.perf_counter()
        way(query[None])
        alone.append(time.perf_counter() - begun)
    way(queries)
    together = []
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        way(queries)
        together.append(time.perf_counter() - begun)
    return statistics.median(alone), min(together)


def prepared(
    options: argparse.Namespace, device: Device, folder: Path, queries: FloatArray
) -> tuple[dict[str, Way], Numbers]:
    """What is to be timed, and the true best of some queries."""
    from mrl_adapters._faiss.gpu import GPUStructure
    from mrl_adapters._faiss.gpu_rerank import DeviceVectors

    n, dims, coarse = options.rows, options.dims, options.coarse
    on_cpu = started(coarse, n)
    on_gpu, whole = (GPUStructure.empty(d, device, capacity=n) for d in (coarse, dims))
    theirs = _faiss_on_gpu(dims)
    fine = stored(made(n, dims, seed=1), n, dims, folder)
    for start in range(0, n, _BLOCK):
        vectors = fine.read(start, min(start + _BLOCK, n))
        for structure in (on_cpu, on_gpu, whole):
            structure.add(prefix(vectors, structure.dims))
        if theirs is not None:
            theirs.add(vectors)
    state = State(1, n, 0, n, coarse, "c")
    snapshot = cast(Snapshot, SimpleNamespace(state=state, fine=fine))
    held, everyone = DeviceVectors(snapshot, device), Allowed(np.ones(n, dtype=np.bool_))

    def two_stages(structure: Structure, near: Callable[[FloatArray, Numbers], Any]) -> Way:
        def way(asked: FloatArray) -> Numbers:
            _, positions = structure.search(prefix(asked, coarse), options.candidates, everyone)
            return np.stack([best(fine, q, c) for q, c in zip(asked, near(asked, positions), strict=True)])

        return way

    def shortened(asked: FloatArray, positions: Numbers) -> Any:
        found = held.shortlist(snapshot, asked, positions, K) if len(asked) > 1 else None
        return positions if found is None else found

    ways = {
        _CPU: two_stages(on_cpu, lambda asked, positions: positions),
        _TWO: two_stages(on_gpu, shortened),
        _FLAT_TORCH: lambda asked: whole.search(asked, K, everyone)[1],
    }
    if theirs is not None:
        ways[_FLAT_FAISS] = lambda asked: theirs.search(asked, K)[1]
    return ways, true_best(fine, n, queries)


def best(fine: FineView, query: FloatArray, candidates: Numbers) -> Numbers:
    """The rerank of one query on the CPU: (K,)."""
    scores = stored_cosines(fine, candidates, query, len(query))
    return candidates[np.argpartition(-scores, K - 1)[:K]]


def true_best(fine: FineView, n: int, queries: FloatArray) -> Numbers:
    """Numbers (Q, K), in float32, of every stored vector."""
    scores = np.empty((len(queries), 0), np.float32)
    places = np.empty((len(queries), 0), np.int64)
    for start in range(0, n, _BLOCK):
        new = queries @ fine.read(start, min(start + _BLOCK, n)).T
        scores = np.concatenate([scores, new], axis=1)
        places = np.concatenate([places, np.broadcast_to(np.arange(start, start + new.shape[1]), new.shape)], axis=1)
        kept = np.argpartition(-scores, K - 1, axis=1)[:, :K]
        scores, places = np.take_along_axis(scores, kept, 1), np.take_along_axis(places, kept, 1)
    return places


def stored(blocks: Iterator[FloatArray], n: int, dims: int, folder: Path) -> FineView:
    """The vectors as the store has them, in float16."""
    layout = SegmentFormat("float16", dims, n, "c")
    segments, spans, sums, at = Segments(folder / "segments", layout), list[Span](), [], 0
    for block in blocks:
        records = layout.encode(block)
        spans += segments.append(spans[-1] if spans else None, at, records)
        sums.append(vector_sums(records))
        at += len(block)
    return segments.view(0, n, spans, np.concatenate(sums))


def _faiss_on_gpu(dims: int) -> Any:
    """FAISS's flat index on the first GPU, in float16; None: it is built without, or finds none."""
    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        return None
    options = faiss.GpuClonerOptions()
    options.useFloat16 = True
    resources = faiss.StandardGpuResources()
    index = faiss.index_cpu_to_gpu(resources, 0, faiss.IndexFlatIP(dims), options)
    index.referenced_objects = [resources]
    return index


if __name__ == "__main__":
    main()
