"""Rows, requests and answers for the tests of this folder."""

import numpy as np

from mrl_retrieval.documents import RowBatch
from mrl_retrieval.filters import parse_filter
from mrl_retrieval.two_stage import SearchRequest, Stage
from tests.backends.common import COARSE, DIM, queries


def vectors_of(n, seed=0, dim=DIM):
    return queries(n, seed=seed, dim=dim)


def rows(ids, vectors=None, bare=(), metadatas=None):
    ids = list(ids)
    vectors = vectors_of(len(ids)) if vectors is None else vectors.copy()
    has_vector = np.array([id not in bare for id in ids], dtype=np.bool_)
    vectors[~has_vector] = 0
    return RowBatch(
        ids, [f"text of {id}" for id in ids], metadatas or [{"n": i} for i in range(len(ids))], vectors, has_vector
    )


def two_stages(queries, k=5, candidates=50, filter=None, explain=False, coarse=COARSE, dim=DIM):
    return SearchRequest(queries, (Stage(coarse, candidates), Stage(dim, k)), parse_filter(filter), explain)


def exact(queries, k=5, filter=None, dim=DIM):
    return SearchRequest(queries, (Stage(dim, k),), parse_filter(filter))


def ids_of(rankings):
    return [[row.id for row in ranking.rows] for ranking in rankings]


def folder(backend):
    return backend.address.folder / backend.address.collection
