"""A retriever with fifty texts, in memory."""

import pytest

from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.encoders.hashing import HashingEncoder
from tests.retriever.common import TEXTS


@pytest.fixture
def retriever() -> MatryoshkaRetriever:
    made = MatryoshkaRetriever(encoder=HashingEncoder(64), coarse_dims=16)
    made.index(TEXTS, range(50), [{"i": i} for i in range(50)])
    return made
