"""Encoding a corpus once, and measuring every prefix length on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..encoder import Encoder, as_encoder, encode_checked
from ..errors import InvalidInput
from ..matryoshka import FloatArray, ladder, normalize, prefix
from ..metrics import ndcg_at_k
from ..progress import progress_report
from ..rotation import Rotation
from ..rotation_fitting import RotationFit, warn_of_few
from ..scoring import nearest_places
from ..settings import check_positive
from .report import DimsReport, TruncationReport

__all__ = ["diagnose", "diagnose_vectors"]

_PSEUDO_QUERIES = 200
_LEAST_DOCUMENTS = 20

Judgements = Sequence[Mapping[str, float]]
"""For each query the gains of documents, by their ids."""


def diagnose(
    encoder: Any,
    documents: Sequence[str],
    *,
    queries: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    judgements: Judgements | None = None,
    dims: Sequence[int] | None = None,
    k: int = 10,
    candidates: int = 100,
    batch_size: int = 256,
    progress: bool | Callable[[int, int | None], None] = False,
) -> TruncationReport:
    """Encode a corpus once, and measure every prefix length on it, raw and rotated.

    Args:
        encoder: as :class:`~mrl_retrieval.MatryoshkaRetriever` takes it.
        documents: the corpus, or a sample of it; at least 20 texts. With fewer than ``candidates`` every coverage is 1.
        queries: None: 200 documents (a tenth of them, if they are fewer than 2,000), drawn evenly, stand for queries
            and are taken out of the corpus.
        ids: of the documents, where there are judgements.
        judgements: for each query the gains by document id, for nDCG.
        dims: prefix lengths; None: the powers of two from 32 up.
        k: true neighbours that count.
        candidates: what the coarse stage gives.
        batch_size: texts encoded at a time.
        progress: as :meth:`~mrl_retrieval.MatryoshkaRetriever.index` takes it.

    Raises:
        InvalidInput: too few documents, or lengths that do not fit.
        EncoderError: the encoder failed.
    """
    _check(documents, queries, ids, judgements, k, candidates)
    model = as_encoder(encoder)
    ladder(model.dim, dims)  # what is wrong with them is said before anything is encoded
    with progress_report(progress, range(len(documents) + len(queries or ()))) as report:
        corpus = _encoded(model, documents, batch_size, queries=False, report=report, done=0)
        asked = None
        if queries is not None:
            asked = _encoded(model, queries, batch_size, queries=True, report=report, done=len(documents))
    name = model.identity.name or model.identity.model or type(encoder).__name__
    found = diagnose_vectors(
        corpus, asked, name=name, ids=ids, judgements=judgements, dims=dims, k=k, candidates=candidates
    )
    warn_of_few(found.documents, found.dim)
    return found


def diagnose_vectors(
    documents: FloatArray,
    queries: FloatArray | None = None,
    *,
    name: str = "vectors",
    ids: Sequence[str] | None = None,
    judgements: Judgements | None = None,
    dims: Sequence[int] | None = None,
    k: int = 10,
    candidates: int = 100,
    rotation: Rotation | None = None,
) -> TruncationReport:
    """The same for vectors ``(N, D)`` and ``(Q, D)`` that are there already.

    Args:
        rotation: the one to measure; None: one that is fitted on the documents.
    """
    _check(documents, queries, ids, judgements, k, candidates)
    corpus, pseudo = normalize(documents), queries is None
    if queries is None:
        drawn = _drawn(len(corpus))
        asked, corpus = corpus[drawn], np.delete(corpus, drawn, axis=0)
    else:
        asked = normalize(queries)
    full = corpus.shape[1]
    lengths = ladder(full, dims)
    if rotation is None:
        fit = RotationFit(full, lengths)
        fit.add(corpus)
        rotation = fit.rotation()
    gains = None if judgements is None else _Gains(list(ids or ()), judgements, k)
    truth = [order[:k] for order in nearest_places(asked, corpus, k)]
    rows = [
        _row(length, turn, asked, corpus, truth, k, candidates, gains)
        for length in lengths
        for turn in ((None, rotation) if length < full else (None,))
    ]
    exact = None if gains is None else gains.mean(truth)
    return TruncationReport(name, full, len(corpus), len(asked), pseudo, k, candidates, exact, tuple(rows))


def _row(
    dims: int,
    rotation: Rotation | None,
    queries: FloatArray,
    documents: FloatArray,
    truth: Sequence[npt.NDArray[np.intp]],
    k: int,
    candidates: int,
    gains: _Gains | None,
) -> DimsReport:
    sides = (queries, documents) if rotation is None else (rotation.apply(queries), rotation.apply(documents))
    short = [prefix(side, dims) for side in sides]
    found = list(nearest_places(short[0], short[1], candidates))
    covered = np.array([np.isin(true, near).mean() for true, near in zip(truth, found, strict=True)])
    error = float(covered.std(ddof=1) / np.sqrt(len(covered))) if len(covered) > 1 else 0.0
    alone = both = None
    if gains is not None:
        alone = gains.mean([near[:k] for near in found])
        pairs = zip(queries, found, strict=True)
        both = gains.mean([near[np.argsort(-(documents[near] @ query), kind="stable")][:k] for query, near in pairs])
    return DimsReport(dims, rotation is not None, float(covered.mean()), error, alone, both, 2 * dims)


class _Gains:
    """Judgements by the documents' places."""

    def __init__(self, ids: list[str], judgements: Judgements, k: int) -> None:
        self._ids, self._judgements, self._k = ids, judgements, k

    def mean(self, found: Sequence[npt.NDArray[np.intp]]) -> float:
        """nDCG@k of rankings, over the queries that have a judgement."""
        values = [
            ndcg_at_k([self._ids[place] for place in places.tolist()], gains, self._k)
            for places, gains in zip(found, self._judgements, strict=True)
            if any(gain > 0 for gain in gains.values())
        ]
        return float(np.mean(values)) if values else 0.0


