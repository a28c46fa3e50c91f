"""The measurements of ``mrl demo``: quality against exact search and against judgements, and the time of each stage."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from mrl_retrieval.encoder import encode_checked
from mrl_retrieval.matryoshka import FloatArray, prefix
from mrl_retrieval.metrics import coverage, ndcg_at_k, recall_at_k
from mrl_retrieval.retriever import MatryoshkaRetriever
from mrl_retrieval.two_stage import Trace

from .demo_data import DemoData

__all__ = [
    "CANDIDATES",
    "LADDER",
    "K",
    "Quality",
    "RankingQuality",
    "Timing",
    "measure_quality",
    "measure_times",
    "timed_index",
]

K = 10
CANDIDATES = 200
LADDER = (50, 100, CANDIDATES, 400, 800)
"""Numbers of candidates whose coverage is shown."""


@dataclass(frozen=True, slots=True)
class RankingQuality:
    """Means over the questions, each in 0..1."""

    recall: float
    """Recall@10 against exact search."""
    ndcg: float
    """nDCG@10 against the judgements."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What the coarse stage alone, both stages, and exact search find."""

    rankings: tuple[RankingQuality, RankingQuality, RankingQuality]
    """Coarse stage alone, two stages, exact."""
    coverage: tuple[float, ...]
    """Share of the exact top 10 among the candidates, for each number in :data:`LADDER`."""
    vectors: FloatArray
    """The questions' full embeddings, ``(Q, D)``."""
    encoding_seconds: float
    """Per question, encoded one at a time as a search does."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one query."""

    name: str
    dims: int | None
    median: float
    p95: float


def timed_index(retriever: MatryoshkaRetriever, data: DemoData) -> tuple[float, float]:
    """Index everything; seconds in all, and seconds of it in the encoder."""
    encoder = retriever.encoder
    assert encoder is not None
    encode_checked(encoder, data.texts[:1], queries=False)  # the first call of a model sets it up
    began = time.perf_counter()
    vectors = np.concatenate(
        [encode_checked(encoder, data.texts[i : i + 256], queries=False) for i in range(0, len(data.texts), 256)]
    )
    encoding = time.perf_counter() - began
    retriever.index(data.texts, ids=data.ids, vectors=vectors)
    return time.perf_counter() - began, encoding


def measure_quality(retriever: MatryoshkaRetriever, data: DemoData, asked: Sequence[str]) -> Quality:
    """Ask every question in three ways."""
    encoder, manifest = retriever.encoder, retriever.manifest
    assert encoder is not None
    assert manifest is not None
    began = time.perf_counter()
    vectors = np.concatenate([encode_checked(encoder, [data.questions[id]], queries=True) for id in asked])
    encoding = (time.perf_counter() - began) / len(asked)

    short = prefix(vectors, manifest.coarse_dims)
    candidates = [found.ids for found in retriever.backend.coarse_search(short, max(LADDER), None)]
    two_stages = [found.ids for found in retriever.search_batch_by_vector(vectors)]
    exact = [found.ids for found in retriever.search_batch_by_vector(vectors, exact=True)]

    def quality(rankings: Sequence[Sequence[str]]) -> RankingQuality:
        recall = fmean(recall_at_k(found, truth, K) for found, truth in zip(rankings, exact, strict=True))
        ndcg = fmean(ndcg_at_k(found, data.judged[id], K) for found, id in zip(rankings, asked, strict=True))
        return RankingQuality(recall, ndcg)

    return Quality(
        rankings=(quality(candidates), quality(two_stages), quality(exact)),
        coverage=tuple(
            fmean(coverage(found[:count], truth, K) for found, truth in zip(candidates, exact, strict=True))
            for count in LADDER
        ),
        vectors=vectors,
        encoding_seconds=encoding,
    )


def measure_times(retriever: MatryoshkaRetriever, vectors: FloatArray) -> list[Timing]:
    """One query at a time: every stage, both stages with the rows of the hits, and exact search."""
    retriever.search_by_vector(vectors[0])
    stages: dict[tuple[str, int | None], list[float]] = {}
    both: list[float] = []
    for vector in vectors:
        began = time.perf_counter()
        retriever.search_by_vector(vector)
        both.append(time.perf_counter() - began)
        trace: Any = retriever.search_by_vector(vector, explain=True).trace
        if isinstance(trace, Trace):
            for stage in trace.stages:
                stages.setdefault((stage.name, stage.dims), []).append(stage.seconds)
    scans: list[float] = []
    for vector in vectors[:: max(1, len(vectors) // 50)]:  # a scan may be slow: fifty tell enough
        began = time.perf_counter()
        retriever.search_by_vector(vector, exact=True)
        scans.append(time.perf_counter() - began)
    return [
        *(_timing(f"stage: {name}", dims, seconds) for (name, dims), seconds in stages.items()),
        _timing("both stages, with the documents of the hits", None, both),
        _timing("exact, every vector", None, scans),
    ]


def _timing(name: str, dims: int | None, seconds: list[float]) -> Timing:
    return Timing(name, dims, float(np.median(seconds)), float(np.quantile(seconds, 0.95)))
