"""What the library costs over bare FAISS: one query at a time, one thread, the same flat float32 coarse stage.

The peer is FAISS's own two-stage search: ``IndexRefineFlat`` (full float32 vectors) over an ``IndexPreTransform``
that truncates and normalises into an ``IndexFlatIP``. Both search 64 of 256 dims and rerank 200 candidates. Rounds
of the two alternate, so that a noisy neighbour hits both; the ratio is of the medians.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import faiss as _faiss
import numpy as np

from benchmarks.datasets import passages
from benchmarks.report import table
from mrl_retrieval import MatryoshkaRetriever, load_encoder
from mrl_retrieval.matryoshka import FloatArray, normalize
from mrl_retrieval.metrics import recall_at_k
from mrl_retrieval.scoring import exact_search

faiss: Any = _faiss  # its stubs do not know half of its classes

N, COARSE, CANDIDATES, K = 100_000, 64, 200, 10
QUERIES, ROUNDS = 200, 7
CACHE = Path(__file__).parents[1] / ".cache"


def run() -> str:
    """Measure, return the table."""
    documents = passages(N)
    vectors = _vectors(documents)
    rng = np.random.default_rng(0)
    picked = rng.choice(len(documents), QUERIES, replace=False)
    # Queries are passages that lost half of their words: near their source, but nobody's copy.
    texts = [" ".join(w for w in documents[i].split() if rng.random() < 0.5) or documents[i] for i in picked]
    queries = normalize(load_encoder("wordllama").encode_query(texts))
    ids = [str(i) for i in range(len(documents))]
    truth = [found for found, _ in exact_search(queries, vectors, ids, K)]

    faiss.omp_set_num_threads(1)
    peer = _peer(vectors)
    parameters = faiss.IndexRefineSearchParameters(k_factor=CANDIDATES / K)

    def bare(query: FloatArray) -> list[str]:
        return [str(i) for i in peer.search(query[None], K, params=parameters)[1][0]]

    rows: list[list[object]] = []
    with (
        TemporaryDirectory() as folder,
        MatryoshkaRetriever(encoder=None, backend=f"faiss:{folder}/kb", coarse_dims=COARSE) as retriever,
    ):
        start = time.perf_counter()
        retriever.index(documents, ids, vectors=vectors, batch_size=5000)
        built = time.perf_counter() - start

        def ours(query: FloatArray) -> list[str]:
            return retriever.search_by_vector(query, K, coarse_top_k=CANDIDATES).ids

        timed = _alternate({"bare FAISS": bare, "mrl_retrieval": ours}, queries)
        for name, search in (("bare FAISS", bare), ("mrl_retrieval", ours)):
            recall = float(np.mean([recall_at_k(search(q), t, K) for q, t in zip(queries, truth, strict=True)]))
            p50, p99 = np.percentile(timed[name], [50, 99]) * 1e6
            ratio = float(np.median(timed[name]) / np.median(timed["bare FAISS"]))
            rows.append([name, recall, round(p50), round(p99), ratio])
        sizes = retriever.info().stats.bytes
    return "\n".join(
        [
            table(["search, 1 thread", "recall@10", "p50 µs", "p99 µs", "p50 ratio"], rows),
            "",
            f"{N:,} documents indexed from vectors in {built:.1f} s ({N / built:,.0f}/s); bytes: "
            + ", ".join(f"{part} {size:,}" for part, size in sizes.items() if size is not None)
            + ". Ours returns ids, scores, documents and metadata, from durable float16 rows; "
            "the peer returns row numbers and scores, from float32 rows in RAM.",
        ]
    )


def _vectors(documents: list[str]) -> FloatArray:
    """Embeddings of the documents, kept between runs."""
    digest = hashlib.sha256("\0".join(documents).encode()).hexdigest()[:16]
    path = CACHE / f"wordllama-{len(documents)}-{digest}.npy"
    if path.exists():
        cached: FloatArray = np.load(path)
        return cached
    vectors = normalize(load_encoder("wordllama").encode_document(documents))
    CACHE.mkdir(exist_ok=True)
    np.save(path, vectors)
    return vectors


def _peer(vectors: FloatArray) -> Any:
    dim = vectors.shape[1]
    short = faiss.IndexPreTransform(faiss.IndexFlatIP(COARSE))
    short.prepend_transform(faiss.NormalizationTransform(COARSE))
    short.prepend_transform(faiss.RemapDimensionsTransform(dim, COARSE, False))
    index = faiss.IndexRefineFlat(short)
    index.add(vectors)
    return index


def _alternate(searches: dict[str, Callable[[FloatArray], list[str]]], queries: FloatArray) -> dict[str, list[float]]:
    """Seconds of every query, in rounds that take turns; the first round warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in searches}
    for round in range(ROUNDS + 1):
        for name, search in searches.items():
            for query in queries:
                start = time.perf_counter()
                search(query)
                if round:
                    seconds[name].append(time.perf_counter() - start)
    return seconds
