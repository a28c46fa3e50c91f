"""What the library adds to its kernels: ``python -m benchmarks.overhead [--rows 100000] [--dims 256]``.

One query at a time, one thread, hits with documents and metadata, from the embedded store. The kernels are the
coarse search of the index object, and the gather and the dot products of the candidates. They are timed where they
run, within each search, and taken from its time: what is left is the library's own cost, ``search`` for ``search``,
so that noise in a kernel does not look like cost of the library. The parts of it are then called alone, one after
the other. The collection is made once and kept in ``.cache``.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np

from benchmarks.report import machine, table
from mrl_adapters._faiss.index import CoarseIndex
from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.backend import Capabilities
from mrl_retrieval.documents import SearchResult
from mrl_retrieval.matryoshka import FloatArray, as_vectors, normalize, prefix
from mrl_retrieval.storage import rankings as rankings_of
from mrl_retrieval.storage import rerank
from mrl_retrieval.two_stage import Ranking, SearchRequest

faiss: Any = _faiss

CACHE = Path(__file__).parents[1] / ".cache"
COARSE, CANDIDATES, K = 64, 200, 10
QUERIES = 400
_BATCH = 10_000
_TEXT = "river stone index commit flour branch vector search paper signal harbor letter garden engine copper orbit"


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dims", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=CACHE)
    chosen = parser.parse_args(argv)
    print(f"{machine()}; {chosen.rows:,} rows of {chosen.dims} dims\n")
    print(run(chosen.cache, chosen.rows, chosen.dims, chosen.rounds))


def run(cache: Path, rows: int, dims: int, rounds: int) -> str:
    """Both tables."""
    faiss.omp_set_num_threads(1)
    with _collection(cache / f"overhead-{rows}-{dims}", rows, dims) as retriever:
        queries = [query.copy() for query in _vectors(np.random.default_rng(1), QUERIES, dims)]
        print(f"coarse index: {retriever.info().stats.details['index']}\n")
        return f"{_whole(retriever, queries, rounds)}\n\n{_parts(retriever, queries, rounds)}"


# -- the collection ----------------------------------------------------------------------------------------


def _collection(folder: Path, rows: int, dims: int) -> MatryoshkaRetriever:
    retriever = MatryoshkaRetriever(encoder=None, backend=f"faiss:{folder}", coarse_dims=COARSE, dim=dims)
    rng, there = np.random.default_rng(0), retriever.count()
    for start in range(0, rows, _BATCH):
        vectors = _vectors(rng, min(_BATCH, rows - start), dims)
        if start < there:
            continue  # made by an earlier run
        numbers = range(start, start + len(vectors))
        documents = [_document(number) for number in numbers]
        metadatas = [_metadata(number) for number in numbers]
        retriever.index(documents, [f"doc-{n}" for n in numbers], metadatas, vectors, batch_size=_BATCH)
    retriever.flush()
    return retriever


def _vectors(rng: np.random.Generator, count: int, dims: int) -> FloatArray:
    centres = np.random.default_rng(7).standard_normal((500, dims))
    spread = np.arange(1, dims + 1) ** -0.35
    points = centres[rng.integers(0, len(centres), count)] + rng.standard_normal((count, dims))
    return normalize(points * spread)


def _document(number: int) -> str:
    rng = np.random.default_rng(number)
    words = _TEXT.split()
    return " ".join(words[i] for i in rng.integers(0, len(words), 30))


def _metadata(number: int) -> dict[str, Any]:
    return {"source": f"file-{number % 97}.txt", "page": number % 1000, "lang": "en", "score": number / 7}


# -- in all ------------------------------------------------------------------------------------------------


class _Kernels:
    """Times the kernels where the library calls them."""

    def __init__(self, replayed: Iterator[Any] | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._replayed = replayed
        self._restore: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> _Kernels:
        self._wrap(CoarseIndex, "search", "coarse search" if self._replayed is None else "coarse search (replayed)")
        self._wrap(rerank, "best_stored", "gather and dot products, with checksums")
        return self

    def __exit__(self, *exc: object) -> None:
        for owner, attribute, function in self._restore:
            setattr(owner, attribute, function)

    def _wrap(self, owner: Any, attribute: str, name: str) -> None:
        function = getattr(owner, attribute)
        replayed = self._replayed if owner is CoarseIndex else None
        self._restore.append((owner, attribute, function))
        self.seconds[name] = 0.0

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            if replayed is None:
                answer = function(*args, **kwargs)
            else:
                scores, numbers = next(replayed)
                answer = scores, numbers.copy()
            self.seconds[name] += time.perf_counter() - start
            return answer

        setattr(owner, attribute, timed)


class _Recorded:
    """Keeps what the coarse search answers."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers = answers

    def __enter__(self) -> None:
        search = self._search = CoarseIndex.search

        def recording(*args: Any, **kwargs: Any) -> Any:
            scores, numbers = search(*args, **kwargs)
            self._answers.append((scores, numbers.copy()))  # the next stage sorts them where they are
            return scores, numbers

        CoarseIndex.search = recording  # type: ignore[method-assign]

    def __exit__(self, *exc: object) -> None:
        CoarseIndex.search = self._search  # type: ignore[method-assign]


