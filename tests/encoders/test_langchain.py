"""LangChain's embedding models, as they are and behind a retriever."""

import logging

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever, as_encoder
from mrl_retrieval.encoder import CANARY_TEXTS
from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.encoders.langchain import LangChainEncoder, model_name
from mrl_retrieval.errors import EncoderError, InvalidInput, ModelMismatchError
from mrl_retrieval.testing import EncoderConformance

core = pytest.importorskip("langchain_core.embeddings", reason="needs langchain-core")


class WordLlamaEmbeddings(core.Embeddings):
    """A real model in LangChain's form; it notes the size of every call."""

    model = "wordllama-by-langchain"

    def __init__(self):
        pytest.importorskip("wordllama", reason="needs wordllama")
        from mrl_retrieval.encoders.wordllama import WordLlamaEncoder

        self._encoder, self.calls = WordLlamaEncoder(), []

    def embed_documents(self, texts):
        assert isinstance(texts, list)
        self.calls.append(len(texts))
        return self._encoder.encode_document(texts).tolist()

    def embed_query(self, text):
        assert isinstance(text, str)
        return self.embed_documents([text])[0]


class TestDeterministicFake(EncoderConformance):
    @pytest.fixture(scope="class")
    def encoder(self):
        return as_encoder(core.DeterministicFakeEmbedding(size=48))

    @pytest.fixture(scope="class")
    def another_encoder(self):
        return LangChainEncoder(core.DeterministicFakeEmbedding(size=48), batch_size=3, dim=48)


class TestWordLlama(EncoderConformance):
    @pytest.fixture(scope="class")
    def encoder(self):
        return as_encoder(WordLlamaEmbeddings())

    @pytest.fixture(scope="class")
    def another_encoder(self):
        return LangChainEncoder(WordLlamaEmbeddings(), batch_size=2)


def test_vectors_are_the_objects():
    fake = core.DeterministicFakeEmbedding(size=30)
    encoder = LangChainEncoder(fake, batch_size=3)
    texts = [*CANARY_TEXTS, ""]
    np.testing.assert_allclose(encoder.encode_document(texts), fake.embed_documents(texts), rtol=1e-6)
    np.testing.assert_allclose(encoder.encode_query(texts), [fake.embed_query(text) for text in texts], rtol=1e-6)


def test_batches():
    embeddings = WordLlamaEmbeddings()
    encoder = LangChainEncoder(embeddings, batch_size=4, dim=256)
    assert embeddings.calls == []  # its length was said: nothing is spent on finding out
    encoder.encode_document(["a"] * 10)
    assert embeddings.calls == [4, 4, 2]


def test_in_a_retriever(caplog):
    texts = ["git revert undoes a commit", "a cake needs flour", "the cat sat on the mat"]
    with MatryoshkaRetriever(encoder=WordLlamaEmbeddings(), backend="memory:langchain", coarse_dims=64) as retriever:
        retriever.index(texts)
        assert retriever.search("How do I undo a commit?", 1)[0].document == texts[0]
        card = retriever.manifest.encoder
        assert (card.name, card.model, card.dim) == (None, "wordllama-by-langchain", 256)
        with (
            MatryoshkaRetriever(encoder=WordLlamaEmbeddings(), backend="memory:langchain") as again,
            caplog.at_level(logging.WARNING),
        ):
            assert again.search("flour for baking", 1)[0].document == texts[1]
        other = WordLlamaEmbeddings()
        other.model = "another-model"
        with pytest.raises(ModelMismatchError, match="'another-model'.*'wordllama-by-langchain'"):
            MatryoshkaRetriever(encoder=other, backend="memory:langchain")
        # An unnamed object of the same length is found out by its vectors.
        fake = MatryoshkaRetriever(encoder=core.DeterministicFakeEmbedding(size=256), backend="memory:langchain")
        with pytest.raises(ModelMismatchError, match="canary"):
            fake.search("x")


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({"model": "text-embedding-3-small"}, "text-embedding-3-small"),
        ({"model": object(), "model_name": "BAAI/bge-small-en-v1.5"}, "BAAI/bge-small-en-v1.5"),
        ({"model_id": "amazon.titan-embed-text-v2:0"}, "amazon.titan-embed-text-v2:0"),
        ({"model": ""}, None),
        ({"model_name": "./folder"}, None),
        ({"model_name": "/models/mine"}, None),
        ({"model": "x" * 300}, "x" * 300),  # longer than a file's name may be
        ({}, None),
    ],
)
def test_names(attributes, name):
    embeddings = type("Some", (), {})()
    vars(embeddings).update(attributes)
    assert model_name(embeddings) == name


def test_a_folder_in_the_working_directory_is_no_name(tmp_path, monkeypatch):
    (tmp_path / "mymodel").mkdir()
    monkeypatch.chdir(tmp_path)
    embeddings = WordLlamaEmbeddings()
    embeddings.model = "mymodel"
    assert LangChainEncoder(embeddings).identity.model is None
    assert LangChainEncoder(embeddings, model="ours").identity.model == "ours"
    assert as_encoder(embeddings, name="ours").identity.model == "ours"


class Failing(core.Embeddings):
    def __init__(self, answer):
        self.answer = answer

    def embed_documents(self, texts):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def embed_query(self, text):
        return [1.0, 0.0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (RuntimeError("429 too many requests"), "Failing.embed_documents failed on 2 texts: .*429"),
        ([[1.0, 0.0]], "gave 1 vectors for 2 texts"),
        ([[1.0, 0.0, 0.0]] * 2, "3 components, expected 2"),
        ([[1.0], [1.0, 2.0]], "cannot be used"),
        ([[1.0, float("nan")]] * 2, "cannot be used: .*nan"),
        (None, "cannot be used"),
    ],
)
def test_failures(answer, message):
    with pytest.raises(EncoderError, match=message):
        LangChainEncoder(Failing(answer)).encode_document(["a", "b"])


def test_arguments():
    with pytest.raises(InvalidInput, match="HashingEncoder has no method embed_documents"):
        LangChainEncoder(HashingEncoder())
    with pytest.raises(InvalidInput, match="batch_size"):
        LangChainEncoder(Failing([]), batch_size=0)
    with pytest.raises(EncoderError, match="3 components|expected 3"):
        LangChainEncoder(core.DeterministicFakeEmbedding(size=4), dim=3).encode_query(["a"])
