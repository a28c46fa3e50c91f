"""A collection is made at dims that its encoder's model was trained for, or it is said that it is not."""

import logging

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever, as_encoder
from mrl_retrieval.encoders import models
from mrl_retrieval.errors import TruncationError

DIM = 384


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    monkeypatch.setattr(models, "_warned", set())


def encoder(name):
    return as_encoder(lambda texts: np.random.default_rng(len(texts[0])).normal(size=(len(texts), DIM)), name=name)


def made(name, caplog, **options):
    caplog.clear()
    with caplog.at_level(logging.WARNING), MatryoshkaRetriever(encoder(name), "memory:", **options) as retriever:
        retriever.index(["a text"], ["a"])
        retriever.index(["another text"], ["b"])
    return [record.message for record in caplog.records]


def test_a_model_that_was_not_trained_for_it(caplog):
    (said,) = made("sentence-transformers/all-MiniLM-L6-v2", caplog, coarse_dims=64)
    assert "cut to 64 of 384 dims: it was not trained" in said and "mrl diagnose" in said
    assert made("all-MiniLM-L6-v2", caplog, coarse_dims=64) == []  # once
    with pytest.raises(TruncationError, match="not trained"):
        made("all-MiniLM-L6-v2", caplog, coarse_dims=64, strict=True)
    assert made("all-MiniLM-L6-v2", caplog, coarse_dims=DIM, strict=True) == []


def test_off_the_ladder_in_the_middle_of_a_funnel_and_unknown(caplog):
    (said,) = made("mixedbread-ai/mxbai-embed-xsmall-v1", caplog, coarse_dims=96)
    assert "at which lengths it was trained is not known" in said
    assert len(made("nobody/knows-this", caplog, stages=[(64, 50), (128, 20)])) == 2
    with pytest.raises(TruncationError, match="is not known"):
        made("nobody/knows-this", caplog, strict=True)


def test_nothing_is_made_where_it_is_refused():
    retriever = MatryoshkaRetriever(encoder("all-MiniLM-L6-v2"), "memory:strict", coarse_dims=64, strict=True)
    with pytest.raises(TruncationError):
        retriever.index(["a text"], ["a"])
    assert retriever.manifest is None and retriever.count() == 0


def test_ladders_and_vectors_without_a_model_are_silent(caplog):
    with caplog.at_level(logging.WARNING):
        for name, dims in (("wordllama", 64), ("hashing:96", 17)):
            with MatryoshkaRetriever(name, "memory:", coarse_dims=dims, strict=True) as retriever:
                retriever.index(["a text"], ["a"])
        with MatryoshkaRetriever(None, "memory:", coarse_dims=2, strict=True) as retriever:
            retriever.index(["a text"], ["a"], vectors=[[1, 2, 3]])
    assert not caplog.records