def _whole(retriever: MatryoshkaRetriever, queries: list[FloatArray], rounds: int) -> str:
    def search(query: FloatArray) -> SearchResult:
        return retriever.search_by_vector(query, K, coarse_top_k=CANDIDATES)

    answers: list[Any] = []
    with _Recorded(answers):
        for query in queries:
            search(query)
    rows = [["search_by_vector", *_of(_seconds(lambda i: search(queries[i]), len(queries), rounds))]]
    for replayed in (None, itertools.cycle(answers)):
        samples: dict[str, list[float]] = {}
        with _Kernels(replayed) as kernels:
            for i in range(rounds * len(queries)):
                kernels.seconds.update(dict.fromkeys(kernels.seconds, 0.0))
                start = time.perf_counter()
                search(queries[i % len(queries)])
                left = time.perf_counter() - start
                for name, seconds in kernels.seconds.items():
                    samples.setdefault(f"- {name}", []).append(seconds)
                    left -= seconds
                samples.setdefault("= the library's own", []).append(left)
        rows += [[name, *_of(each)] for name, each in samples.items()]
    return table([f"top {K} of {CANDIDATES} candidates", "p5 µs", "p50 µs", "p95 µs"], rows)


# -- piece by piece ----------------------------------------------------------------------------------------


def _parts(retriever: MatryoshkaRetriever, queries: list[FloatArray], rounds: int) -> str:
    backend: Any = retriever.backend
    store, manifest = backend._store, retriever.manifest
    assert manifest is not None
    search = retriever._prepare(K, {"coarse_top_k": CANDIDATES})
    assert search is not None
    full = [as_vectors(query, dim=manifest.dim) for query in queries]
    requests = [SearchRequest(prefix(rows, manifest.fine_dims), search.stages) for rows in full]
    answers = [backend.search(request)[0] for request in requests]
    with store.snapshot() as snapshot:
        numbers = snapshot.rows_of_ids([row.id for answer in answers for row in answer.rows])
    found = [np.array([numbers[row.id] for row in answer.rows]) for answer in answers]

    replays: list[Any] = [_Replay(answer) for answer in answers]

    def snapshots(i: int) -> None:
        with store.snapshot():
            pass

    def rankings(_: int) -> Iterator[float]:
        with store.snapshot() as snapshot:
            for positions, answer in zip(found, answers, strict=True):
                start = time.perf_counter()
                rankings_of(snapshot, [(positions, answer.scores, None)], K, None)
                yield time.perf_counter() - start

    parts: dict[str, Callable[[int], Any]] = {
        "prepare: settings, stages, current collection?": lambda i: retriever._prepare(K, {"coarse_top_k": CANDIDATES}),
        "check the vector": lambda i: as_vectors(queries[i], dim=manifest.dim),
        "normalise it": lambda i: prefix(full[i], manifest.fine_dims),
        "its prefix": lambda i: prefix(full[i], manifest.coarse_dims),
        "begin and end a snapshot": snapshots,
    }
    rows: list[list[object]] = []
    for name, call in parts.items():
        rows.append([name, *_of(_seconds(call, len(queries), rounds))])
    rows.append(["rows of the hits, in order", *_of([s for i in range(rounds) for s in rankings(i)])])
    without = _seconds(lambda i: search.run(replays[i], full[i]), len(queries), rounds)
    rows.append(["normalise, request, results: without the backend", *_of(without)])
    return table(["a part alone", "p5 µs", "p50 µs", "p95 µs"], rows)


class _Replay:
    """A backend that answers at once."""

    capabilities = Capabilities()

    def __init__(self, answer: Ranking) -> None:
        self._answer = answer

    def search(self, request: SearchRequest) -> list[Ranking]:
        """What it was given."""
        return [self._answer]


def _seconds(call: Callable[[int], Any], count: int, rounds: int) -> list[float]:
    seconds = []
    gc.collect()
    for _ in range(rounds):
        for i in range(count):
            start = time.perf_counter()
            call(i)
            seconds.append(time.perf_counter() - start)
    return seconds


def _of(seconds: list[float]) -> list[str]:
    return [f"{value:.1f}" for value in np.percentile(seconds, [5, 50, 95]) * 1e6]


if __name__ == "__main__":
    main()
