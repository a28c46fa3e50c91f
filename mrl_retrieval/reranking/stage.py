"""The reranker as a stage of a search: how many hits it is given, and how its scores order them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..documents import Hit, SearchResult, check_query
from ..errors import InvalidInput
from ..searching import PreparedSearch, SearchOptions
from ..settings import NOT_GIVEN, NotGiven, check_positive
from ..tracing import StageTrace, Trace
from ..two_stage import Stage
from .reranker import Reranker, as_reranker

__all__ = ["DEFAULT_RERANK_TOP_K", "RERANKING", "Reranking", "made_reranking", "reordered"]

DEFAULT_RERANK_TOP_K = 50

RERANKING = frozenset({"reranker", "rerank_top_k", "text"})
"""Options of a search that belong to this stage."""

Prepare = Callable[[int | NotGiven, SearchOptions], PreparedSearch | None]


class Reranking:
    """One search call's reranking: which model, and how deep.

    Args:
        reranker: None: this call goes without.
        cap: hits that it reads at most; None: 50, or the candidates where they are fewer.
        texts: of the queries, where they are vectors; None: not given.
    """

    def __init__(self, reranker: Reranker | None, cap: int | None, texts: list[str] | None = None) -> None:
        self.reranker = reranker
        self.cap = DEFAULT_RERANK_TOP_K if cap is None else cap
        self._is_given = cap is not None
        self.k = 0
        self.texts = texts

    @classmethod
    def of(cls, made: Reranking | None, options: Any) -> Reranking | None:
        """What a call asks for, taken out of its options, over what the constructor was given.

        Raises:
            InvalidInput: it cannot be used.
        """
        given, cap = options.pop("reranker", NOT_GIVEN), options.pop("rerank_top_k", NOT_GIVEN)
        text = options.pop("text", None)
        if given is None:
            return None
        default = None if made is None else made.reranker
        reranker = default if given is NOT_GIVEN else as_reranker(given)
        if reranker is None:
            if cap is not NOT_GIVEN or text is not None:
                named = "rerank_top_k" if cap is not NOT_GIVEN else "text"
                raise InvalidInput(f"{named}= is for a reranker, but there is none: pass reranker=, or leave it out")
            return None
        usual = made.cap if made is not None and made._is_given else None
        depth = usual if cap is NOT_GIVEN else check_positive(cap, "rerank_top_k")
        texts = None if text is None else [text] if isinstance(text, str) else list(text)
        return cls(reranker, depth, None if texts is None else [check_query(t, i) for i, t in enumerate(texts)])

    def prepared(self, prepare: Prepare, top_k: int | NotGiven, options: SearchOptions) -> PreparedSearch | None:
        """The search that gives this stage its hits: as many as it reads, or as are asked for, if that is more.

        Raises:
            InvalidInput: ``rerank_top_k`` was given and is beyond the candidates.
        """
        search = prepare(top_k, options)
        if search is None:
            return None
        self.k = search.stages[-1].limit
        candidates = search.stages[-2].limit if len(search.stages) > 1 else None
        if not self._is_given and candidates is not None:
            self.cap = min(self.cap, candidates)
        wide = max(self.k, self.cap)
        if candidates is not None and wide > candidates:
            try:  # where nobody fixed their number, more are taken
                return prepare(wide, options)
            except InvalidInput as error:
                raise InvalidInput(f"rerank_top_k={self.cap} asks for as many hits to read, but {error}") from error
        last = Stage(search.stages[-1].dims, wide)
        return replace(search, stages=(*search.stages[:-1], last))

    def texts_of(self, queries: int) -> list[str]:
        """The texts of queries that are vectors.

        Raises:
            InvalidInput: they were not given, or not one for each.
        """
        if self.texts is None or len(self.texts) != queries:
            given = "none was given" if self.texts is None else f"{len(self.texts)} were given"
            raise InvalidInput(
                f"the reranker reads texts, and {queries} queries are vectors: {given}; pass text= with one for each, "
                "or reranker=None"
            )
        return self.texts

    def applied(
        self, results: Sequence[SearchResult], texts: Sequence[str], k: int | None = None
    ) -> list[SearchResult]:
        """The hits in the order of the reranker, the first ``k`` of each query (None: as many as were asked for).

        Raises:
            RerankerError: it failed.
        """
        assert self.reranker is not None
        began = time.perf_counter()
        heads = [[hit for hit in result.hits[: self.cap] if hit.document is not None] for result in results]
        scores = self.reranker.scores(texts, [[hit.document or "" for hit in head] for head in heads])
        ordered = []
        for result, head, each in zip(results, heads, scores, strict=True):
            ordered.append(reordered(result.hits, dict(zip([h.id for h in head], each.tolist(), strict=True))))
        seconds = time.perf_counter() - began
        limit = self.k if k is None else k
        return [_result(result, hits, limit, seconds) for result, hits in zip(results, ordered, strict=True)]


def reordered(hits: Sequence[Hit], scores: dict[str, float]) -> list[Hit]:
    """Those that have a score by it, then by the cosine, then by id; after them the others, in the order they had."""
    read = [replace(hit, rerank_score=scores[hit.id]) for hit in hits if hit.id in scores]
    read.sort(key=lambda hit: (-scores[hit.id], -hit.score, hit.id))
    return read + [hit for hit in hits if hit.id not in scores]


def _result(found: SearchResult, hits: list[Hit], k: int, seconds: float) -> SearchResult:
    kept = hits[:k]
    if found.trace is None:
        return SearchResult(tuple(kept))
    read = [hit.rerank_score for hit in hits if hit.rerank_score is not None]
    out = sum(hit.rerank_score is not None for hit in kept)
    last = read[out - 1] if out else None
    margin = last - read[out] if last is not None and out < len(read) else None
    stage = StageTrace("reranker", None, len(read), out, seconds, 0, last, margin)
    trace = Trace((*found.trace.stages, stage), found.trace.queries)
    kept = [replace(hit, ranks=(*(hit.ranks or ()), place)) for place, hit in enumerate(kept, start=1)]
    return SearchResult(tuple(kept), None, trace)


def made_reranking(reranker: Any, cap: Any) -> Reranking | None:
    """What the constructor of a retriever was given; None: no reranker.

    Raises:
        InvalidInput: it cannot be used, or there is a cap without a reranker.
    """
    options = {} if cap is None else {"rerank_top_k": cap}
    return Reranking.of(None, options | ({} if reranker is None else {"reranker": reranker}))