def _drawn(count: int) -> npt.NDArray[np.intp]:
    """Places of the documents that stand for queries: evenly from all of them."""
    wanted = max(min(_PSEUDO_QUERIES, count // 10), 1)
    return np.arange(wanted) * count // wanted


def _encoded(
    encoder: Encoder, texts: Sequence[str], size: int, *, queries: bool, report: Callable[[int], None], done: int
) -> FloatArray:
    parts = []
    for start in range(0, len(texts), size):
        parts.append(encode_checked(encoder, list(texts[start : start + size]), queries=queries))
        report(done + min(start + size, len(texts)))
    return np.concatenate(parts)


def _check(
    documents: Sequence[Any] | FloatArray,
    queries: Sequence[Any] | FloatArray | None,
    ids: Sequence[str] | None,
    judgements: Judgements | None,
    k: int,
    candidates: int,
) -> None:
    check_positive(k, "k")
    check_positive(candidates, "candidates")
    if candidates < k:
        raise InvalidInput(f"candidates={candidates} cannot hold the true top k={k}")
    if len(documents) < _LEAST_DOCUMENTS:
        raise InvalidInput(
            f"{len(documents)} documents tell nothing about truncation; give at least {_LEAST_DOCUMENTS}, better "
            "thousands"
        )
    if queries is not None and not len(queries):
        raise InvalidInput("there are no queries; leave them out to have documents stand for them")
    if judgements is None:
        return
    if queries is None or len(judgements) != len(queries):
        asked = "no" if queries is None else len(queries)
        raise InvalidInput(f"{len(judgements)} judgements were given for {asked} queries; give one for each")
    if ids is None or len(ids) != len(documents):
        named = "no" if ids is None else len(ids)
        raise InvalidInput(f"{named} ids were given for {len(documents)} documents; judgements need one for each")
