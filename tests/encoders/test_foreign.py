"""The conformance suite on foreign objects behind ``as_encoder``, and on an encoder that breaks the contract."""

import inspect

import numpy as np
import pytest

from mrl_retrieval import Encoder, EncoderCard, as_encoder
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.testing import EncoderConformance

_HASHING = HashingEncoder(64)


class LangChainLike:
    """LangChain's form of an embedding model: lists of floats."""

    def embed_documents(self, texts):
        return _HASHING.encode_document(texts).tolist()

    def embed_query(self, text):
        return self.embed_documents([text])[0]


class EncodeOnly:
    def encode(self, texts):
        return _HASHING.encode_document(texts).astype(np.float64) * 3


class BothTasks:
    max_tokens = 100

    def encode_document(self, texts):
        return _HASHING.encode_document(texts)

    def encode_query(self, texts):
        return -_HASHING.encode_document(texts)


@pytest.mark.parametrize(
    "make",
    [lambda: lambda texts: _HASHING.encode_document(texts), LangChainLike, EncodeOnly, BothTasks],
    ids=["callable", "langchain", "encode", "both"],
    scope="class",
)
class TestForeign(EncoderConformance):
    @pytest.fixture(scope="class")
    def encoder(self, make):
        return as_encoder(make(), name="mine")

    @pytest.fixture(scope="class")
    def another_encoder(self, make):
        return as_encoder(make(), name="mine")


# -- the suite sees what is wrong ---------------------------------------------------------------------------------------


class Broken(Encoder):
    """Right in every shape, wrong in one way at a time."""

    def __init__(self, fault):
        self.fault, self.dim, self.max_tokens = fault, 64, None
        self.identity = EncoderCard(dim=65 if fault == "card" else 64)
        self._last = None

    def encode_document(self, texts, **kwargs):
        if self.fault == "changes its input":
            texts.reverse()
            return _HASHING.encode_document(texts)[::-1]
        vectors = _HASHING.encode_document(texts)
        if self.fault == "batch" and len(texts) > 1:
            vectors += vectors.mean(axis=0)
        elif self.fault == "order":
            vectors = vectors[np.argsort([-len(text) for text in texts], kind="stable")]
        elif self.fault == "nan":
            with np.errstate(invalid="ignore"):
                vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        elif self.fault == "float64":
            vectors = vectors.astype(np.float64)
        elif self.fault == "constant":
            vectors[:] = 1
        elif self.fault == "random":
            vectors += np.random.default_rng().standard_normal(vectors.shape).astype(np.float32)
        return vectors

    def count_tokens(self, texts):
        counts = super().count_tokens(texts)
        return [min(n, 512) for n in counts] if self.fault == "cut count" else counts

    def token_spans(self, text):
        return [(0, len(text) + 1)] * self.count_tokens([text])[0] if self.fault == "spans" else None


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("card", "test_identity"),
        ("changes its input", "test_input_not_changed"),
        ("batch", "test_independent_of_the_batch"),
        ("order", "test_order_kept"),
        ("nan", "test_finite_for_any_text"),
        ("float64", "test_shape_and_dtype"),
        ("constant", "test_different_texts_differ"),
        ("random", "test_deterministic"),
        ("cut count", "test_count_tokens_is_not_cut"),
    ],
)
def test_faults_are_found(fault, check):
    def run(encoder):
        suite, method = EncoderConformance(), getattr(EncoderConformance, check)
        fixtures = {"encoder": encoder, "encode": encoder.encode_document}
        getattr(suite, check)(**{n: fixtures[n] for n in inspect.signature(method).parameters if n != "self"})

    run(Broken("none"))
    with pytest.raises(AssertionError):
        run(Broken(fault))


def test_wrong_spans_are_found():
    with pytest.raises(AssertionError):
        EncoderConformance().test_token_spans(Broken("spans"), "some text")
    EncoderConformance().test_token_spans(Broken("none"), "some text")
