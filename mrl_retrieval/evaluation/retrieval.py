"""Semantic search by dimension: prefixes alone, and two stages, against judgements and against exact search.

Ties are broken as trec_eval does: equal scores (in float32) by document id, descending.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from ..matryoshka import FloatArray
from ..metrics import coverage, judged_recall_at_k, ndcg_at_k, reciprocal_rank
from ..scoring import IndexArray, nearest_places
from .bootstrap import Draws
from .measured import Drawn, Measured, mean_of
from .tasks import SearchTask
from .texts import Form, TextVectors

__all__ = ["Corpus", "main_metric"]


class Corpus:
    """A search task with its vectors; documents by id descending, so that equal scores in the order of places are in
    trec_eval's order."""

    def __init__(self, task: SearchTask, vectors: TextVectors) -> None:
        self._task, judged = task, task.judged
        places = [place for place, text in enumerate(task.documents) if text.strip()]
        places.sort(key=task.ids.__getitem__, reverse=True)
        self._ids = [task.ids[place] for place in places]
        self.documents = vectors.of([task.documents[place] for place in places])
        self.queries = vectors.of([task.queries[place] for place in judged], queries=True)
        self._gains: list[Mapping[str, float]] = [task.judgements[task.query_ids[place]] for place in judged]

    @property
    def counts(self) -> dict[str, int]:
        """What the task is made of."""
        return {
            "documents": len(self._task.ids),
            "documents_without_text": len(self._task.ids) - len(self._ids),
            "queries": len(self._gains),
            "queries_left_out": len(self._task.query_ids) - len(self._gains),
        }

    def measure(self, forms: Sequence[Form], k: int, candidates: int) -> list[Measured]:
        """Every form by itself, and those shorter than the whole in two stages."""
        draws = Draws(len(self._gains))
        (*short, full) = forms
        began = time.perf_counter()
        exact = list(nearest_places(self.queries, self.documents, max(k, candidates)))
        exact_ms = self._milliseconds(began)
        truth = [self._named(places)[:k] for places in exact]
        found: list[Measured] = []
        for form in short:
            queries, documents = form.of(self.queries), form.of(self.documents)
            began = time.perf_counter()
            near = list(nearest_places(queries, documents, max(k, candidates)))
            coarse_ms = self._milliseconds(began)
            began = time.perf_counter()
            best = [
                self._reranked(query, places[:candidates]) for query, places in zip(self.queries, near, strict=True)
            ]
            rerank_ms = self._milliseconds(began)
            covered = mean_of(
                np.array([coverage(self._named(n[:candidates]), t, k) for n, t in zip(near, truth, strict=True)]), draws
            )
            alone, both = (self._metrics(ranked, covered, k, candidates, draws) for ranked in (near, best))
            found.append(Measured(form, alone, search_ms=coarse_ms))
            found.append(Measured(form, both, two_stages=True, search_ms=coarse_ms + rerank_ms))
        whole = mean_of(np.ones(len(exact)), draws)
        return [*found, Measured(full, self._metrics(exact, whole, k, candidates, draws), search_ms=exact_ms)]

    def _metrics(
        self, ranked: Sequence[IndexArray], covered: Drawn, k: int, candidates: int, draws: Draws
    ) -> dict[str, Drawn]:
        named = [self._named(places) for places in ranked]
        pairs = list(zip(named, self._gains, strict=True))
        values = {
            main_metric(k): [ndcg_at_k(found, gains, k) for found, gains in pairs],
            f"recall@{k}": [judged_recall_at_k(found, gains, k) for found, gains in pairs],
            f"recall@{candidates}": [judged_recall_at_k(found, gains, candidates) for found, gains in pairs],
            f"mrr@{k}": [reciprocal_rank(found, gains, k) for found, gains in pairs],
        }
        return {**{name: mean_of(np.array(each), draws) for name, each in values.items()}, "coverage": covered}

    def _reranked(self, query: FloatArray, places: IndexArray) -> IndexArray:
        near = np.sort(places)
        return near[np.argsort(-(self.documents[near] @ query), kind="stable")]

    def _named(self, places: IndexArray) -> list[str]:
        return [self._ids[place] for place in places.tolist()]

    def _milliseconds(self, began: float) -> float:
        return 1000 * (time.perf_counter() - began) / len(self.queries)


def main_metric(k: int) -> str:
    """The metric to look at first."""
    return f"ndcg@{k}"
