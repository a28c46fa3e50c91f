"""The frontier, held to rankings of every document by every prefix."""

from __future__ import annotations

import numpy as np
import pytest

from mrl_retrieval.matryoshka import prefix
from mrl_retrieval.planning import frontier as module
from mrl_retrieval.planning.frontier import frontier
from mrl_retrieval.planning.samples import QuerySample
from mrl_retrieval.planning.truth import true_neighbours
from mrl_retrieval.rotation import Rotation
from mrl_retrieval.rotation_fitting import fit_rotation
from mrl_retrieval.rotations import load

from .corpus import COARSE, collection, made

K, COUNT = 5, 1500


def orders(queries, documents, dims):
    return np.argsort(-(prefix(queries, dims) @ prefix(documents, dims).T), axis=1, kind="stable")


def naive(queries, documents, dims, candidates, longer=None):
    true, short = orders(queries, documents, documents.shape[1])[:, :K], orders(queries, documents, dims)
    found = []
    for q in range(len(queries)):
        kept = short[q, :candidates]
        if longer is not None:
            scores = prefix(documents[kept], longer) @ prefix(queries[q : q + 1], longer)[0]
            kept = kept[np.argsort(-scores, kind="stable")][: candidates // 4]
        found.append(np.isin(true[q], kept).mean())
    return float(np.mean(found))


def test_every_cell_is_what_ranking_everything_gives() -> None:
    documents, sample = made(COUNT, 1), QuerySample(made(100, 4), "given")
    with collection("memory:", COUNT) as kb:
        rows = frontier(kb.backend, sample, true_neighbours(kb.backend, sample, K), K, None)
    axes = fit_rotation(None, documents, method="axes")
    names = {row.name for row in rows}
    assert {"12", "12, 24", "16", "32", "12 rotated", "16 rotated", "32 rotated"} == names
    for row in rows:
        turn = axes.apply if row.rotated else (lambda vectors: vectors)
        for candidates, share in row.coverage:
            expected = naive(turn(sample.vectors), turn(documents), row.dims, candidates, row.longer)
            assert share == pytest.approx(expected, abs=0.003), (row.name, candidates)
        shares = [share for _, share in row.coverage]
        assert shares == sorted(shares) and row.own == (row.dims == COARSE and not row.rotated)
        assert row.needed(2) is None and row.needed(shares[0]) == row.coverage[0][0]


def test_a_sample_of_the_documents_comes_near(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = QuerySample(made(200, 4), "given")
    with collection("memory:", 6000) as kb:
        truth = true_neighbours(kb.backend, sample, K)
        whole = frontier(kb.backend, sample, truth, K, None)
        monkeypatch.setattr(module, "_DOCUMENTS", 1500)
        part = frontier(kb.backend, sample, truth, K, None)
    for one, other in zip(whole, part, strict=True):
        for (candidates, exact), (_, near) in zip(one.coverage, other.coverage, strict=True):
            if candidates >= 200:
                assert near == pytest.approx(exact, abs=0.04), (one.name, candidates)


def test_a_rotated_collection_is_measured_both_ways() -> None:
    documents, queries = made(COUNT, 1), made(100, 4)
    rotation = Rotation(np.eye(48, dtype="f4")[::-1].copy(), np.full(48, 1 / 48), COUNT)
    with collection("memory:", COUNT, rotation=rotation) as kb:
        turned = load(kb.backend, kb.info().manifest)
        sample = QuerySample(turned.apply(queries), "given")
        rows = frontier(kb.backend, sample, true_neighbours(kb.backend, sample, K), K, turned)
    for row in rows:
        turn = rotation.apply if row.rotated else (lambda vectors: vectors)
        candidates, share = row.coverage[2]
        expected = naive(turn(queries), turn(documents), row.dims, candidates, row.longer)
        assert share == pytest.approx(expected, abs=0.003), row.name
        assert row.own == (row.rotated and row.dims == COARSE)
