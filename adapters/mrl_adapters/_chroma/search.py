"""The coarse stage, and exact scoring of given rows.

Chroma's search goes over the graph even among given ids: it may miss some, and where few match it walks through all of
the graph to find them. So whoever asks for a filter has the ids that match looked up first: a few are read and scored
here, and of many it is known how many have to come back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mrl_retrieval.filters import Filter
from mrl_retrieval.matryoshka import FloatArray
from mrl_retrieval.scoring import cosine_scores, top_k
from mrl_retrieval.two_stage import Candidates

from .collections import Pair
from .rows import IDS_PER_CALL, RowStore, parts

__all__ = ["Searcher"]

_SMALL = 1000
"""Rows up to which a collection is searched exactly."""
_FEW = 500
"""Matching rows up to which reading and scoring them takes less than the graph does."""
_WIDTH = 400
"""Chroma searches as widely as ``ef_search``, or as the results it is asked for. Narrower than this, it misses."""

_IDS_PER_QUERY = 50_000
"""A server takes requests of up to 40 MB."""

_Fetch = Callable[[list[str]], tuple[list[str], FloatArray]]


class _Size:
    """What is known of how many rows there are, for as long as none go."""

    is_large = False
    """More than are searched exactly."""


class Searcher:
    """Searches rows. Takes no lock and lets Chroma's errors through: both are the backend's."""

    def __init__(self, pair: Callable[[], Pair], rows: RowStore) -> None:
        self._pair = pair
        self._rows = rows
        self._size = _Size()

    def forget(self) -> None:
        """Rows were, or may have been, removed: look anew how many there are."""
        self._size = _Size()

    def coarse(self, queries: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        """The best ``limit`` prefixes, by the graph; ``min(limit, matching)`` of them."""
        if filter is not None:
            return self._among(queries, limit, self._rows.coarse_ids(filter))
        if limit > _SMALL:
            limit = min(limit, max(1, int(self._pair().coarse.count())))  # Chroma takes no more than 32 bits
        size = self._size  # of this moment: what is seen of rows that go meanwhile is of no use later
        asked = self._width(limit) if size.is_large else max(limit, _SMALL)
        found, shortest = self._query(queries, asked, limit)
        size.is_large = shortest == asked
        if shortest < asked:
            # Either there are no more, or the graph has parts that cannot be reached (many equal vectors).
            ids = self._rows.coarse_ids(None)
            if shortest < len(ids):
                return self._score(queries, limit, ids, self._rows.coarse_vectors)
        return found

    def _among(self, queries: FloatArray, limit: int, ids: list[str]) -> list[Candidates]:
        best = _nothing(queries)
        for part in parts(ids, _IDS_PER_QUERY):
            found, asked, shortest = best, min(self._width(limit), len(part)), 0
            if len(part) > _FEW:
                found, shortest = self._query(queries, asked, limit, ids=part)
            if shortest < asked:
                found = self._score(queries, limit, part, self._rows.coarse_vectors)
            best = [_better(a, b, limit) for a, b in zip(best, found, strict=True)]
        return best

    def exact(self, queries: FloatArray, limit: int, filter: Filter | None) -> list[Candidates]:
        """The best ``limit`` full vectors, all of them scored."""
        return self._score(queries, limit, self._rows.coarse_ids(filter), self._full_vectors)

    def _full_vectors(self, ids: list[str]) -> tuple[list[str], FloatArray]:
        matrix, found = self._rows.full_vectors(ids)
        return [id for id, there in zip(ids, found, strict=True) if there], matrix[found]

    def _width(self, limit: int) -> int:
        """How many results to ask for, so that ``limit`` of them are good."""
        wanted = max(_WIDTH, min(2 * limit, _SMALL))
        return limit if self._pair().ef_search >= wanted else max(limit, wanted)

    def _query(self, queries: FloatArray, asked: int, limit: int, **among: Any) -> tuple[list[Candidates], int]:
        """The best ``limit`` of ``asked`` results for each query, and how many results came for the worst of them."""
        answer = self._pair().coarse.query(query_embeddings=queries, n_results=asked, include=["distances"], **among)
        found = []
        for ids, distances in zip(answer["ids"], answer["distances"], strict=True):
            scores = np.float32(1) - np.asarray(distances, dtype=np.float32)
            found.append(Candidates(*top_k(scores, ids, limit)))
        return found, min(map(len, answer["ids"]))

    def _score(self, queries: FloatArray, limit: int, ids: list[str], fetch: _Fetch) -> list[Candidates]:
        """The true best among ``ids``: read their vectors and score them here."""
        best = _nothing(queries)
        for part in parts(ids, IDS_PER_CALL // 2):
            found, matrix = fetch(part)
            if found:
                new = [Candidates(*top_k(cosine_scores(query, matrix), found, limit)) for query in queries]
                best = [_better(a, b, limit) for a, b in zip(best, new, strict=True)]
        return best


def _nothing(queries: FloatArray) -> list[Candidates]:
    return [Candidates([], np.empty(0, dtype=np.float32)) for _ in queries]


def _better(a: Candidates, b: Candidates, limit: int) -> Candidates:
    """The best of two lists of candidates that have no id in common."""
    return Candidates(*top_k(np.concatenate([a.scores, b.scores]), a.ids + b.ids, limit))
