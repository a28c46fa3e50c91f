"""What the tests of several encoders share."""

import pytest

from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.testing import EncoderConformance


class MadeTwice(EncoderConformance):
    """The suite for what a fixture ``make``, of the class or beyond, gives: a function that makes the encoder."""

    @pytest.fixture(scope="class")
    def encoder(self, make):
        return make()

    @pytest.fixture(scope="class")
    def another_encoder(self, make):
        return make()


def finds_by_meaning(encoder):
    """Whether a question finds its answer, which is in other words, among three documents."""
    with MatryoshkaRetriever(encoder=encoder, backend="memory:", coarse_dims=64) as retriever:
        retriever.index(["git revert undoes a commit", "a cake needs flour", "the cat sat on the mat"])
        return retriever.search("How do I undo a commit?", 1)[0].document == "git revert undoes a commit"
