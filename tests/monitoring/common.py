"""Collections whose searches lose something, since their prefixes say little."""

import numpy as np

from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.matryoshka import normalize


def vectors(count, dim=32, seed=0):
    return normalize(np.random.default_rng(seed).standard_normal((count, dim)))


def collection(backend, count=1000, dim=32, **settings):
    """``count`` random vectors with ids from 0, of which the coarse stage knows 8 dims."""
    retriever = MatryoshkaRetriever(None, backend, dim=dim, coarse_dims=8, **settings)
    rows = range(count)
    retriever.index(
        [f"text {i}" for i in rows], rows, [{"n": i, "even": i % 2 == 0} for i in rows], vectors(count, dim)
    )
    return retriever
