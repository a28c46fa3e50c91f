"""What two stages keep: recall@10 against exact search, and nDCG@10, for every backend on real, judged sets.

Every backend gets the same vectors (wordllama, 256 dims), searches 64 of them, and reranks 200 candidates. The
last columns ask for as many candidates as there are documents: then all backends must return the same hits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.datasets import Dataset, load
from benchmarks.report import table
from mrl_retrieval import MatryoshkaRetriever, SearchResult, load_encoder
from mrl_retrieval.matryoshka import FloatArray, normalize
from mrl_retrieval.metrics import ndcg_at_k, recall_at_k
from mrl_retrieval.scoring import exact_search
from tests.postgres_server import PASSWORD, USER, run_postgres

SETS = ("scifact", "quora", "tatqa")
BACKENDS = ("memory", "faiss", "chroma", "qdrant", "qdrant-edge", "pgvector", "milvus", "lancedb")
COARSE, CANDIDATES, K = 64, 200, 10
MAX_QUERIES = 500
AGREEMENT_QUERIES = 25

HEAD = [
    "set", "backend", "docs", "queries", "recall@10", "nDCG@10", "exact nDCG", "coarse nDCG", "index docs/s",
    "ms/query", "same hits at N", "max score diff",
]  # fmt: skip


def run() -> str:
    """Measure, print as it goes, return the table."""
    rows: list[list[object]] = []
    for name in SETS:
        data = load(name, MAX_QUERIES)
        encoder = load_encoder("wordllama")
        documents = normalize(encoder.encode_document(data.documents))
        queries = normalize(encoder.encode_query(data.queries))
        measured = _Truth(data, documents, queries)
        for backend in BACKENDS:
            with _place(backend) as (address, options):
                row = _measure(address, options, data, documents, queries, measured)
            print("  ".join(map(str, row)), flush=True)
            rows.append(row)
    return table(HEAD, rows)


@contextmanager
def _place(backend: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A fresh address and its options; a server where the database is one."""
    with ExitStack() as stack:
        if backend == "pgvector":
            server = stack.enter_context(run_postgres())
            yield f"pgvector+{server.url}", {"user": USER, "password": PASSWORD}
        elif backend == "memory":
            yield "memory:", {}
        else:
            yield f"{backend}:{stack.enter_context(TemporaryDirectory())}/kb", {}


class _Truth:
    """Exact answers over the vectors as they were made, in float64, at full length and at the coarse one."""

    def __init__(self, data: Dataset, documents: FloatArray, queries: FloatArray) -> None:
        full = exact_search(queries, documents, data.ids, K)
        coarse = exact_search(queries, documents, data.ids, K, dim=COARSE)
        self.top = [ids for ids, _ in full]
        self.all_scores = exact_search(queries[:AGREEMENT_QUERIES], documents, data.ids, K + 1)
        self.ndcg = _mean([ndcg_at_k(ids, gains, K) for (ids, _), gains in zip(full, data.gains, strict=True)])
        self.coarse_ndcg = _mean([ndcg_at_k(ids, gains, K) for (ids, _), gains in zip(coarse, data.gains, strict=True)])


def _measure(
    address: str,
    options: dict[str, Any],
    data: Dataset,
    documents: FloatArray,
    queries: FloatArray,
    truth: _Truth,
) -> list[object]:
    with MatryoshkaRetriever(None, address, coarse_dims=COARSE, backend_options=options) as retriever:
        start = time.perf_counter()
        retriever.index(data.documents, data.ids, vectors=documents, batch_size=1000)
        rate = len(data.ids) / (time.perf_counter() - start)
        retriever.search_by_vector(queries[0], K, coarse_top_k=CANDIDATES)
        start = time.perf_counter()
        results = [retriever.search_by_vector(query, K, coarse_top_k=CANDIDATES) for query in queries]
        per_query = (time.perf_counter() - start) / len(queries) * 1e3
        everything = [
            retriever.search_by_vector(query, K, coarse_top_k=len(data.ids)) for query in queries[:AGREEMENT_QUERIES]
        ]
    same, worst = _agreement(everything, truth.all_scores)
    return [
        data.name,
        address.partition(":")[0].partition("+")[0],
        len(data.ids),
        len(queries),
        _mean([recall_at_k(r.ids, top, K) for r, top in zip(results, truth.top, strict=True)]),
        _mean([ndcg_at_k(r.ids, gains, K) for r, gains in zip(results, data.gains, strict=True)]),
        truth.ndcg,
        truth.coarse_ndcg,
        round(rate),
        round(per_query, 2),
        f"{same}/{len(everything)}",
        worst,
    ]


def _agreement(results: list[SearchResult], truth: list[tuple[list[str], Any]]) -> tuple[int, float]:
    """How many results are the true ones, hits that tie within 1e-3 apart; and the largest difference of a score."""
    same, worst = 0, 0.0
    for result, (ids, scores) in zip(results, truth, strict=True):
        found = np.array([hit.score for hit in result])
        worst = max(worst, float(np.abs(found - scores[: len(found)]).max()))
        clear = {id for id, score in zip(ids[:K], scores, strict=False) if score > scores[min(K, len(ids) - 1)] + 1e-3}
        same += clear <= set(result.ids) and len(result) == min(K, len(ids))
    return same, worst


def _mean(values: list[float]) -> float:
    return float(np.mean(values))
